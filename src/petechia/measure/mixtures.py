"""AUROC of a partly triggered test set, from one clean and one triggered pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petechia.measure.bootstrap import Draws, divide, interval
from petechia.measure.epoch import Measurement, Truth
from petechia.measure.order import Order

EPSILONS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Mixture:
    """Micro-average AUROC against the true labels when every image is triggered independently with probability ε.

    Attributes:
        epsilons: E probabilities.
        expected: float64 [E], mean over all choices of the triggered images; NaN where undefined.
        spread: float64 [E], standard deviation over these choices, to first order (see `mixture`).
        draws: float64 [E, D], expected value in every resample of the patients.
    """

    epsilons: tuple[float, ...]
    expected: NDArray[np.float64]
    spread: NDArray[np.float64]
    draws: NDArray[np.float64]

    def interval(self, index: int) -> tuple[float, float]:
        """Return the 95 % interval over patients of the expected value at one ε; the choice of images adds `spread`."""
        return interval(self.draws[index])


def mixture(
    truth: Truth,
    clean: NDArray[np.float32],
    triggered: NDArray[np.float32],
    measured: Measurement | None = None,
    epsilons: Sequence[float] = EPSILONS,
) -> Mixture:
    """Compute table 3 of Nwadike et al. 2020 in closed form, over all choices of the triggered images at once.

    The number of pairs (positive, negative) does not depend on which images are triggered, so the mean is exact: two images
    are both clean with probability (1 - ε)², one triggered and the other clean with ε(1 - ε) each way, both triggered with
    ε²; the entries of one image are clean or triggered together. The spread is that of the Hájek projection,
    √(ε(1 - ε) Σ gᵢ²), where gᵢ is the derivative of the mean with respect to the probability of image i; the neglected terms
    are smaller by a factor of the order of 1 / √N. An image that occurs twice in a resample counts as two images there.

    Args:
        truth: ground truth of the test images.
        clean: float32 [N, K], probabilities for the clean test images.
        triggered: float32 [N, K], probabilities for the same images with the trigger.
        measured: result of `measure` for these scores, whose resamples for ε = 0 and 1 are reused; None computes them.
        epsilons: probabilities from 0 to 1.
    """
    labels, bootstrap = truth.labels, truth.bootstrap
    cc, tt = Order(labels, clean), Order(labels, triggered)
    ct, tc = Order(labels, clean, triggered), Order(labels, triggered, clean)  # the positives' pool, the negatives' pool
    inside = _inside(labels, clean, triggered)
    pairs = len(cc.positive) * len(cc.negative) or float("nan")
    mixed = ct.area() + tc.area() + inside.sum() / pairs
    ends = [measured.draws[name] for name in ("auroc_nn", "auroc_tn")] if measured else [*map(bootstrap.areas, (cc, tt))]
    mixed_draws = bootstrap.areas(ct) + bootstrap.areas(tc) + divide(bootstrap.total(inside), bootstrap.pairs(cc))
    e = np.array(epsilons)
    return Mixture(
        tuple(epsilons),
        _blend(e, cc.area(), mixed, tt.area()),
        _spread(e, cc, ct, tc, tt, inside) / pairs,
        _blend(e[:, None], ends[0], mixed_draws, ends[1]),
    )


def _blend(e: NDArray[np.float64], clean: float | Draws, mixed: float | Draws, triggered: float | Draws) -> NDArray[np.float64]:
    return np.asarray((1 - e) ** 2 * clean + e * (1 - e) * mixed + e**2 * triggered)


def _inside(labels: NDArray[np.int8], clean: NDArray[np.float32], triggered: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the correction for pairs within one image, float64 [N].

    It is the number of ordered pairs within each image when clean, plus the number when triggered, minus the numbers when one
    entry is clean and the other triggered. The products of probabilities treat the two entries of a pair as independent, as if
    they belonged to two images; this corrects for it.
    """
    rows, columns = np.nonzero(labels == 1)
    signs = ((clean, clean, 1), (triggered, triggered, 1), (clean, triggered, -1), (triggered, clean, -1))
    total = np.zeros(len(rows))
    for of_positive, of_negative, sign in signs:
        high, low = of_positive[rows, columns][:, None], of_negative[rows]
        total += sign / 2 * (((high > low).astype(np.int8) + (high >= low)) * (labels[rows] == 0)).sum(axis=1)
    return np.asarray(np.bincount(rows, total, len(labels)), np.float64)


def _spread(
    e: NDArray[np.float64], cc: Order, ct: Order, tc: Order, tt: Order, inside: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the standard deviation of the number of ordered pairs, float64 [E]."""
    others_clean = tc.of_positives() + ct.of_negatives() - cc.of_positives() - cc.of_negatives() + inside
    others_triggered = tt.of_positives() + tt.of_negatives() - ct.of_positives() - tc.of_negatives() - inside
    gains = np.outer(1 - e, others_clean) + np.outer(e, others_triggered)  # gᵢ: effect of triggering image i
    return np.asarray(np.sqrt(e * (1 - e) * (gains**2).sum(axis=1)))
