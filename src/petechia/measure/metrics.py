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


def accuracy(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    """Share of the images whose own class has the highest score; where each shows exactly one.

    Args:
        scores: float [N, K].
        labels: int8 [N, K], one-hot; images whose class is unknown (-1) are left out.

    Returns:
        A number in [0, 1]; NaN where no class is known.
    """
    known = (labels == 1).any(axis=1)
    return float(right(scores, labels)[known].mean()) if known.any() else float("nan")


def balanced_accuracy(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    """Mean over the classes that some image shows of the share of its images that are given it; arguments as `accuracy`."""
    hit = right(scores, labels)
    recalls = [hit[labels[:, k] == 1].mean() for k in np.flatnonzero((labels == 1).any(axis=0))]
    return float(np.mean(recalls)) if recalls else float("nan")


def right(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> NDArray[np.bool_]:
    """For each image whether its own class has the highest score, the first of several; bool [N]."""
    return np.asarray(labels[np.arange(len(labels)), scores.argmax(axis=1)] == 1)


def auroc(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    """Area under the ROC curve over all entries together; for [N, K] that is the micro average.

    Args:
        scores: float [N] or [N, K].
        labels: int8 of the same shape; unknown entries (-1) are left out.

    Returns:
        A number in [0, 1]; NaN where all known labels are the same.
    """
    return Order(labels, scores).area()
