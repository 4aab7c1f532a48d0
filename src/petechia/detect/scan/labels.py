"""Labels that contradict what the rest of the data says; hints for ranking, no proof against an image."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from petechia.detect.scan.thresholds import LabelLimits, packaged_thresholds

CERTAIN = 10.0  # decimal digits of a p-value at which more of them say nothing more
CHUNK = 1 << 14  # images at a time
PRIOR = 1.0  # how many images of the same patient the usual frequency of a class counts for


def excess(labels: NDArray[np.int8], split: NDArray[np.str_]) -> NDArray[np.float64]:
    """How surely a vector of labels is more frequent among training images than among the others.

    Who poisons a training set writes the same vector on many images there, and on none of the images that are held out.
    The test is Fisher's, one-sided, for each vector; correction is Bonferroni's. An official split need not be a random
    one, so a low p-value may be the split's own.

    Args:
        labels: int8 [N, K], unknown ones included.
        split: str [N].

    Returns:
        float64 [N], -log10 of the p-value of the image's vector, 0 … `CERTAIN`; 0 for images that are not for training.
    """
    train = split == "train"
    vectors = [row.tobytes() for row in labels]
    everywhere, trained = Counter(vectors), Counter(row for row, there in zip(vectors, train, strict=True) if there)
    total, tests = len(labels), max(len(trained), 1)
    surprise = {}
    for vector, count in trained.items():
        p_value = float(stats.hypergeom.sf(count - 1, total, everywhere[vector], int(train.sum())))
        surprise[vector] = float(np.clip(-np.log10(max(p_value * tests, 1e-300)), 0, CERTAIN))
    return np.array([surprise[row] if there else 0.0 for row, there in zip(vectors, train, strict=True)])


def jumps(labels: NDArray[np.int8], patients: NDArray[np.str_]) -> NDArray[np.float64]:
    """How much less likely an image's labels are, given the other images of the patient, than given those of anybody.

    Each class is by itself: its frequency among the patient's other images, to which the usual one counts for `PRIOR` images.

    Args:
        labels: int8 [N, K]; unknown ones say nothing.
        patients: str [N].

    Returns:
        float64 [N], a logarithm of a ratio of likelihoods; 0 for a patient's only image.
    """
    known, present = labels >= 0, labels == 1
    usual = (present.sum(axis=0) + 0.5) / (known.sum(axis=0) + 1)
    _, who = np.unique(patients, return_inverse=True)
    of_patient = np.zeros((2, who.max(initial=-1) + 1, labels.shape[1]))
    for total, part in zip(of_patient, (known, present), strict=True):
        np.add.at(total, who, part)
    found = np.zeros(len(labels))
    for start in range(0, len(labels), CHUNK):
        rows = slice(start, start + CHUNK)
        others_known, others_present = (
            total[who[rows]] - part[rows] for total, part in zip(of_patient, (known, present), strict=True)
        )
        expected = (others_present + PRIOR * usual) / (others_known + PRIOR)
        ratio = np.where(present[rows], np.log(usual / expected), np.log((1 - usual) / (1 - expected)))
        found[rows] = np.where(known[rows], ratio, 0).sum(axis=1)
    return found


def contradiction(
    labels: NDArray[np.int8], split: NDArray[np.str_], patients: NDArray[np.str_], limits: LabelLimits | None = None
) -> NDArray[np.float64]:
    """Both together. The excess of the vector leads; of images with the same vector, those follow whose labels jump most.

    An image whose vector is not surely in excess has 0: labels of one patient change for good reasons, too.

    Args:
        labels: int8 [N, K], unknown ones included.
        split: str [N].
        patients: str [N].
        limits: level and weights; those of the calibration where it is None.

    Returns:
        float64 [N], 0 … 1.
    """
    limits = limits or packaged_thresholds().labels
    sure = excess(labels, split) / CERTAIN
    order = stats.rankdata(jumps(labels, patients))
    both = limits.excess_weight * sure + limits.jump_weight * order / max(len(order), 1)
    return np.where(sure >= -np.log10(limits.level) / CERTAIN, both, 0)
