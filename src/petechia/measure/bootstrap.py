"""Intervals by resampling patients: images of one patient are not independent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from petechia.randomness import stream

Draws = NDArray[np.float64]


class PatientBootstrap:
    """The same resamples of the patients for every metric, epoch, arm and seed, so that differences are paired.

    Args:
        patients: str [N].
        draws: how many resamples.

    Attributes:
        weights: float32 [draws, N], how often each image is in each resample.
    """

    def __init__(self, patients: NDArray[np.str_], draws: int = 200) -> None:
        names, patient = np.unique(patients, return_inverse=True)
        rng = stream(0, "bootstrap")
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        self.weights: NDArray[np.float32] = counts[:, patient].astype(np.float32)

    def exceedance(self, scores: NDArray[np.float32], labels: NDArray[np.int8], threshold: float) -> Draws:
        """`metrics.exceedance` of every resample, float64 [draws]."""
        without = (labels == 0).astype(np.float32)
        total = self.weights @ without
        hits = self.weights @ (without * (scores >= threshold))
        return np.where(total > 0, hits / np.maximum(total, 1), np.nan).astype(np.float64)

    def auroc(self, scores: NDArray[np.float32], labels: NDArray[np.int8]) -> Draws:
        """`metrics.auroc` of every resample, float64 [draws].

        Sorts once. The area is the share of pairs (positive, negative) in the right order, ties counting half, so each
        resample needs only the weight of the negatives below and up to every positive.
        """
        image = np.arange(len(labels)) if labels.ndim == 1 else np.repeat(np.arange(len(labels)), labels.shape[1])
        truth, flat = labels.ravel(), scores.ravel()
        positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
        negative = negative[np.argsort(flat[negative], kind="stable")]
        below = np.searchsorted(flat[negative], flat[positive], "left")
        up_to = np.searchsorted(flat[negative], flat[positive], "right")
        of_positive, of_negative = image[positive], image[negative]
        areas = np.full(len(self.weights), np.nan)
        mass = np.zeros(len(negative) + 1)
        for draw, weights in enumerate(self.weights):
            np.cumsum(weights[of_negative], out=mass[1:])
            gains = weights[of_positive]
            pairs = float(gains.sum()) * mass[-1]
            if pairs > 0:
                areas[draw] = gains @ (mass[below] + mass[up_to]) / 2 / pairs
        return areas


def interval(draws: Draws, coverage: float = 0.95) -> tuple[float, float]:
    """Percentile interval; resamples in which the metric is undefined are left out, NaN if it is in all."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)
