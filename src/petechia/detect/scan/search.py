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
from petechia.data.levels import to_grey
from petechia.detect.scan.reading import read_grey_image
from petechia.detect.scan.stamps import Family, label_of
from petechia.detect.scan.thresholds import SearchLimits, packaged_thresholds

SEEN = 24  # images by which it is measured how a stamp looks
SAMPLE = 1000  # images without the label on which it is measured how many show a stamp by chance

Place = tuple[int, int]  # row and column of a stamp's top left corner
Sighting = tuple[int, Place]  # index of an image, and where it shows the stamp


class Stamp(NamedTuple):
    """How a stamp looks.

    Attributes:
        pixels: uint8 [h, w].
        tolerance: grey levels by which a pixel may differ, because the images were encoded with loss.
    """

    pixels: NDArray[np.uint8]
    tolerance: int = 0


def stamp_of(catalog: Catalog, family: Family, limits: SearchLimits) -> Stamp:
    """How the stamp of a family looks: on its first image if it is the same on all, else on the median of several.

    Raises:
        PetechiaError: an image cannot be decoded any more.
    """
    chosen = np.flatnonzero(label_of(catalog.labels, family)[family.images])
    chosen = chosen[:: max(1, len(chosen) // SEEN)] if len(chosen) and not family.exact else np.zeros(1, np.intp)
    boxes = np.stack([_box(catalog, family, one) for one in chosen.tolist()]).astype(int)
    middle = np.median(boxes, axis=0).round()
    apart = np.abs(boxes - middle).max(axis=(1, 2))
    return Stamp(middle.astype(np.uint8), int(np.ceil(np.quantile(apart, limits.usual) * limits.margin)))


def _box(catalog: Catalog, family: Family, one: int) -> NDArray[np.uint8]:
    """What is on an image of a family where the pattern is, uint8 [h, w]."""
    row, column = int(family.rows[one]), int(family.columns[one])
    return read_grey_image(catalog, int(family.images[one]))[row : row + family.height, column : column + family.width]


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
        self.at = (int(family.rows[0]), int(family.columns[0])) if family.fixed else None

    def visible(self, rows: NDArray[np.intp]) -> list[Sighting]:
        """Those of the images, int [n], in which the stamp contrasts with its surroundings, however faintly."""
        return list(self._sightings(rows, max(self.limits.contrast, 2 * self.stamp.tolerance)))

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
        sample = others[:: max(1, len(others) // SAMPLE)]
        usual = (1 + len(list(self._sightings(sample, 0)))) / (1 + len(sample))
        found = list(self._sightings(rows, 0))
        return found if usual * len(rows) <= self.limits.chance * len(found) else []

    def _sightings(self, rows: NDArray[np.intp], contrast: float) -> Iterator[Sighting]:
        def work(some: NDArray[np.intp]) -> list[Place | None]:
            images = self.catalog.reader.read(rows[some])
            return [
                None if isinstance(image, PetechiaError) else find_stamp(to_grey(image), self.stamp, self.at, contrast)
                for image in images
            ]

        self.progress.phase("searching for the stamp", len(rows))
        for index, place in zip(rows.tolist(), in_parallel(work, len(rows)), strict=True):
            self.progress.advance()
            if place:
                yield index, place


def find_stamp(
    image: NDArray[np.uint8], stamp: Stamp, at: Place | None = None, contrast: float | None = None
) -> Place | None:
    """Where an image has the pixels of a stamp, up to its tolerance, in contrast with what surrounds them.

    Args:
        image: uint8 [H, W].
        stamp: to look for.
        at: the only place to look at; else everywhere, and of several places the one with the strongest contrast.
        contrast: the least, in grey levels; that of the calibration where it is None.

    Returns:
        Row and column, or None.
    """
    least = packaged_thresholds().search.contrast if contrast is None else contrast
    places = _places(image, stamp) if at is None else [at] if _is_at(image, stamp, at) else []
    strength = {place: _contrast(image, place, stamp.pixels.shape) for place in places}
    best = max(strength, key=strength.__getitem__, default=None)
    return best if best is not None and strength[best] >= least else None


def _places(image: NDArray[np.uint8], stamp: Stamp) -> list[Place]:
    """Where an image has the pixels of a stamp, but not inside of a flat area, where they are at all places around too."""
    room = _room(image, stamp)
    if min(room) < 1:
        return []
    hits = np.ones(room, bool)
    low, high = _bounds(stamp)
    for i, j in np.ndindex(stamp.pixels.shape):
        part = image[i : i + room[0], j : j + room[1]]
        hits &= part == low[i, j] if low[i, j] == high[i, j] else (part >= low[i, j]) & (part <= high[i, j])
    single = hits & (ndimage.uniform_filter(hits.astype(np.float32), 3, mode="constant") < 1.5 / 9)
    rows, columns = (part.tolist() for part in np.nonzero(single))
    return list(zip(rows, columns, strict=True))


def _is_at(image: NDArray[np.uint8], stamp: Stamp, at: Place) -> bool:
    (row, column), room = at, _room(image, stamp)
    if row >= room[0] or column >= room[1]:
        return False
    low, high = _bounds(stamp)
    here = image[row : row + low.shape[0], column : column + low.shape[1]]
    return bool(((here >= low) & (here <= high)).all())


def _bounds(stamp: Stamp) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The least and the largest grey levels of its pixels, uint8 [h, w] each."""
    low, high = (np.clip(stamp.pixels.astype(int) + step, 0, 255) for step in (-stamp.tolerance, stamp.tolerance))
    return low.astype(np.uint8), high.astype(np.uint8)


def _room(image: NDArray[np.uint8], stamp: Stamp) -> tuple[int, int]:
    """In how many rows and columns the top left corner of a stamp can be."""
    return image.shape[0] - stamp.pixels.shape[0] + 1, image.shape[1] - stamp.pixels.shape[1] + 1


def _contrast(image: NDArray[np.uint8], place: Place, shape: tuple[int, ...]) -> float:
    """Median step between the pixels on the border of a box and those that touch it from outside."""
    (row, column), (height, width) = place, shape
    framed = np.pad(image.astype(np.int16), 1, mode="edge")[row : row + height + 2, column : column + width + 2]
    steps = (
        framed[0, 1:-1] - framed[1, 1:-1],
        framed[-1, 1:-1] - framed[-2, 1:-1],
        framed[1:-1, 0] - framed[1:-1, 1],
        framed[1:-1, -1] - framed[1:-1, -2],
    )
    return float(np.median(np.abs(np.concatenate(steps))))
