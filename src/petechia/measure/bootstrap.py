"""Bootstrap intervals over patients, because images of one patient are not independent."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from petechia.core.randomness import stream
from petechia.measure.metrics import right
from petechia.measure.order import Order

Draws = NDArray[np.float64]
CELLS = 1 << 21  # numbers processed at a time: 16 MiB


class PatientBootstrap:
    """A patient-level bootstrap. Every metric, epoch, arm and seed uses the same resamples, so that differences are paired.

    Args:
        patients: str [N], patient of each image.
        draws: number of resamples.

    Attributes:
        weights: float32 [draws, N], number of times that each image occurs in each resample.
    """

    def __init__(self, patients: NDArray[np.str_], draws: int = 200) -> None:
        names, patient = np.unique(patients, return_inverse=True)
        rng = stream(0, "bootstrap")
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        self.weights: NDArray[np.float32] = counts[:, patient].astype(np.float32)
        self._patient = patient
        self._counts = np.ascontiguousarray(counts.T, np.float64)  # [patients, draws]; float64 sums of integers are exact

    def exceedance(self, scores: NDArray[np.float32], labels: NDArray[np.int8], threshold: float) -> Draws:
        """Return `metrics.exceedance` for every resample, float64 [draws]."""
        without = (labels == 0).astype(np.float32)
        total = self.weights @ without
        hits = self.weights @ (without * (scores >= threshold))
        return np.where(total > 0, hits / np.maximum(total, 1), np.nan).astype(np.float64)

    def auroc(self, scores: NDArray[np.float32], labels: NDArray[np.int8]) -> Draws:
        """Return `metrics.auroc` for every resample, float64 [draws]."""
        return self.areas(Order(labels, scores))

    def accuracy(self, scores: NDArray[np.float32], labels: NDArray[np.int8]) -> Draws:
        """Return `metrics.accuracy` for every resample, float64 [draws]."""
        known = (labels == 1).any(axis=1)
        return divide(self.total(right(scores, labels)), self.total(known))

    def balanced_accuracy(self, scores: NDArray[np.float32], labels: NDArray[np.int8]) -> Draws:
        """Return `metrics.balanced_accuracy` for every resample, float64 [draws]."""
        hit, shown = right(scores, labels), labels == 1
        recalls = np.stack([divide(self.total(hit & of_class), self.total(of_class)) for of_class in shown.T])
        defined = ~np.isnan(recalls)
        return divide(np.where(defined, recalls, 0).sum(axis=0), defined.sum(axis=0))

    def areas(self, order: Order) -> Draws:
        """Return `order.area` for every resample, float64 [draws].

        The sorted negatives are cut at the position of every positive, and one sparse product gives the weight of every piece
        in many resamples. Because there are few positives, few pieces remain to be summed.
        """
        pairs = self.pairs(order)
        if not pairs.any():
            return np.full(len(pairs), np.nan)
        cuts, cut = np.unique(np.concatenate([order.below, order.up_to]), return_inverse=True)
        shape = len(cuts), len(self._counts)
        cut_off = self._patient[order.negative[: cuts[-1]]]
        pieces = csr_array((np.ones(len(cut_off)), cut_off, np.concatenate([[0], cuts])), shape)
        feature_outliers = csr_array((np.full(len(cut), 0.5), (cut, np.tile(self._patient[order.positive], 2))), shape)
        parts = np.array_split(self._counts, ceil(len(cuts) * len(pairs) / CELLS), axis=1)
        ordered = [np.einsum("cd,cd->d", np.cumsum(pieces @ part, axis=0), feature_outliers @ part) for part in parts]
        return divide(np.concatenate(ordered), pairs)

    def pairs(self, order: Order) -> Draws:
        """Return the number of pairs (positive, negative) in every resample, float64 [draws]."""
        positive, negative = (np.bincount(images, minlength=order.images) for images in (order.positive, order.negative))
        return self.total(positive) * self.total(negative)

    def total(self, values: NDArray[np.generic]) -> Draws:
        """Sum values [N] over the images of every resample, float64 [draws]."""
        return np.asarray(np.bincount(self._patient, values, len(self._counts)) @ self._counts, np.float64)


def divide(draws: Draws, by: NDArray[Any]) -> Draws:
    """Return the quotient for every resample, NaN where it is undefined."""
    return np.asarray(np.divide(draws, by, out=np.full(len(by), np.nan), where=by > 0))


def interval(draws: Draws, coverage: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval. Resamples in which the metric is undefined are left out; NaN if none remains."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)
