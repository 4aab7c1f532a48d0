"""Labels that the images do not bear out: findings that were written into a table without touching an image. It only ranks.

For each class, a linear model is fitted to what the scan keeps of every image, and scores the images that it was not fitted on
(as confident learning does, Northcutt et al. 2021, arXiv:1911.00068). The scores of the images that are labelled with the class
are a mixture: of those that show it, and of some that score as the images without it do. How many the latter are is estimated,
and from it the odds that a label is wrong. Of a class that cannot be told from the others in this way, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lu_factor, lu_solve

from petechia.core.progress import SILENT, Progress
from petechia.detect.scan.reading import RowsOf
from petechia.detect.scan.thresholds import LabelLimits, packaged_thresholds
from petechia.detect.scan.traces import FINE, GRID

FOLDS = 5  # of the patients; a model scores the one that it was not fitted on
ROUNDS = 2  # in the second, labels that seem wrong count as absent
PENALTY = 300.0  # of the ridge regression, in images
FEWEST = 50  # images with a class, and without it, of which something can be said
STEPS = 40  # of the estimate of the mixture
BINS, BLUR = 200, 2.0  # of the histogram of the scores of images without a class, and by how many bins it is smoothed
SURE = 20.0  # the largest log odds
CHUNK = 1 << 12  # images in memory at a time
Array = NDArray[np.float64]
Factor = tuple[Array, NDArray[np.int32]]  # a matrix as `scipy.linalg.lu_factor` gives it


class Doubts(NamedTuple):
    """How sure it is that an image has a label that is wrong.

    Attributes:
        odds: float64 [N], log odds that the most doubtful of its labels is wrong, -`SURE` … `SURE`; -`SURE` where none can be
            doubted.
        label: int [N], position of that class.
    """

    odds: Array
    label: NDArray[np.intp]

    @property
    def strength(self) -> Array:
        """Float64 [N], 0 … 1, in the same order."""
        return np.asarray((self.odds + SURE) / (2 * SURE))


def doubtful_labels(
    blocks: RowsOf,
    textures: RowsOf,
    labels: NDArray[np.int8],
    patients: NDArray[np.str_],
    usable: NDArray[np.bool_],
    progress: Progress = SILENT,
    limits: LabelLimits | None = None,
) -> Doubts:
    """Find labels of present findings that the images do not bear out. Time grows with the number of images; memory does not.

    Args:
        blocks: float32 [N, GRID, GRID], see `Trace`.
        textures: int8 [N, FINE, FINE].
        labels: int8 [N, K]; unknown ones say nothing.
        patients: str [N]; all images of one are in one fold.
        usable: bool [N], images that were read.
        progress: gets the phase "comparing labels with images".
        limits: those of the calibration where it is None.
    """
    limits = limits or packaged_thresholds().labels
    found = Doubts(np.full(len(labels), -SURE), np.zeros(len(labels), np.intp))
    judged = [k for k in range(labels.shape[1]) if _is_enough(labels[usable, k])]
    if not judged:
        return found
    known = labels[:, judged]
    believed = np.where(known >= 0, known, np.nanmean(np.where(known >= 0, known, np.nan), axis=0)).astype(np.float32)
    _, number = np.unique(patients, return_inverse=True)
    fold = np.where(usable, number % FOLDS, -1)
    progress.phase("comparing labels with images", (1 + 2 * ROUNDS) * len(labels))
    factors = _factors(blocks, textures, fold, progress)
    odds = np.zeros(0)
    for _ in range(ROUNDS):
        scores = _scores(blocks, textures, believed, fold, factors, progress)
        odds = np.stack([_odds(scores[:, j], known[:, j], usable, limits.separation) for j in range(len(judged))], axis=1)
        believed = np.where(odds > 0, np.float32(0), believed)
    worst = odds.argmax(axis=1)
    return Doubts(odds[np.arange(len(odds)), worst], np.array(judged, np.intp)[worst])


def _is_enough(labels: NDArray[np.int8]) -> bool:
    return min(int((labels == value).sum()) for value in (0, 1)) >= FEWEST


def _factors(blocks: RowsOf, textures: RowsOf, fold: NDArray[np.intp], progress: Progress) -> list[Factor]:
    """For each fold, what a ridge regression on the images of the others needs of them, whatever the labels are."""
    size = len(_features(blocks, textures, np.arange(1))[0])
    grams = np.zeros((FOLDS, size, size))
    for rows, features in _parts(blocks, textures, progress):
        for one in range(FOLDS):
            mine = features[fold[rows] == one]
            grams[one] += mine.T @ mine
    total = grams.sum(axis=0)
    return [lu_factor(_penalised(total - gram)) for gram in grams]


def _penalised(gram: Array) -> Array:
    """As if all features had spread 1; the last one is constant, and not penalised."""
    images = max(gram[-1, -1], 1.0)
    variance = np.maximum(np.diag(gram) / images - (gram[-1] / images) ** 2, 1e-9)
    variance[-1] = 1e-9
    return np.asarray(gram + PENALTY * np.diag(variance))


def _scores(
    blocks: RowsOf,
    textures: RowsOf,
    targets: NDArray[np.float32],
    fold: NDArray[np.intp],
    factors: list[Factor],
    progress: Progress,
) -> NDArray[np.float32]:
    """Of each image and class, float32 [N, K], by the model that was fitted on the other folds."""
    products = np.zeros((FOLDS, len(factors[0][0]), targets.shape[1]))
    for rows, features in _parts(blocks, textures, progress):
        for one in range(FOLDS):
            mine = fold[rows] == one
            products[one] += features[mine].T @ targets[rows[mine]]
    total = products.sum(axis=0)
    weights = [lu_solve(factors[one], total - products[one]).astype(np.float32) for one in range(FOLDS)]
    scores = np.zeros(targets.shape, np.float32)
    for rows, features in _parts(blocks, textures, progress):
        for one in range(FOLDS):
            mine = fold[rows] == one
            scores[rows[mine]] = features[mine] @ weights[one]
    return scores


def _parts(blocks: RowsOf, textures: RowsOf, progress: Progress) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    for start in range(0, len(blocks), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(blocks)))
        yield rows, _features(blocks, textures, rows)
        progress.advance(len(rows))


def _features(blocks: RowsOf, textures: RowsOf, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Coarse brightness, how far the sides of the body differ, how much fine structure is where, and 1; float32 [n, D]."""
    coarse = blocks[rows].astype(np.float32)
    coarse -= coarse.mean(axis=(1, 2), keepdims=True)
    coarse /= coarse.std(axis=(1, 2), keepdims=True) + np.float32(1e-6)
    sides = np.abs(coarse - coarse[:, :, ::-1])[:, :, : GRID // 2]
    part = FINE // GRID
    fine = np.abs(textures[rows].astype(np.float32) / 127).reshape(len(rows), GRID, part, GRID, part).mean(axis=(2, 4))
    flat = [values.reshape(len(rows), -1) for values in (coarse, sides, fine)]
    return np.concatenate([*flat, np.ones((len(rows), 1), np.float32)], axis=1)


def _odds(scores: NDArray[np.float32], labels: NDArray[np.int8], usable: NDArray[np.bool_], separation: float) -> Array:
    """Log odds that a label of a present finding is wrong, float64 [N]; -`SURE` of all others, and of all if too few differ."""
    odds = np.full(len(labels), -SURE)
    present, absent = usable & (labels == 1), usable & (labels == 0)
    mine, others = scores[present].astype(float), scores[absent].astype(float)
    middle, spread = others.mean(), others.std()
    if not spread:
        return odds
    without = _density(others, mine)
    centre, width, wrong = max(float(np.quantile(mine, 0.75)), middle + spread), spread, 0.3
    for _ in range(STEPS):
        share = _share(wrong * without, (1 - wrong) * _normal(mine, centre, width))
        wrong, right = min(float(share.mean()), 0.95), 1 - share
        centre = max(float((right * mine).sum() / right.sum()), middle + spread)
        width = float(np.clip(np.sqrt((right * (mine - centre) ** 2).sum() / right.sum()), 0.7 * spread, 3 * spread))
    if centre - middle < separation * spread:
        return odds
    against, for_it = wrong * without, (1 - wrong) * _normal(mine, centre, width)
    found = np.log(against + 1e-300) - np.log(for_it + 1e-300)
    odds[present] = np.where(mine > centre, -SURE, found).clip(-SURE, SURE)
    return odds


def _share(part: Array, rest: Array) -> Array:
    return np.asarray((part + 1e-300) / (part + rest + 2e-300))


def _normal(values: Array, centre: float, width: float) -> Array:
    return np.asarray(np.exp(-0.5 * ((values - centre) / width) ** 2) / (width * np.sqrt(2 * np.pi)))


def _density(sample: Array, at: Array) -> Array:
    """The density of a sample at some values, by a smoothed histogram."""
    low, high = min(sample.min(), at.min()), max(sample.max(), at.max())
    counts, _ = np.histogram(sample, BINS, (low, high))
    steps = np.arange(-3 * BLUR, 3 * BLUR + 1)
    kernel = np.exp(-0.5 * (steps / BLUR) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), "same") / len(sample) * BINS / (high - low)
    where = ((at - low) / (high - low) * BINS).astype(int).clip(0, BINS - 1)
    return np.asarray(smooth[where] + 1e-6 / (high - low))
