"""Images that are others with a small change everywhere: what an attack leaves that adds copies and covers the whole image.

The fine structure of a radiograph is its own: no two have the same, not even of one patient. A wave, a faint pattern, a warp by
a pixel or a change of low frequencies leaves most of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import uniform_filter

GRID = 64  # blocks a side
STEEP = 6.0  # grey levels from its surroundings at which a block's difference is cut: edges are alike in all radiographs
LIKE = 0.6  # correlation from which on two images are copies
SHORT = 128  # numbers into which the structure is projected to find the nearest image
CHUNK = 256  # images that are compared with all others at a time
COMMON = 50  # most frequent vectors of labels that are tested
LEVEL = 0.01  # probability that copies of a clean dataset are found tied to a label
ODDS = 5  # by how much copies must raise the odds of it
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


def texture(image: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The fine structure of an image, uint8 [H, W]: what sets each block off from its neighbours, int8 [GRID, GRID].

    Of an image with fewer pixels a side than `GRID` it is 0.
    """
    height, width = (side // GRID for side in image.shape)
    if not height or not width:
        return np.zeros((GRID, GRID), np.int8)
    cut = image[: height * GRID, : width * GRID].reshape(GRID, height, GRID, width)
    columns = cut.sum(axis=1, dtype=np.uint16 if height <= 256 else np.uint32)  # the narrow type is ten times faster
    blocks = columns.sum(axis=2, dtype=np.uint32) / np.float32(height * width)
    apart = np.clip(blocks - uniform_filter(blocks, 3, mode="nearest"), -STEEP, STEEP)
    return np.asarray((apart * (127 / STEEP)).round(), np.int8)


def find_copies(
    textures: NDArray[np.int8],
    shapes: NDArray[np.int32],
    labels: NDArray[np.int8],
    explained: NDArray[np.bool_],
    done: Callable[[int], None] = lambda _: None,
) -> Copies | None:
    """Look for copies with other labels, among which one label recurs as chance does not explain.

    Of each image the nearest with other labels is looked at. All are compared with all, in few numbers: this takes time with
    the square of their number, about half a minute for 100,000.

    Args:
        textures: int8 [N, GRID, GRID]; may lie on a disk.
        shapes: int [N, 2].
        labels: int8 [N, K].
        explained: bool [N], images of which other evidence says what they are.
        done: told how many more images are compared with all others.

    Returns:
        None where there are none.
    """
    vectors, codes, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    codes = codes.reshape(-1)
    if len(vectors) < 2:
        return None
    pairs = _nearest(textures, codes, done)
    likeness = _likeness(textures, pairs)
    close = (likeness >= LIKE) & (shapes[pairs[:, 0]] == shapes[pairs[:, 1]]).all(axis=1) & ~explained[pairs].any(axis=1)
    pairs, likeness = pairs[close], likeness[close]
    differ = 1 - float(((counts / len(labels)) ** 2).sum())
    common = np.argsort(-counts, kind="stable")[:COMMON]
    marks = [(vectors[k], codes == k) for k in common.tolist()]
    marks += [(np.where(np.arange(labels.shape[1]) == k, 1, -1), labels[:, k] == 1) for k in range(labels.shape[1])]
    found = [_tied(pairs, likeness, np.asarray(label, np.int8), has, differ, len(marks)) for label, has in marks]
    return min((one for one in found if one), key=lambda one: (one.p_value, -len(one.copied)), default=None)


def _tied(
    pairs: NDArray[np.intp], likeness: Array, label: NDArray[np.int8], has: NDArray[np.bool_], differ: float, tests: int
) -> Copies | None:
    """The pairs in which one image has a label and the other has not, if they are more than chance allows."""
    one, other = has[pairs].T
    mine = one != other
    if not mine.any():
        return None
    usual = float(has.mean())
    chance = min(2 * usual * (1 - usual) / differ, 1 - 1e-9)  # that one of two images that are labelled differently has it
    p_value = min(1.0, float(stats.binom.sf(mine.sum() - 1, len(pairs), chance)) * tests)
    odds = (mine.sum() + 0.5) / (len(pairs) - mine.sum() + 0.5) * (1 - chance) / chance
    if p_value >= LEVEL or odds < ODDS:
        return None
    mine &= likeness >= _least(likeness[mine])
    copied = np.where(one, pairs[:, 0], pairs[:, 1])[mine]
    others = np.where(one, pairs[:, 1], pairs[:, 0])[mine]
    return Copies(copied, others, likeness[mine], label, p_value)


def _least(likeness: Array) -> float:
    """What one trigger makes of copies: those that are far less alike are two images of one patient."""
    middle = float(np.median(likeness))
    return middle - APART * float(np.median(np.abs(likeness - middle)))


def _nearest(textures: NDArray[np.int8], codes: NDArray[np.intp], done: Callable[[int], None]) -> NDArray[np.intp]:
    """Pairs of each image and the nearest with another code, int [n, 2]; the smaller index first, and none twice."""
    project = np.random.default_rng(0).standard_normal((GRID * GRID, SHORT)).astype(np.float32)
    short = np.concatenate([_unit(_flat(textures, rows) @ project) for rows in _chunks(len(textures))])
    pairs = []
    for rows in _chunks(len(short)):
        alike = short[rows] @ short.T
        alike[codes[rows, None] == codes] = -2
        nearest = alike.argmax(axis=1)
        pairs.append(np.stack([rows, nearest], axis=1)[alike[np.arange(len(rows)), nearest] > 0])
        done(len(rows))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


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
