"""The images with the most similar fine structure, found in time that grows with their number."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress

EXACT = 1 << 14  # images up to which each is compared with all
COMPARED = 1 << 15  # images with which each is compared where there are more
CELLS = 1 << 12  # groups of similar images, at most
IN_CELL = 100  # images of a cell, on average, up to that number of cells
SAMPLES, ROUNDS = 40, 6  # of the training: images of a cell, and how often its middle is moved
CODE = 64  # numbers of 4 bits that stand for a vector while it is looked up
CHUNK = 1 << 10  # images that are looked up at a time
NEAR, MANY = 32, 1024  # nearest images among which one with other labels is sought at first, and where all these are alike
ALIKE = 0.5  # similarity of the last of the nearest from which on more are sought
Array = NDArray[np.float32]
Rows = NDArray[np.intp]


def nearest_pairs(vectors: Array, codes: Rows, progress: Progress = SILENT) -> tuple[Rows, Rows]:
    """Pairs of each image and the nearest, and of each and the nearest with another code.

    Up to `EXACT` images this is exact. With more, an image is compared with about `COMPARED` others, those in the cells next to
    it (an inverted file with product quantisation, Jégou et al. 2011), and the best by their vectors. So some of the pairs that
    are not very similar are missed.

    Args:
        vectors: float32 [N, D], of length 1, or 0 for an image that is like no other.
        codes: int [N]. Of images with another code none is found where `MANY` of the same are nearer.
        progress: advances by one for every image.

    Returns:
        Two arrays, int [n, 2], the smaller index first and no pair twice.
    """
    seen = np.flatnonzero(vectors.any(axis=1))
    if len(seen) < len(vectors):
        progress.advance(len(vectors) - len(seen))
        of_seen, of_others = nearest_pairs(vectors[seen], codes[seen], progress)
        return seen[of_seen], seen[of_others]
    if len(vectors) < 2:
        return np.zeros((0, 2), np.intp), np.zeros((0, 2), np.intp)
    index = _index(vectors)

    def work(chunks: Rows) -> list[tuple[Rows, Rows]]:
        return [pairs_of(np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, len(vectors)))) for chunk in chunks.tolist()]

    def pairs_of(rows: Rows) -> tuple[Rows, Rows]:
        near, similar = _look_up(index, vectors, rows, NEAR)
        best = _best(rows, near, similar)
        unlike = np.where(codes[near] == codes[rows, None], -1, similar)
        contradicting = _best(rows, near, unlike)
        more = rows[(unlike <= 0).all(axis=1) & (similar[:, -1] >= ALIKE)]
        for some in np.array_split(more, -(-len(more) * MANY // (CHUNK * NEAR))) if len(more) else []:
            near, similar = _look_up(index, vectors, some, MANY)
            unlike = np.where(codes[near] == codes[some, None], -1, similar)
            contradicting = np.concatenate([contradicting, _best(some, near, unlike)])
        return best, contradicting

    every, others = [np.zeros((0, 2), np.intp)], [np.zeros((0, 2), np.intp)]
    for best, contradicting in in_parallel(work, -(-len(vectors) // CHUNK)):
        every.append(best)
        others.append(contradicting)
        progress.advance(min(CHUNK, len(vectors) - CHUNK * (len(every) - 2)))
    return _once(every), _once(others)


def _once(pairs: list[Rows]) -> Rows:
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _index(vectors: Array) -> Any:
    faiss.omp_set_num_threads(1)  # its threads spin while they wait for each other, and slow everything down on a busy machine
    size = vectors.shape[1]
    if len(vectors) <= EXACT:
        exact = faiss.IndexFlatIP(size)
        exact.add(vectors)
        return exact
    cells = min(CELLS, len(vectors) // IN_CELL)
    index = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(size), size, cells, CODE, 4, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = False  # faster, and finds as many
    index.cp.niter = ROUNDS
    sample = np.random.default_rng(0).choice(len(vectors), min(len(vectors), SAMPLES * cells), replace=False)
    index.train(vectors[np.sort(sample)])
    for start in range(0, len(vectors), CHUNK):
        index.add(vectors[start : start + CHUNK])
    index.nprobe = max(1, cells * COMPARED // len(vectors))
    return index


def _look_up(index: Any, vectors: Array, rows: Rows, most: int) -> tuple[Rows, Array]:
    """The nearest images of each, without itself, and the inner products, the largest first; -1 where there are no more."""
    faiss.omp_set_num_threads(1)  # in this thread
    _, near = index.search(vectors[rows], min(most + 1, len(vectors)))
    similar = np.einsum("nd,nkd->nk", vectors[rows], vectors[near])
    similar[(near < 0) | (near == rows[:, None])] = -1
    order = np.argsort(-similar, axis=1, kind="stable")[:, :-1]  # the last is the image itself
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(similar, order, axis=1)


def _best(rows: Rows, near: Rows, similar: Array) -> Rows:
    """Each image with the one that is most similar, if it is at all; int [n, 2]."""
    best = similar.argmax(axis=1)
    here = np.arange(len(rows))
    pairs: Rows = np.stack([rows, near[here, best]], axis=1)
    return np.asarray(pairs[similar[here, best] > 0])
