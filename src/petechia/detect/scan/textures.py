"""Faint patterns that images with one label share, over the whole image or at one place: triggers of which no original is left.

A fixed pattern, such as noise that is blended in, a wave or a large box, adds the same fine structure to every image. What a
disease adds lies a little elsewhere in every image, and comes with other findings as often as not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import uniform_filter

from petechia.core.progress import SILENT, Progress
from petechia.detect.scan.reading import RowsOf
from petechia.detect.scan.stamps import LabelCounts
from petechia.detect.scan.thresholds import TextureLimits, packaged_thresholds
from petechia.detect.scan.traces import FINE

FOLDS = 20  # of the patients; an image is compared with the mean of the others
TILES = 4  # parts of the image a side; in most of them an image must be like the mean
WINDOW = 6  # blocks a side of the place at which images are compared, of which there are FINE in the image
CLEAR = 3.0  # standard errors by which a block's mean must differ from that of all images to belong to the pattern of a place
SAMPLE = 1 << 12  # images from which it is learned how blocks go together
RIDGE = 0.3  # added to the variance of blocks, which is about 1: less is taken from how they go together in the sample
FEWEST = 3  # images that share a pattern
FLOOR = 5.0  # least spread of the fine structure at one place, in its units
CHUNK = 1 << 11  # images in memory at a time
Array = NDArray[np.float32]
Rows = NDArray[np.intp]
Place = tuple[int, int, int, int]


class SharedTexture(NamedTuple):
    """A pattern that images share.

    Attributes:
        place: first row, first column, rows and columns of where it is, in blocks of which an image has FINE a side; None where
            it is all over the image.
        images: int [n], indices of the images that show it and have the label alone.
        label: position of the class that is their only finding.
        members: number of images that show it, with any label.
        odds: ratio of the odds of that label with and without the pattern.
        p_value: of the tie, corrected for all labels and levels that were tested.
    """

    place: Place | None
    images: Rows
    label: int
    members: int
    odds: float
    p_value: float

    @property
    def share(self) -> float:
        """Of the images that show it, those with the label."""
        return len(self.images) / self.members


def find_shared_textures(
    textures: RowsOf,
    labels: NDArray[np.int8],
    patients: NDArray[np.str_],
    explained: NDArray[np.bool_],
    progress: Progress = SILENT,
    limits: TextureLimits | None = None,
) -> list[SharedTexture]:
    """Look for patterns that images with a class as their only finding share, by their mean fine structure.

    Each image is compared with the mean over images of other patients: in all parts; and where the mean differs most from that
    of all images, by Fisher's linear discriminant (1936), which knows how neighbouring blocks go together. Images that are far
    more like it than those without the label are show the pattern. It is suspicious if they have the class as their only
    finding more often than chance explains, and if among the images with the class they have it alone more often, as
    overwritten labels do.

    Args:
        textures: int8 [N, FINE, FINE], 0 where there is none; may lie on a disk.
        labels: int8 [N, K].
        patients: str [N].
        explained: bool [N], images of which other evidence says what they are.
        progress: gets the phase "looking for patterns that images share".
        limits: of the search; those of the calibration where it is None.

    Returns:
        The surest pattern over the whole image and the surest at one place, as far as there are any.
    """
    limits = limits or packaged_thresholds().textures
    counts = LabelCounts.of(labels, explained)
    totals, alone_totals = np.split(counts.totals, 2)
    judged = np.flatnonzero((alone_totals >= FEWEST) & (totals > alone_totals))  # else the class says nothing
    if not len(judged):
        return []
    alone = counts.sets[:, len(alone_totals) :] & ~explained[:, None]
    progress.phase("looking for patterns that images share", 2 * len(labels))
    _, patient = np.unique(patients, return_inverse=True)
    likeness = _likeness(textures, alone[:, judged], np.where(explained, -1, patient % FOLDS), progress)
    kinds: list[tuple[Array, tuple[float, ...], Sequence[Place | None]]] = [
        (likeness.whole, limits.deviations, [None] * len(judged)),
        (likeness.placed, limits.placed_deviations, likeness.places),
    ]
    tests = alone.shape[1] * sum(len(deviations) for _, deviations, _ in kinds)
    found = []
    for values, deviations, places in kinds:
        tied = [
            one
            for column, label in enumerate(judged.tolist())
            for least in deviations
            if (one := _tied(values[:, column] >= least, label, places[column], counts, tests, limits))
        ]
        single = [one for one in tied if one.single >= limits.single_odds and one.single_p_value * len(tied) < limits.level]
        found += sorted((one.texture for one in single), key=lambda one: (one.p_value, one.label))[:1]
    return found


class _Tie(NamedTuple):
    """A pattern that goes with a class as the only finding, and how it goes with that among the images with the class."""

    texture: SharedTexture
    single: float
    single_p_value: float


def _tied(
    shows: NDArray[np.bool_], label: int, place: Place | None, counts: LabelCounts, tests: int, limits: TextureLimits
) -> _Tie | None:
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
    return _Tie(SharedTexture(place, images, label, members, odds, p_value), *counts.single(having, label))


class _Likeness(NamedTuple):
    """How like the mean of each of K sets N images are, in deviations of the images outside of the set.

    Attributes:
        whole: float32 [N, K], median over the parts of the image.
        placed: float32 [N, K], where the mean differs most from that of all images.
        places: K, where that is.
    """

    whole: Array
    placed: Array
    places: list[Place]


def _likeness(textures: RowsOf, sets: NDArray[np.bool_], fold: Rows, progress: Progress) -> _Likeness:
    """The likeness to each set, bool [N, K]; an image of the set is compared with the mean over the other folds."""
    view, sums = _summed(textures, sets, fold, progress)
    means = {one: sums.without(one) for one in range(-1, FOLDS)}  # what the images of a fold are compared with
    parts_of = {one: view.parts(mean).transpose(1, 2, 0) for one, mean in means.items()}  # [parts, D, K]
    usual = view.apart(textures[np.unique(np.linspace(0, len(textures) - 1, SAMPLE).astype(np.intp))])
    weights = {one: _weights(mean, usual) for one, mean in means.items()}
    whole, placed = np.zeros(sets.shape, np.float32), np.zeros(sets.shape, np.float32)
    for rows in _chunks(len(textures)):
        apart = view.apart(textures[rows])
        parts = view.parts(apart)
        for one in means:
            mine = fold[rows] == one
            whole[rows[mine]] = np.median(parts[mine].swapaxes(0, 1) @ parts_of[one], axis=0)
            placed[rows[mine]] = apart[mine] @ weights[one].T
        progress.advance(len(rows))
    places = [_place(mean.reshape(FINE, FINE)) for mean in means[-1]]
    return _Likeness(_in_deviations(whole, sets, fold), _in_deviations(placed, sets, fold), places)


def _in_deviations(values: Array, sets: NDArray[np.bool_], fold: Rows) -> Array:
    """Values, [N, K], from the median of the images outside of each set, by their spread."""
    found = np.zeros_like(values)
    for column in range(sets.shape[1]):
        others = values[~sets[:, column] & (fold >= 0), column]
        middle = np.median(others) if len(others) else 0
        spread = 1.4826 * np.median(np.abs(others - middle)) if len(others) else 0
        found[:, column] = (values[:, column] - middle) / spread if spread > 0 else 0
    return found


def _weights(means: Array, usual: Array) -> Array:
    """How to tell images with a pattern from usual ones where its mean is clearest: Fisher's linear discriminant.

    Args:
        means: float32 [K, FINE * FINE], in standard errors.
        usual: float32 [n, FINE * FINE], a sample of images.

    Returns:
        float32 [K, FINE * FINE], such that the sample has a spread of 1; 0 outside of the window, and for a mean that is clear
        nowhere.
    """
    weights = np.zeros_like(means)
    for one, mean in enumerate(means):
        inside = _window(mean.reshape(FINE, FINE), WINDOW).reshape(-1)
        if not inside.any():
            continue
        together = np.cov(usual[:, inside], rowvar=False)
        found = np.linalg.solve(together + RIDGE * np.eye(len(together)), mean[inside])
        weights[one, inside] = found / max(np.sqrt(found @ together @ found), 1e-6)
    return weights


def _window(mean: Array, side: int) -> NDArray[np.bool_]:
    """The window, of some blocks a side, where a mean, [FINE, FINE], is clearest; False everywhere if it is clear nowhere."""
    energy = np.maximum(mean**2 - CLEAR**2, 0)
    inside = np.zeros_like(energy, bool)
    if energy.any():
        row, column = divmod(int(uniform_filter(energy, side, mode="constant").argmax()), FINE)
        top, left = max(row - side // 2, 0), max(column - side // 2, 0)
        inside[top : top + side, left : left + side] = True
    return inside


def _place(mean: Array) -> Place:
    """The box around where a mean, [FINE, FINE], is clear, up to twice the window; the whole image if it is nowhere."""
    shown = _window(mean, 2 * WINDOW) & (np.abs(mean) > CLEAR)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    if not len(rows):
        return 0, 0, FINE, FINE
    return int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


class _View(NamedTuple):
    """How fine structure is compared: less the mean of all images, by its spread; and in parts, whatever the contrast.

    Attributes:
        mean: float32 [FINE * FINE].
        spread: float32 [FINE * FINE].
        usual: float32 [parts, D], of length 1, the mean in each part; how much of it an image has is its contrast.
    """

    mean: Array
    spread: Array
    usual: Array

    def apart(self, textures: NDArray[np.int8]) -> Array:
        """How far images are from the mean, in spreads: float32 [n, FINE * FINE]; 0 of an image without fine structure."""
        flat = textures.reshape(len(textures), -1).astype(np.float32)
        return np.where(flat.any(axis=1, keepdims=True), (flat - self.mean) / self.spread, 0)

    def parts(self, apart: Array) -> Array:
        """The parts of images, float32 [n, parts, D], without their share of the usual structure, each of length 1."""
        parts = _in_parts(apart)
        return _unit(parts - np.einsum("npd,pd->np", parts, self.usual)[..., None] * self.usual)


class _Sums(NamedTuple):
    """Of how far the images of K sets are from the mean of all images, in spreads.

    Attributes:
        sums: float32 [FOLDS, K, FINE * FINE].
        sizes: int [FOLDS, K], images.
    """

    sums: Array
    sizes: NDArray[np.intp]

    def without(self, fold: int) -> Array:
        """The mean over the other folds, in its standard errors: float32 [K, FINE * FINE]; over all for fold -1."""
        others = [one for one in range(FOLDS) if one != fold]
        images = np.maximum(self.sizes[others].sum(axis=0), 1)
        return np.asarray(self.sums[others].sum(axis=0) / np.sqrt(images, dtype=np.float32)[:, None])


def _summed(textures: RowsOf, sets: NDArray[np.bool_], fold: Rows, progress: Progress) -> tuple[_View, _Sums]:
    """The view of all images, and for each fold the sum over the images of each set in it."""
    size = FINE * FINE
    total, squares, count = np.zeros(size), np.zeros(size), 0
    sums, sizes = np.zeros((FOLDS, sets.shape[1], size)), np.zeros((FOLDS, sets.shape[1]), np.intp)
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
    return view, _Sums(((sums - sizes[..., None] * mean) / spread).astype(np.float32), sizes)


def _in_parts(flat: Array) -> Array:
    """Cut images, [n, FINE * FINE], into square parts: [n, TILES * TILES, D]."""
    side = FINE // TILES
    return flat.reshape(-1, TILES, side, TILES, side).swapaxes(2, 3).reshape(len(flat), TILES**2, side**2)


def _unit(vectors: Array) -> Array:
    """Of length 1; those without length stay so."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6))


def _chunks(count: int) -> list[Rows]:
    return [np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
