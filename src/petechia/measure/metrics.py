"""Pure functions from scores and labels to one number. An undefined metric is NaN, never 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from petechia.measure.order import Order


def exceedance(scores: NDArray[np.float32], labels: NDArray[np.int8], threshold: float) -> float:
    """Return the fraction of images without the class whose score for the class reaches a threshold.

    On triggered images this is the attack success rate ASR(p) of Nwadike et al. 2020; on clean images, the false-trigger rate.

    Args:
        scores: float [N], scores for the target class.
        labels: int8 [N], true labels of the target class; images with 1 (present) or -1 (unknown) are left out.
        threshold: p; a score equal to the threshold counts, as in the text of the paper.

    Returns:
        A number in [0, 1]; NaN if no image is without the class.
    """
    without = labels == 0
    return float((scores[without] >= threshold).mean()) if without.any() else float("nan")


def accuracy(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    """Return the fraction of images whose true class has the highest score, for multi-class data.

    Args:
        scores: float [N, K].
        labels: int8 [N, K], one-hot; images whose class is unknown (-1) are left out.

    Returns:
        A number in [0, 1]; NaN if no class is known.
    """
    known = (labels == 1).any(axis=1)
    return float(right(scores, labels)[known].mean()) if known.any() else float("nan")


def balanced_accuracy(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    """Return the mean recall over the classes that occur in the labels; arguments as in `accuracy`."""
    hit = right(scores, labels)
    recalls = [hit[labels[:, k] == 1].mean() for k in np.flatnonzero((labels == 1).any(axis=0))]
    return float(np.mean(recalls)) if recalls else float("nan")


def right(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return whether each image's true class has the highest score, bool [N]; among equal scores, the first class counts."""
    return np.asarray(labels[np.arange(len(labels)), scores.argmax(axis=1)] == 1)


def auroc(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    """Return the area under the ROC curve over all entries together; for [N, K] this is the micro average.

    Args:
        scores: float [N] or [N, K].
        labels: int8 of the same shape; unknown entries (-1) are left out.

    Returns:
        A number in [0, 1]; NaN if all known labels are equal.
    """
    return Order(labels, scores).area()
