"""Searches images for a stamp that is known from others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.data.catalog import Catalog
from petechia.detect.scan.reading import read_grey, read_grey_image
from petechia.detect.scan.stamps import Family, label_of
from petechia.detect.scan.thresholds import SearchLimits
from petechia.detect.scan.traces import Grey

SEEN = 24  # images by which it is measured how a stamp looks
SAMPLE = 1000  # images without the label on which it is measured how many show a stamp by chance
SAMPLE_LOOSE = 200  # of these, those that are searched up to a tolerance

Place = tuple[int, int]  # row and column of a stamp's top left corner
Sighting = tuple[int, Place]  # index of an image, and where it shows the stamp


class Stamp(NamedTuple):
    """How a stamp looks.

    Attributes:
        pixels: grey levels, [h, w].
        tolerance: grey levels by which a pixel may differ, because the images were encoded with loss.
    """

    pixels: Grey
    tolerance: int = 0

    @property
    def shown(self) -> NDArray[np.uint8]:
        """The pixels as they are displayed, uint8 [h, w]."""
        return self.pixels.clip(0, 255).astype(np.uint8)


def stamp_of(catalog: Catalog, family: Family, limits: SearchLimits) -> Stamp:
    """How the stamp of a family looks: on its first image if it is the same on all, else on the median of several.

    Raises:
        PetechiaError: an image cannot be decoded any more.
    """
    if family.exact:
        return Stamp(_box(catalog, family, 0))
    chosen = np.flatnonzero(label_of(catalog.labels, family)[family.images])
    boxes = np.stack([_box(catalog, family, one) for one in _some(chosen, SEEN).tolist()]).astype(np.int16)
    middle = np.median(boxes.astype(float), axis=0).round().astype(np.int16)
    apart = np.abs(boxes - middle).max(axis=(1, 2))
    tolerance = int(np.ceil(np.quantile(apart, limits.usual) * limits.margin))
    return Stamp(middle, max(tolerance, limits.tightest))


def _box(catalog: Catalog, family: Family, one: int) -> Grey:
    """What is on an image of a family where the pattern is, [h, w]."""
    row, column = int(family.rows[one]), int(family.columns[one])
    return read_grey_image(catalog, int(family.images[one]), family.plane)[
        row : row + family.height, column : column + family.width
    ].copy()


class StampSearch:
    """Searches the images of a catalog for the stamp of a family.

    Args:
        catalog: with the images.
        family: the images that show it.
        stamp: how it looks on them.
        limits: of the search.
        progress: gets a phase "searching for the stamp" for each search.
    """

    def __init__(
        self, catalog: Catalog, family: Family, stamp: Stamp, limits: SearchLimits, progress: Progress = SILENT
    ) -> None:
        self.catalog = catalog
        self.stamp = stamp
        self.limits = limits
        self.progress = progress
        self.plane = family.plane
        self.at = (int(family.rows[0]), int(family.columns[0])) if family.fixed else None

    def visible(self, rows: NDArray[np.intp], others: NDArray[np.intp]) -> list[Sighting]:
        """Those of the images in which the stamp contrasts with its surroundings, however faintly.

        Up to a tolerance, a stamp is found by chance too, but with little contrast. So the contrast must be larger than in
        nearly all images that cannot have it.

        Args:
            rows: int [n], images with the stamp's label.
            others: int [m], images without it.
        """
        least = self.limits.contrast
        if self.stamp.tolerance and len(rows):
            usual = [contrast for _, _, contrast in self._sightings(_some(others, SAMPLE_LOOSE))]
            clean = np.zeros(max(1, min(len(others), SAMPLE_LOOSE)))
            clean[: len(usual)] = usual
            least = max(least, 1 + float(np.quantile(clean, 1 - self.limits.seen_by_chance, method="higher")))
        return [(index, place) for index, place, contrast in self._sightings(rows) if contrast >= least]

    def hidden(self, rows: NDArray[np.intp], others: NDArray[np.intp]) -> list[Sighting]:
        """Those of the images that have the stamp's pixels at its fixed place without contrast, if that is no chance.

        Args:
            rows: int [n], images with the stamp's label.
            others: int [m], images without it; some are searched to see how often such pixels occur by chance.

        Returns:
            Nothing for a stamp without a fixed place, or where chance explains more than `SearchLimits.chance` of them.
        """
        if self.at is None:
            return []
        sample = _some(others, SAMPLE)
        usual = (1 + len(list(self._sightings(sample)))) / (1 + len(sample))
        found = [(index, place) for index, place, _ in self._sightings(rows)]
        return found if usual * len(rows) <= self.limits.chance * len(found) else []

    def _sightings(self, rows: NDArray[np.intp]) -> Iterator[tuple[int, Place, float]]:
        """Index, place and contrast, where an image has the pixels of the stamp."""

        def work(some: NDArray[np.intp]) -> list[tuple[Place, float] | None]:
            images = read_grey(self.catalog.reader, rows[some], self.plane)
            return [None if isinstance(image, PetechiaError) else find_stamp(image, self.stamp, self.at) for image in images]

        self.progress.phase("searching for the stamp", len(rows))
        for index, found in zip(rows.tolist(), in_parallel(work, len(rows)), strict=True):
            self.progress.advance()
            if found:
                yield index, *found


def _some(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Some of the rows, spread over all of them; `most` at most."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.intp)]


def find_stamp(image: Grey, stamp: Stamp, at: Place | None = None) -> tuple[Place, float] | None:
    """Where an image has the pixels of a stamp, up to its tolerance, and how much they contrast with what surrounds them.

    Args:
        image: [H, W].
        stamp: to look for.
        at: the only place to look at; else everywhere, and of several places the one with the strongest contrast.

    Returns:
        Row and column, and the contrast in grey levels; None where it is nowhere.
    """
    if at is not None:
        return _find_at(image, stamp, at)
    hits = _hits(image, stamp)
    if not hits.any():
        return None
    if stamp.tolerance:
        contrasts = np.where(hits, _weakest_step(image, stamp.pixels.shape), -1)
        row, column = np.unravel_index(contrasts.argmax(), contrasts.shape)
        return (int(row), int(column)), float(contrasts[row, column])
    # Not inside of a flat area, where the pixels are those of the stamp at all places around too.
    single = hits & (ndimage.uniform_filter(hits.astype(np.float32), 3, mode="constant") < 1.5 / 9)
    contrast = {(row, column): _median_step(image, (row, column), stamp) for row, column in np.argwhere(single).tolist()}
    best = max(contrast, key=contrast.__getitem__, default=None)
    return None if best is None else (best, contrast[best])


def _find_at(image: Grey, stamp: Stamp, at: Place) -> tuple[Place, float] | None:
    (row, column), (height, width) = at, stamp.pixels.shape
    if row + height > image.shape[0] or column + width > image.shape[1]:
        return None
    top, left = max(row - 1, 0), max(column - 1, 0)
    around, place = image[top : row + height + 1, left : column + width + 1], (row - top, column - left)
    if not _hits(around, stamp)[place]:
        return None
    contrast = _weakest_step(around, (height, width))[place] if stamp.tolerance else _median_step(around, place, stamp)
    return at, float(contrast)


def _hits(image: Grey, stamp: Stamp) -> NDArray[np.bool_]:
    """At which places of its top left corner an image has the pixels of a stamp."""
    room = [max(side - wide + 1, 0) for side, wide in zip(image.shape, stamp.pixels.shape, strict=True)]
    hits, ends = np.ones(room, bool), np.iinfo(image.dtype)
    for (i, j), level in np.ndenumerate(stamp.pixels.astype(int)):
        part = image[i : i + room[0], j : j + room[1]]
        low, high = int(level) - stamp.tolerance, int(level) + stamp.tolerance
        if low == high:
            hits &= part == low
            continue
        if low > ends.min:
            hits &= part >= low
        if high < ends.max:
            hits &= part <= high
    return hits


def _median_step(image: Grey, place: Place, stamp: Stamp) -> float:
    """Median step between the pixels on the border of a box and those that touch it from outside."""
    (row, column), (height, width) = place, stamp.pixels.shape
    framed = np.pad(image.astype(np.int16), 1, mode="edge")[row : row + height + 2, column : column + width + 2]
    steps = (
        framed[0, 1:-1] - framed[1, 1:-1],
        framed[-1, 1:-1] - framed[-2, 1:-1],
        framed[1:-1, 0] - framed[1:-1, 1],
        framed[1:-1, -1] - framed[1:-1, -2],
    )
    return float(np.median(np.abs(np.concatenate(steps))))


def _weakest_step(image: Grey, shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Of a box at every place of an image: the smallest step across its border, without the border of the image.

    Edges of anatomy seldom enclose a box on all sides, so this tells a stamp from what only has its grey levels.
    """
    above, before = _weakest_steps(image, shape[1]), _weakest_steps(image.T, shape[0]).T
    across = np.minimum(above[: -shape[0]], above[shape[0] :])
    return np.minimum(across, np.minimum(before[:, : -shape[1]], before[:, shape[1] :]))


def _weakest_steps(image: Grey, width: int) -> NDArray[np.int16]:
    """The smallest step from row to row over `width` pixels; before the first and after the last row, the largest number."""
    steps = np.maximum(image[1:], image[:-1]) - np.minimum(image[1:], image[:-1])
    weakest = np.full((len(image) + 1, image.shape[1] - width + 1), np.iinfo(np.int16).max, np.int16)
    weakest[1:-1] = ndimage.minimum_filter1d(steps, width, axis=1, origin=-(width // 2))[:, : weakest.shape[1]]
    return weakest
