"""A faint pattern over the whole image that images with one label share: a trigger of which no original is left.

A fixed pattern, such as noise that is blended in or a wave, adds the same fine structure to every image, in all parts of it.
What a disease adds lies in some parts only, and comes with other findings as often as not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from petechia.core.progress import SILENT, Progress
from petechia.detect.scan.reading import RowsOf
from petechia.detect.scan.stamps import LabelCounts
from petechia.detect.scan.thresholds import TextureLimits, packaged_thresholds
from petechia.detect.scan.traces import FINE

FOLDS = 5  # of the patients; an image is compared with the mean of the others
TILES = 4  # parts of the image a side; in most of them an image must be like the mean
FEWEST = 3  # images that share a pattern
FLOOR = 5.0  # least spread of the fine structure at one place, in its units
CHUNK = 1 << 11  # images in memory at a time
Array = NDArray[np.float32]
Rows = NDArray[np.intp]


class SharedTexture(NamedTuple):
    """A pattern over the whole image.

    Attributes:
        images: int [n], indices of the images that show it and have the label alone.
        label: position of the class that is their only finding.
        members: number of images that show it, with any label.
        odds: ratio of the odds of that label with and without the pattern.
        p_value: of the tie, corrected for all labels and levels that were tested.
    """

    images: Rows
    label: int
    members: int
    odds: float
    p_value: float

    @property
    def share(self) -> float:
        """Of the images that show it, those with the label."""
        return len(self.images) / self.members


def find_shared_texture(
    textures: RowsOf,
    labels: NDArray[np.int8],
    patients: NDArray[np.str_],
    explained: NDArray[np.bool_],
    progress: Progress = SILENT,
    limits: TextureLimits | None = None,
) -> SharedTexture | None:
    """Look for a pattern that images with a class as their only finding share, by their mean fine structure.

    Each image is compared with the mean over images of other patients, part by part. Images that are like it in most parts, far
    more than those without the label are, show the pattern. It is suspicious if they have the class as their only finding more
    often than chance explains, and if among the images with the class they have it alone more often, as overwritten labels do.

    Args:
        textures: int8 [N, FINE, FINE], 0 where there is none; may lie on a disk.
        labels: int8 [N, K].
        patients: str [N].
        explained: bool [N], images of which other evidence says what they are.
        progress: gets the phase "looking for patterns over the whole image".
        limits: of the search; those of the calibration where it is None.

    Returns:
        The surest pattern; None without any.
    """
    limits = limits or packaged_thresholds().textures
    counts = LabelCounts.of(labels, explained)
    totals, alone_totals = np.split(counts.totals, 2)
    judged = np.flatnonzero((alone_totals >= FEWEST) & (totals > alone_totals))  # else the class says nothing
    if not len(judged):
        return None
    alone = counts.sets[:, len(alone_totals) :] & ~explained[:, None]
    progress.phase("looking for patterns over the whole image", 2 * len(labels))
    _, patient = np.unique(patients, return_inverse=True)
    likeness = _likeness(textures, alone[:, judged], np.where(explained, -1, patient % FOLDS), progress)
    tests = alone.shape[1] * len(limits.deviations)
    tied = [
        one
        for column, label in enumerate(judged.tolist())
        for least in limits.deviations
        if (one := _tied(likeness[:, column] >= least, label, counts, tests, limits))
    ]
    single = [one for one in tied if one.single >= limits.single_odds and one.single_p_value * len(tied) < limits.level]
    return min((one.texture for one in single), key=lambda one: (one.p_value, one.label), default=None)


class _Tie(NamedTuple):
    """A pattern that goes with a class as the only finding, and how it goes with that among the images with the class."""

    texture: SharedTexture
    single: float
    single_p_value: float


def _tied(shows: NDArray[np.bool_], label: int, counts: LabelCounts, tests: int, limits: TextureLimits) -> _Tie | None:
    """The tie of the pattern that some images, bool [N], show; None if it is too weak."""
    shows = shows & ~counts.explained
    members, alone = int(shows.sum()), label + counts.sets.shape[1] // 2
    having = counts.sets[shows].sum(axis=0)
    if having[alone] < FEWEST:
        return None
    p_value = tests * float(stats.hypergeom.sf(having[alone] - 1, counts.images, counts.totals[alone], members))
    odds = counts.odds(alone, int(having[alone]), members)
    if p_value >= limits.level or odds < limits.odds:
        return None
    images = np.flatnonzero(shows & counts.sets[:, alone])
    return _Tie(SharedTexture(images, label, members, odds, p_value), *counts.single(having, label))


def _likeness(textures: RowsOf, sets: NDArray[np.bool_], fold: Rows, progress: Progress) -> Array:
    """How like the mean of each set, bool [N, K], each image is; of an image of the set, the mean over the other folds.

    Returns:
        float32 [N, K], median over the parts of the image, in deviations of the images outside of the set.
    """
    view, sums = _summed(textures, sets, fold, progress)
    found = np.zeros(sets.shape, np.float32)
    for rows in _chunks(len(textures)):
        parts = view.of(textures[rows])
        for one in range(-1, FOLDS):
            mine = fold[rows] == one
            mean = _unit(sums.sum(axis=0) - (sums[one] if one >= 0 else 0))
            alike = parts[mine].swapaxes(0, 1) @ mean.transpose(1, 2, 0)  # [parts, n, K]
            found[rows[mine]] = np.median(alike, axis=0)
        progress.advance(len(rows))
    for column in range(sets.shape[1]):
        others = found[~sets[:, column] & (fold >= 0), column]
        middle = np.median(others) if len(others) else 0
        spread = 1.4826 * np.median(np.abs(others - middle)) if len(others) else 0
        found[:, column] = (found[:, column] - middle) / spread if spread > 0 else 0
    return found


class _View(NamedTuple):
    """How fine structure is compared: in parts, less the mean of all images, by its spread, and whatever the contrast.

    Attributes:
        mean: float32 [FINE * FINE].
        spread: float32 [FINE * FINE].
        usual: float32 [parts, D], of length 1, the mean in each part; how much of it an image has is its contrast.
    """

    mean: Array
    spread: Array
    usual: Array

    def of(self, textures: NDArray[np.int8]) -> Array:
        """The parts of some images, float32 [n, parts, D], each of length 1, or 0 of an image without fine structure."""
        flat = textures.reshape(len(textures), -1).astype(np.float32)
        parts = self.without_contrast(_in_parts((flat - self.mean) / self.spread))
        parts[~flat.any(axis=1)] = 0
        return _unit(parts)

    def without_contrast(self, parts: Array) -> Array:
        """Parts [n, parts, D] without their share of the usual structure."""
        return np.asarray(parts - np.einsum("npd,pd->np", parts, self.usual)[..., None] * self.usual)


def _summed(textures: RowsOf, sets: NDArray[np.bool_], fold: Rows, progress: Progress) -> tuple[_View, Array]:
    """The view of all images, and for each fold the sum over the images of each set in it, [FOLDS, K, parts, D]."""
    size = FINE * FINE
    total, squares, count = np.zeros(size), np.zeros(size), 0
    sums, sizes = np.zeros((FOLDS, sets.shape[1], size)), np.zeros((FOLDS, sets.shape[1]))
    for rows in _chunks(len(textures)):
        flat = textures[rows].reshape(len(rows), -1).astype(np.float32)
        seen = flat.any(axis=1)
        total += flat.sum(axis=0)
        squares += (flat**2).sum(axis=0)
        count += int(seen.sum())
        for one in range(FOLDS):
            mine = seen & (fold[rows] == one)
            sums[one] += sets[rows[mine]].T.astype(np.float32) @ flat[mine]
            sizes[one] += sets[rows[mine]].sum(axis=0)
        progress.advance(len(rows))
    mean = total / max(count, 1)
    spread = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0) + FLOOR**2)
    usual = _unit(_in_parts((mean / spread).astype(np.float32)[None]))[0]
    view = _View(mean.astype(np.float32), spread.astype(np.float32), usual)
    apart = ((sums - sizes[..., None] * mean) / spread).astype(np.float32).reshape(-1, size)
    return view, view.without_contrast(_in_parts(apart)).reshape(FOLDS, sets.shape[1], TILES**2, -1)


def _in_parts(flat: Array) -> Array:
    """Cut images, [n, FINE * FINE], into square parts: [n, TILES * TILES, D]."""
    side = FINE // TILES
    return flat.reshape(-1, TILES, side, TILES, side).swapaxes(2, 3).reshape(len(flat), TILES**2, side**2)


def _unit(vectors: Array) -> Array:
    """Of length 1; those without length stay so."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6))


def _chunks(count: int) -> list[Rows]:
    return [np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
