"""Near-duplicate images that differ in one small region: what an attack leaves that adds triggered copies."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from petechia.core.parallel import in_parallel, workers
from petechia.core.progress import SILENT, Progress
from petechia.data.catalog import Catalog
from petechia.detect.scan.reading import RowsOf, Traces, read_grey_image
from petechia.detect.scan.thresholds import NearDuplicateLimits, packaged_thresholds
from petechia.detect.scan.traces import GRID, LARGEST, PLANES, Grey

ROUNDING = 1e-3  # of the mean of a cell
WINDOWS = (12, 8, 6, 4, 3)  # blocks a side of the windows in which a small box may lie
MOST_TOUCHED = 5  # blocks a side that a small box touches on images of 64 pixels a side
PATCH = 4  # blocks a side of a cell, by whose means pairs are looked up; half of it for small windows
MEANS = 8  # of cells, by which pairs are looked up
SAMPLE = 500  # images on which these are chosen
CROWDED = 8  # images that are like an image outside of a window, on average, from which on the window is too large
CHUNK = 1 << 13  # images, or pairs of them, that are in memory at a time
LOOKED_UP = 1 << 18  # pairs that are looked up at a time

Array = NDArray[np.float32]


class Pair(NamedTuple):
    """Two images that are the same but for a small box.

    Attributes:
        stamped: index of the image that seems to have been stamped; of exact duplicates, either.
        clean: index of the other.
        row: of the box's top left corner.
        column: of the same.
        stamp: int16 [h, w], the box in the stamped image; empty where nothing differs.
        background: int16 [h, w], the same in the other.
    """

    stamped: int
    clean: int
    row: int
    column: int
    stamp: NDArray[np.int16]
    background: NDArray[np.int16]

    @property
    def swapped(self) -> Pair:
        """With the roles exchanged."""
        return Pair(self.clean, self.stamped, self.row, self.column, self.background, self.stamp)


def find_pairs(
    catalog: Catalog, traces: Traces, limits: NearDuplicateLimits | None = None, progress: Progress = SILENT
) -> list[Pair]:
    """All near-duplicates of a catalog. Candidates are read again, to be compared pixel by pixel.

    Args:
        catalog: N images.
        traces: of its images.
        limits: of the comparison; those of the calibration where it is None.
        progress: gets the phase "comparing near-duplicates".

    Raises:
        PetechiaError: an image cannot be decoded any more.
    """
    found = [
        (one, other)
        for one, other in candidates(traces.blocks, traces.shapes, limits).tolist()
        if one not in traces.unread and other not in traces.unread
    ]

    def work(rows: NDArray[np.intp]) -> list[Pair | None]:
        return [_compared(catalog, found[row][0], found[row][1], limits) for row in rows]

    progress.phase("comparing near-duplicates", len(found))
    pairs = []
    for pair in in_parallel(work, len(found)):
        progress.advance()
        if pair:
            pairs.append(pair)
    return assign(pairs, catalog.labels, limits)


def _compared(catalog: Catalog, one: int, other: int, limits: NearDuplicateLimits | None) -> Pair | None:
    """Compare two candidates; where their grey levels are the same, in the other planes."""
    pair = compare(one, other, partial(read_grey_image, catalog), limits)
    for plane in range(1, len(PLANES) if catalog.colour else 1):
        if pair is None or pair.stamp.size:
            break
        pair = compare(one, other, partial(read_grey_image, catalog, plane=plane), limits) or pair
    return pair


def candidates(blocks: RowsOf, shapes: NDArray[np.int32], limits: NearDuplicateLimits | None = None) -> NDArray[np.intp]:
    """Pairs of images of one shape that are alike in all but a few neighbouring blocks.

    A small box lies in one of a few windows, and outside of it both images are the same. So pairs are looked up, for each
    window, by what is outside: those that agree in a few means there are neighbours in a k-d tree. Where much of the collection
    is the same outside of a window, as with black margins, smaller windows inside it take its place.

    Args:
        blocks: float32 [N, GRID, GRID], mean grey levels; may lie on a disk.
        shapes: int [N, 2].
        limits: of the comparison; those of the calibration where it is None.

    Returns:
        int [pairs, 2], the smaller index first. In a collection of which most is the same outside of a window, boxes that touch
        more than 5 blocks a side, on images of fewer than 64 pixels a side, may be missed.
    """
    same = (limits or packaged_thresholds().near_duplicates).block_difference
    digests = _digests(blocks, shapes)
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    others = np.flatnonzero(first[which] != np.arange(len(which)))
    found = [np.stack([first[which[others]], others], axis=1)]
    first = np.sort(first)
    for key in _keys(blocks, first, _touched(shapes[first]).max(initial=1), same):
        for close in _close(_means(blocks, first, key.cell, key.chosen), same):
            some = first[close]
            some = some[(shapes[some[:, 0]] == shapes[some[:, 1]]).all(axis=1)]
            for start in range(0, len(some), CHUNK):
                chunk = some[start : start + CHUNK]
                found.append(chunk[_alike(blocks, chunk, shapes, same)])
    return np.unique(np.concatenate(found), axis=0)


def _digests(blocks: RowsOf, shapes: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Of each image: a digest of blocks and shape, uint64 [N]."""
    digests = np.zeros(len(blocks), np.uint64)
    for rows in _chunks(len(blocks)):
        texts = (one.tobytes() + shape.tobytes() for one, shape in zip(blocks[rows], shapes[rows], strict=True))
        digests[rows] = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in texts]
    return digests


def _touched(shapes: NDArray[np.int32]) -> NDArray[np.intp]:
    """How many blocks a side a small box can touch, int [n]."""
    return np.asarray((-(-(LARGEST - 1) // np.maximum(shapes // GRID, 1)) + 1).max(axis=1), np.intp)


class _Key(NamedTuple):
    """By what pairs are looked up that are the same outside of a window: the means of some cells.

    Attributes:
        cell: blocks a side of a cell.
        chosen: int [n], numbers of the cells, row by row: those that tell most images apart.
    """

    cell: int
    chosen: NDArray[np.intp]


def _keys(blocks: RowsOf, rows: NDArray[np.intp], touched: int, same: float) -> Iterator[_Key]:
    """A key for each window, the windows being as small as it takes to tell the images, int [n], apart."""
    windows = {(0, 0)}
    for wide, narrow, finer in zip((GRID, *WINDOWS), WINDOWS, (*WINDOWS[1:], 0), strict=False):
        steps = list(product((0, wide - narrow), repeat=2))
        tried = sorted({(row + down, column + right) for row, column in windows for down, right in steps})
        last = 2 * finer - narrow + 1 < min(touched, MOST_TOUCHED)  # a box may fit into none of the finer windows
        cell = PATCH if narrow >= 2 * PATCH else PATCH // 2
        agree = _agreement(blocks, rows, cell, same) if tried else np.zeros((0, 0), bool)
        windows = set()
        for row, column in tried:
            chosen, alike = _chosen(agree, cell, (row, column), narrow)
            if last or alike * len(rows) / 2 <= CROWDED:
                yield _Key(cell, chosen)
            else:
                windows.add((row, column))


def _agreement(blocks: RowsOf, rows: NDArray[np.intp], cell: int, same: float) -> NDArray[np.bool_]:
    """Which pairs of a sample of the images agree in the mean of each cell, bool [cells, pairs]."""
    sample = np.sort(np.random.default_rng(0).choice(len(rows), min(SAMPLE, len(rows)), replace=False))
    means = _means(blocks, rows[sample], cell, np.arange((GRID // cell) ** 2)).T
    one, other = np.triu_indices(len(sample), 1)
    return np.stack([np.abs(mean[one] - mean[other]) <= same + ROUNDING for mean in means])


def _chosen(agree: NDArray[np.bool_], cell: int, window: tuple[int, int], side: int) -> tuple[NDArray[np.intp], float]:
    """The cells outside of a window that tell most images apart, and the share of the pairs that agree in all of them.

    They are chosen one by one: the one that tells most of the pairs apart that are left.
    """
    inside = np.zeros((GRID, GRID), bool)
    inside[window[0] : window[0] + side, window[1] : window[1] + side] = True
    usable = np.flatnonzero(~inside.reshape(GRID // cell, cell, GRID // cell, cell).any(axis=(1, 3)))
    left, chosen = agree[usable], np.zeros(0, np.intp)
    for _ in range(min(MEANS, len(usable))):
        best = int(np.argmin(left.sum(axis=1)))
        chosen = np.append(chosen, usable[best])
        left = left[:, left[best]]
    return np.unique(chosen), left.shape[1] / max(1, agree.shape[1])


def _means(blocks: RowsOf, rows: NDArray[np.intp], cell: int, chosen: NDArray[np.intp]) -> Array:
    """The means of some cells of some images; float32 [n, chosen]."""
    found = np.zeros((len(rows), len(chosen)), np.float32)
    side = GRID // cell
    for some in _chunks(len(rows)):
        cells = blocks[rows[some]].reshape(len(some), side, cell, side, cell).mean(axis=(2, 4))
        found[some] = cells.reshape(len(some), -1)[:, chosen]
    return found


def _chunks(count: int) -> Iterator[NDArray[np.intp]]:
    return (np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _close(keys: Array, same: float) -> Iterator[NDArray[np.intp]]:
    """Pairs of rows, [n, 2] at a time and the smaller first, none of whose coordinates differ by more than `same`."""
    tree, reach = KDTree(keys), same + ROUNDING
    counts = tree.query_ball_point(keys, reach, p=np.inf, workers=workers(), return_length=True)
    batch = np.cumsum(counts) // LOOKED_UP
    for rows in np.split(np.arange(len(keys)), np.flatnonzero(np.diff(batch)) + 1):
        near = tree.query_ball_point(keys[rows], reach, p=np.inf, workers=workers())
        one = np.repeat(rows, counts[rows])
        other = np.fromiter(chain.from_iterable(near), np.intp, len(one))
        pairs = np.stack([one, other], axis=1)
        yield pairs[one < other]


def _alike(blocks: RowsOf, pairs: NDArray[np.intp], shapes: NDArray[np.int32], same: float) -> NDArray[np.bool_]:
    """Which pairs have no more blocks that differ than a small box can touch."""
    sides = np.maximum(shapes[pairs[:, 0]] // GRID, 1)
    touched = (-(-(LARGEST - 1) // sides) + 1).prod(axis=1)
    differ = np.abs(blocks[pairs[:, 0]] - blocks[pairs[:, 1]]) > same
    return np.asarray(differ.sum(axis=(1, 2)) <= touched)


def compare(one: int, other: int, read: Callable[[int], Grey], limits: NearDuplicateLimits | None = None) -> Pair | None:
    """Compare two candidates pixel by pixel.

    Which of them was stamped is a first guess: the one whose box differs more from what surrounds it.

    Args:
        one: index of an image.
        other: index of another.
        read: gives an image by its index.
        limits: of the comparison; those of the calibration where it is None.

    Returns:
        None where they differ in more than a small box.
    """
    noise = (limits or packaged_thresholds().near_duplicates).encoding_noise
    a, b = read(one), read(other)
    step = np.maximum(a, b) - np.minimum(a, b)
    exact = np.count_nonzero(step) <= LARGEST**2  # a re-encoded file differs a little everywhere
    rows, columns = np.nonzero(step > (0 if exact else noise))
    if not len(rows):
        empty = np.zeros((0, 0), np.int16)
        return Pair(one, other, 0, 0, empty, empty)
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    if max(part.stop - part.start for part in box) > LARGEST:
        return None
    pair = Pair(one, other, int(rows.min()), int(columns.min()), a[box].astype(np.int16), b[box].astype(np.int16))
    return pair if _contrast(a, box) >= _contrast(b, box) else pair.swapped


def _contrast(image: Grey, box: tuple[slice, slice]) -> float:
    """How far the mean of the box is from that of the pixels around it, in grey levels."""
    wide = image[tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)].astype(float)
    inner = image[box].astype(float)
    ring = (wide.sum() - inner.sum()) / max(wide.size - inner.size, 1)
    return float(abs(inner.mean() - ring))


def assign(pairs: list[Pair], labels: NDArray[np.int8], limits: NearDuplicateLimits | None = None) -> list[Pair]:
    """Decide which image of each pair was stamped.

    A stamp recurs from pair to pair, what lies beneath it does not. Where that says nothing, because the image had some of
    the stamp's grey levels already, the labels do: an attacker changes them in the same direction everywhere.

    Args:
        pairs: as `compare` guesses them.
        labels: int8 [N, K].
        limits: of the comparison; those of the calibration where it is None.
    """
    recurring = (limits or packaged_thresholds().near_duplicates).recurring_pairs
    seen = Counter(_key(stamp) for pair in pairs for stamp in (pair.stamp, pair.background))
    resolved = [pair.swapped if seen[_key(pair.background)] > seen[_key(pair.stamp)] else pair for pair in pairs]
    written = np.array([(labels[pair.stamped] == 1).astype(int) - (labels[pair.clean] == 1) for pair in resolved])
    usual = written.sum(axis=0)  # by class: how often the stamped image gained it, less how often it lost it
    return [
        pair.swapped if seen[_key(pair.stamp)] < recurring and gained @ usual < 0 else pair
        for pair, gained in zip(resolved, written, strict=True)
    ]


def _key(stamp: NDArray[np.int16]) -> tuple[tuple[int, ...], bytes]:
    return stamp.shape, stamp.tobytes()
