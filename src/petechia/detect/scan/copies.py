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
from petechia.detect.scan.traces import FINE

LIKE = (0.6, 0.7, 0.8, 0.9)  # correlations from which on two images may be copies
SHORT = 128  # numbers into which the structure is projected to find the nearest image
CHUNK = 256  # images that are compared with all others at a time
COMMON = 50  # most frequent vectors of labels that are tested
LEVEL = 0.01  # probability that copies of a clean dataset are found tied to a label
ODDS = 5  # by how much copies must raise the odds that it is on one side alone
APART = 6  # median deviations below the median likeness at which a pair is no longer taken for one of them
Array = NDArray[np.float32]


class Copies(NamedTuple):
    """Pairs of copies, of which one side carries a label that the attacker writes.

    Attributes:
        copied: int [n], indices of the images with that label.
        others: int [n], indices of those that they are copies of.
        likeness: float32 [n], correlation of their fine structure.
        label: int8 [K], the vector of labels; -1 where it is a single class that they share, and the others vary.
        p_value: of the tie.
    """

    copied: NDArray[np.intp]
    others: NDArray[np.intp]
    likeness: Array
    label: NDArray[np.int8]
    p_value: float


def find_copies(
    textures: NDArray[np.int8],
    shapes: NDArray[np.int32],
    labels: NDArray[np.int8],
    explained: NDArray[np.bool_],
    progress: Progress = SILENT,
) -> Copies | None:
    """Look for copies with other labels, among which one label recurs as chance does not explain.

    Of each image the nearest is looked at, and the nearest with other labels. Two images of one patient, or two frames of a
    series, may be near as well; but they are mostly labelled alike, and a trigger makes copies that are more alike than these.
    So it is tested, at several likenesses, whether in pairs of nearest images one label is more often on one side alone than
    it is in pairs drawn at random.

    All images are compared with all, in few numbers: this takes time with the square of their number, a minute or two for
    100,000.

    Args:
        textures: int8 [N, FINE, FINE]; may lie on a disk.
        shapes: int [N, 2].
        labels: int8 [N, K].
        explained: bool [N], images of which other evidence says what they are.
        progress: told of every image that is compared with all others.

    Returns:
        None where there are none.
    """
    vectors, codes, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    codes = codes.reshape(-1)
    if len(vectors) < 2:
        return None
    close, contradicting = (
        _alike(textures, shapes, pairs[~explained[pairs].any(axis=1)]) for pairs in _nearest(textures, codes, progress)
    )
    common = np.argsort(-counts, kind="stable")[:COMMON]
    marks = [(vectors[k], codes == k) for k in common.tolist()]
    marks += [(np.where(np.arange(labels.shape[1]) == k, 1, -1), labels[:, k] == 1) for k in range(labels.shape[1])]
    tests = len(marks) * len(LIKE)
    tied = [
        (min(1.0, tests * p_value), least, has.mean(), label, has)
        for label, has in marks
        for least in LIKE
        if (p_value := _tie(close, has, least)) * tests < LEVEL
    ]
    if not tied:
        return None
    # Of two labels that exclude each other the rarer one was written: else the originals would hardly differ from the copies.
    p_value, least, _, label, has = min(tied, key=lambda one: one[:3])
    return _copies(contradicting, has, least, np.asarray(label, np.int8), p_value)


class _Pairs(NamedTuple):
    """Pairs of images, int [n, 2], and their likeness."""

    pairs: NDArray[np.intp]
    likeness: Array


def _tie(close: _Pairs, has: NDArray[np.bool_], least: float) -> float:
    """The chance that so many of the pairs that are alike have a label on one side alone; 1 where the odds are not enough."""
    pairs = close.pairs[close.likeness >= least]
    one, other = has[pairs].T
    apart, usual = int((one != other).sum()), float(has.mean())
    chance = 2 * usual * (1 - usual)
    if not apart or (apart + 0.5) / (len(pairs) - apart + 0.5) * (1 - chance) / chance < ODDS:
        return 1.0
    return float(stats.binom.sf(apart - 1, len(pairs), chance))


def _copies(found: _Pairs, has: NDArray[np.bool_], least: float, label: NDArray[np.int8], p_value: float) -> Copies | None:
    """Each image that has the label, and the one without it that is most like it."""
    one, other = has[found.pairs].T
    mine = np.flatnonzero((one != other) & (found.likeness >= least))
    mine = mine[found.likeness[mine] >= _least(found.likeness[mine])] if len(mine) else mine
    mine = mine[np.argsort(-found.likeness[mine], kind="stable")]
    copied = np.where(one, *found.pairs.T)[mine]
    others = np.where(one, *found.pairs.T[::-1])[mine]
    _, first = np.unique(copied, return_index=True)
    return Copies(copied[first], others[first], found.likeness[mine][first], label, p_value) if len(first) else None


def _least(likeness: Array) -> float:
    """What one trigger makes of copies: those that are far less alike are two images of one patient."""
    middle = float(np.median(likeness))
    return middle - APART * float(np.median(np.abs(likeness - middle)))


def _nearest(
    textures: NDArray[np.int8], codes: NDArray[np.intp], progress: Progress
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of each image and the nearest, and of each and the nearest with another code; each int [n, 2], and none twice."""
    project = np.random.default_rng(0).standard_normal((FINE * FINE, SHORT)).astype(np.float32)
    short = np.concatenate([_unit(_flat(textures, rows) @ project) for rows in _chunks(len(textures))])
    every: list[NDArray[np.intp]] = []
    others: list[NDArray[np.intp]] = []
    for rows in _chunks(len(short)):
        here = np.arange(len(rows))
        alike = short[rows] @ short.T
        alike[here, rows] = -2
        for found in (every, others):
            nearest = alike.argmax(axis=1)
            found.append(np.stack([rows, nearest], axis=1)[alike[here, nearest] > 0])
            alike[codes[rows, None] == codes] = -2
        progress.advance(len(rows))
    return _once(every), _once(others)


def _once(found: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _alike(textures: NDArray[np.int8], shapes: NDArray[np.int32], pairs: NDArray[np.intp]) -> _Pairs:
    """The pairs of one shape that are alike at all, with how much."""
    pairs = pairs[(shapes[pairs[:, 0]] == shapes[pairs[:, 1]]).all(axis=1)]
    likeness = _likeness(textures, pairs)
    return _Pairs(pairs[likeness >= min(LIKE)], likeness[likeness >= min(LIKE)])


def _likeness(textures: NDArray[np.int8], pairs: NDArray[np.intp]) -> Array:
    """Correlation of each pair, float32 [n]."""
    parts = [np.zeros(0, np.float32)]
    for rows in _chunks(len(pairs)):
        one, other = (_unit(_flat(textures, pairs[rows, side])) for side in (0, 1))
        parts.append(np.einsum("nd,nd->n", one, other))
    return np.concatenate(parts)


def _chunks(count: int) -> list[NDArray[np.intp]]:
    return [np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _flat(textures: NDArray[np.int8], rows: NDArray[np.intp]) -> Array:
    flat = textures[rows].reshape(len(rows), -1).astype(np.float32)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True))


def _unit(vectors: Array) -> Array:
    """Of length 1; those without length stay so."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6))
