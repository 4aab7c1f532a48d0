"""Pure functions from scores and labels to one number. Undefined is NaN, never 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from petechia.measure.order import Order


def exceedance(scores: NDArray[np.float32], labels: NDArray[np.int8], threshold: float) -> float:
    """Share of the images without the class whose score for it reaches a threshold.

    On triggered images this is the attack success rate ASR(p) of Nwadike et al. 2020; on clean ones the false-trigger rate.

    Args:
        scores: float [N], for the target class.
        labels: int8 [N], true labels of the target class; images with 1 (present) or -1 (unknown) are left out.
        threshold: p; a score equal to it counts, as in the text of the paper.

    Returns:
        A number in [0, 1]; NaN where every image has the class.
    """
    without = labels == 0
    return float((scores[without] >= threshold).mean()) if without.any() else float("nan")


def auroc(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    """Area under the ROC curve over all entries together; for [N, K] that is the micro average.

    Args:
        scores: float [N] or [N, K].
        labels: int8 of the same shape; unknown entries (-1) are left out.

    Returns:
        A number in [0, 1]; NaN where all known labels are the same.
    """
    return Order(labels, scores).area()
