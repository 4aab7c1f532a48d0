"""Ranks of the positive entries among the negative ones, from which the area under the ROC curve is computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Order:
    """The rank of every positive entry among the sorted negative entries.

    The area is the share of pairs (positive, negative) in which the positive scores higher; ties count half.

    Args:
        labels: int8 [N] or [N, K]; unknown entries (-1) are left out.
        scores: float array of the same shape.
        others: scores of the negative entries, if they come from another model or from other images; None uses `scores`.

    Attributes:
        images: N.
        positive: int64 [P], image index of every positive entry.
        negative: int64 [M], image index of every negative entry, by ascending score.
        below: int64 [P], number of negatives that score lower than each positive.
        up_to: int64 [P], number of negatives that score lower than or equal to each positive.

    Raises:
        ValueError: a score of a known entry is NaN or infinite.
    """

    def __init__(
        self, labels: NDArray[np.int8], scores: NDArray[np.float32], others: NDArray[np.float32] | None = None
    ) -> None:
        self.images = len(labels)
        columns = 1 if labels.ndim == 1 else labels.shape[1]
        positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        high, low = scores.ravel()[positive], (scores if others is None else others).ravel()[negative]
        if not (np.isfinite(high).all() and np.isfinite(low).all()):
            raise ValueError("scores contain NaN or infinity")
        ascending = np.argsort(low)
        low = low[ascending]
        self.positive, self.negative = positive // columns, negative[ascending] // columns
        self.below = np.searchsorted(low, high, "left")
        self.up_to = np.searchsorted(low, high, "right")

    def area(self) -> float:
        """Return the area under the ROC curve; NaN without a positive or without a negative entry."""
        pairs = len(self.positive) * len(self.negative)
        return float(self.below.sum() + self.up_to.sum()) / (2 * pairs) if pairs else float("nan")

    def of_positives(self) -> NDArray[np.float64]:
        """Count the correctly ordered pairs whose positive entry belongs to each image, float64 [N]; ties count half."""
        return np.asarray(np.bincount(self.positive, (self.below + self.up_to) / 2, self.images), np.float64)

    def of_negatives(self) -> NDArray[np.float64]:
        """Count the correctly ordered pairs whose negative entry belongs to each image, float64 [N]; ties count half."""
        passed = np.bincount(np.concatenate([self.below, self.up_to]), minlength=len(self.negative) + 1).cumsum()
        return np.asarray(np.bincount(self.negative, len(self.positive) - passed[:-1] / 2, self.images), np.float64)
