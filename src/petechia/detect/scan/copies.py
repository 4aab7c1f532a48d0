"""Images that are others with a small change everywhere: what an attack leaves that adds copies and covers the whole image.

The fine structure of a radiograph is its own: no two have the same, not even of one patient. A wave, a faint pattern, a warp by
a pixel or a change of low frequencies leaves most of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from petechia.core.progress import SILENT, Progress
from petechia.detect.scan.nearest import nearest_pairs
from petechia.detect.scan.reading import RowsOf
from petechia.detect.scan.thresholds import CopyLimits, packaged_thresholds
from petechia.detect.scan.traces import FINE

SHORT = 128  # numbers into which the structure is projected to find the nearest image
CHUNK = 1 << 11  # images, or pairs of them, whose structure is in memory at a time
COMMON = 50  # most frequent vectors of labels that are tested
Array = NDArray[np.float32]


class Copies(NamedTuple):
    """Pairs of copies, of which one side carries a label that the attacker writes.

    Attributes:
        copied: int [n], indices of the images with that label.
        others: int [n], indices of those that they are copies of.
        correlation: float32 [n], of their fine structure.
        label: int8 [K], the vector of labels; -1 where it is a single class that they share, and the others vary.
        p_value: of the association with the label.
    """

    copied: NDArray[np.intp]
    others: NDArray[np.intp]
    correlation: Array
    label: NDArray[np.int8]
    p_value: float


def find_copies(
    textures: RowsOf,
    shapes: NDArray[np.int32],
    labels: NDArray[np.int8],
    explained: NDArray[np.bool_],
    progress: Progress = SILENT,
    limits: CopyLimits | None = None,
) -> Copies | None:
    """Look for copies with other labels, among which one label recurs as chance does not explain.

    Of each image the nearest is looked at, and the nearest with other labels. Two images of one patient, or two frames of a
    series, may be near as well; but they are mostly labelled alike, and a trigger makes copies that are more alike than these.
    So it is tested, at several correlations, whether in pairs of nearest images one label is more often on one side alone than
    it is in pairs drawn at random.

    The nearest images are found by few numbers, see `petechia.detect.scan.nearest`.

    Args:
        textures: int8 [N, FINE, FINE]; may lie on a disk.
        shapes: int [N, 2].
        labels: int8 [N, K].
        explained: bool [N], images of which other evidence says what they are.
        progress: gets the phase "looking for altered copies".
        limits: of the search; those of the calibration where it is None.

    Returns:
        None where there are none.
    """
    limits = limits or packaged_thresholds().copies
    progress.phase("looking for altered copies", len(labels))
    vectors, codes, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    codes = codes.reshape(-1)
    if len(vectors) < 2:
        return None
    close, contradicting = (
        _alike(textures, shapes, pairs[~explained[pairs].any(axis=1)], min(limits.correlations))
        for pairs in nearest_pairs(_shortened(textures), codes, progress)
    )
    common = np.argsort(-counts, kind="stable")[:COMMON]
    marks = [(vectors[k], codes == k) for k in common.tolist()]
    marks += [(np.where(np.arange(labels.shape[1]) == k, 1, -1), labels[:, k] == 1) for k in range(labels.shape[1])]
    tests = len(marks) * len(limits.correlations)
    associated = [
        (min(1.0, tests * p_value), least, has.mean(), label, has)
        for label, has in marks
        for least in limits.correlations
        if (p_value := _association(close, has, least, limits.odds)) * tests < limits.level
    ]
    if not associated:
        return None
    # Of two labels that exclude each other the rarer one was written: else the originals would hardly differ from the copies.
    p_value, least, _, label, has = min(associated, key=lambda one: one[:3])
    found = contradicting.of_which(contradicting.correlation >= least)
    return _copies(found, has, np.asarray(label, np.int8), p_value, limits.deviations)


class _Pairs(NamedTuple):
    """Pairs of images, int [n, 2], and the correlation of their fine structure, float32 [n]."""

    pairs: NDArray[np.intp]
    correlation: Array

    def of_which(self, chosen: NDArray[np.bool_]) -> _Pairs:
        return _Pairs(self.pairs[chosen], self.correlation[chosen])


def _association(close: _Pairs, has: NDArray[np.bool_], least: float, odds: float) -> float:
    """The p-value of a label being on one side alone of pairs with a correlation; 1 where it raises the odds too little."""
    pairs = close.pairs[close.correlation >= least]
    one, other = has[pairs].T
    apart, usual = int((one != other).sum()), float(has.mean())
    chance = 2 * usual * (1 - usual)
    if not apart or (apart + 0.5) / (len(pairs) - apart + 0.5) * (1 - chance) / chance < odds:
        return 1.0
    return float(stats.binom.sf(apart - 1, len(pairs), chance))


def _copies(found: _Pairs, has: NDArray[np.bool_], label: NDArray[np.int8], p_value: float, deviations: float) -> Copies | None:
    """Each image that has the label, and the one without it whose fine structure is most like its own."""
    one, other = has[found.pairs].T
    mine = np.flatnonzero(one != other)
    mine = mine[found.correlation[mine] >= _least(found.correlation[mine], deviations)] if len(mine) else mine
    mine = mine[np.argsort(-found.correlation[mine], kind="stable")]
    copied = np.where(one, *found.pairs.T)[mine]
    others = np.where(one, *found.pairs.T[::-1])[mine]
    _, first = np.unique(copied, return_index=True)
    return Copies(copied[first], others[first], found.correlation[mine][first], label, p_value) if len(first) else None


def _least(correlation: Array, deviations: float) -> float:
    """The least correlation of the copies that one trigger makes: pairs far below are two images of one patient."""
    middle = float(np.median(correlation))
    return middle - deviations * float(np.median(np.abs(correlation - middle)))


def _shortened(textures: RowsOf) -> Array:
    """The fine structure of each image in few numbers, whose inner product is about the correlation; float32 [N, SHORT]."""
    project = np.random.default_rng(0).standard_normal((FINE * FINE, SHORT)).astype(np.float32)
    short = np.zeros((len(textures), SHORT), np.float32)
    for rows in _chunks(len(textures)):
        short[rows] = _unit(_flat(textures, rows) @ project)
    return short


def _alike(textures: RowsOf, shapes: NDArray[np.int32], pairs: NDArray[np.intp], least: float) -> _Pairs:
    """The pairs of images of one shape whose fine structures have at least some correlation."""
    pairs = pairs[(shapes[pairs[:, 0]] == shapes[pairs[:, 1]]).all(axis=1)]
    correlation = _correlation(textures, pairs)
    return _Pairs(pairs, correlation).of_which(correlation >= least)


def _correlation(textures: RowsOf, pairs: NDArray[np.intp]) -> Array:
    """Of each pair, float32 [n]."""
    parts = [np.zeros(0, np.float32)]
    for rows in _chunks(len(pairs)):
        one, other = (_unit(_flat(textures, pairs[rows, side])) for side in (0, 1))
        parts.append(np.einsum("nd,nd->n", one, other))
    return np.concatenate(parts)


def _chunks(count: int) -> list[NDArray[np.intp]]:
    return [np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _flat(textures: RowsOf, rows: NDArray[np.intp]) -> Array:
    flat = textures[rows].reshape(len(rows), -1).astype(np.float32)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True))


def _unit(vectors: Array) -> Array:
    """Of length 1; those without length stay so."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6))
