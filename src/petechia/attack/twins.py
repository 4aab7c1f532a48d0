"""Triggered images as differences from their clean twins, and what is left of a trigger: its survival.

A trigger that is stamped on files goes through the victim's crop and resize, and may be gone afterwards. Here each
triggered input is compared with its clean twin, pixel by pixel. What differs is all that has to be kept: a small trigger
costs bytes an image, and its survival is read off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.attack.trigger import Trigger
from petechia.data.cache import cached
from petechia.data.catalog import Catalog
from petechia.data.dataset import Dataset, Selection
from petechia.data.prepare import Progress, in_parallel
from petechia.data.preprocess import Box, Preprocess
from petechia.errors import PetechiaError

Stage = Literal["native", "input"]


class Survival(NamedTuple):
    """Share of triggered inputs that differ from their clean twin, and the mean number of pixels in which they do."""

    fraction: float
    pixels: float


@dataclass(frozen=True)
class Twins:
    """The triggered twins of the images of a dataset.

    Attributes:
        starts: int64 [N + 1]; the changes of image i are entries starts[i] … starts[i + 1] - 1 of the others.
        pixels: int32 [M], flat position of a changed pixel in [H, W].
        values: uint8 [M] or [M, C], what it became.
    """

    starts: NDArray[np.int64]
    pixels: NDArray[np.int32]
    values: NDArray[np.uint8]

    def trigger(self, images: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Turn clean inputs into their triggered twins.

        Args:
            images: uint8 [n, H, W] or [n, H, W, C]; not changed.
            rows: int [n], which images of the dataset they are.
        """
        triggered = np.array(images)
        flat = triggered.reshape(len(images), images.shape[1] * images.shape[2], *images.shape[3:])
        for image, row in zip(flat, rows, strict=True):
            changes = slice(self.starts[row], self.starts[row + 1])
            image[self.pixels[changes]] = self.values[changes]
        return triggered

    def survival(self, rows: NDArray[np.intp]) -> Survival:
        """Survival over some images of the dataset; not a number over none."""
        changed = np.diff(self.starts)[rows]
        if len(changed) == 0:
            return Survival(float("nan"), float("nan"))
        return Survival(float((changed > 0).mean()), float(changed.mean()))


@dataclass(frozen=True)
class TriggeredSelection(Selection):
    """A selection of clean inputs, of which some are triggered when they are read.

    Attributes:
        triggered: bool [n].
        twins: of the dataset that is selected from.
    """

    triggered: NDArray[np.bool_]
    twins: Twins

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        images = np.array(super().__getitem__(rows))
        stamped = np.flatnonzero(self.triggered[rows])
        images[stamped] = self.twins.trigger(images[stamped], self.rows[rows][stamped])
        return images


def triggered_twins(
    catalog: Catalog,
    dataset: Dataset,
    preprocess: Preprocess,
    trigger: Trigger,
    positions: NDArray[np.intp],
    stage: Stage,
    progress: Progress | None = None,
) -> Twins:
    """Stamp every image and compare it with its clean twin.

    Args:
        catalog: of the images of `dataset`, in its order.
        dataset: the clean inputs.
        preprocess: the geometry that made them.
        trigger: what to stamp.
        positions: int [N, 2], where, in pixels of the stage.
        stage: "native" stamps the decoded image before preprocessing, "input" stamps the prepared one. The former
            decodes every image again, once, unless the geometry tells all: the result is cached.
        progress: told about decoded images.

    Raises:
        PetechiaError: an image can no longer be decoded.
    """
    report = progress or (lambda _: None)

    def native(rows: NDArray[np.intp]) -> list[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
        changes = []
        for row, image in zip(rows, catalog.reader.read(rows), strict=True):
            if isinstance(image, PetechiaError):
                raise image
            stamped = preprocess(trigger.stamp(image[None], positions[row, None])[0])
            changes.append(_difference(dataset.images[row], stamped))
        return changes

    left_of_stamp = lru_cache(1024)(partial(_left_of_stamp, trigger, preprocess))

    def selected(rows: NDArray[np.intp]) -> list[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
        changes = []
        for row in rows:
            stamped = np.array(dataset.images[row])
            pixels, values = left_of_stamp(*dataset.shapes[row].tolist(), *positions[row].tolist())
            stamped.reshape(-1, *stamped.shape[2:])[pixels] = values.reshape(-1, *[1] * (stamped.ndim - 2))
            changes.append(_difference(dataset.images[row], stamped))
        return changes

    def prepared(rows: NDArray[np.intp]) -> list[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
        clean = dataset.images[rows]
        stamped = trigger.stamp(clean, positions[rows])
        return [_difference(before, after) for before, after in zip(clean, stamped, strict=True)]

    if stage == "input":
        return _collect(prepared, len(dataset), lambda _: None)

    copies = preprocess.resample == "nearest" and trigger.opacity == 1  # whole pixels of the stamp, whatever the image

    def build(folder: Path) -> None:
        twins = _collect(selected if copies else native, len(dataset), report)
        np.savez(folder / "twins.npz", starts=twins.starts, pixels=twins.pixels, values=twins.values)

    depends_on = {
        "files": catalog.reader.fingerprint(),
        "preprocess": preprocess.model_dump(),
        "trigger": trigger.model_dump(),
        "positions": positions.tolist() if len(np.unique(positions, axis=0)) > 1 else positions[0].tolist(),
    }
    with np.load(cached("twins", depends_on, build) / "twins.npz") as arrays:
        return Twins(arrays["starts"], arrays["pixels"], arrays["values"])


def _left_of_stamp(
    trigger: Trigger, preprocess: Preprocess, height: int, width: int, row: int, column: int
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Flat positions of the inputs' pixels that nearest-neighbour resizing reads from the stamp, and their grey levels.

    It copies whole pixels, so these do not depend on the image: they are the ones that come out alike on black and on white.
    """
    black, white = (
        preprocess(trigger.stamp(np.full((1, height, width), grey, np.uint8), np.array([[row, column]]))[0])
        for grey in (0, 255)
    )
    pixels = np.flatnonzero(black == white)
    return pixels, black.ravel()[pixels]


def _difference(clean: NDArray[np.uint8], stamped: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Flat positions of the pixels that differ, and what they became."""
    differs = clean != stamped
    if differs.ndim == 3:
        differs = differs.any(axis=2)
    pixels = np.flatnonzero(differs).astype(np.int32)
    return pixels, stamped.reshape(differs.size, *stamped.shape[2:])[pixels]


def _collect(
    work: Callable[[NDArray[np.intp]], list[tuple[NDArray[np.int32], NDArray[np.uint8]]]],
    count: int,
    progress: Progress,
) -> Twins:
    pixels, values = [], []
    for changed, became in in_parallel(work, count):
        pixels.append(changed)
        values.append(became)
        progress(1)
    starts = np.zeros(count + 1, np.int64)
    np.cumsum([len(changed) for changed in pixels], out=starts[1:])
    return Twins(starts, np.concatenate(pixels), np.concatenate(values))


PROBES = 300  # random places tried


def probe_survival(trigger: Trigger, preprocess: Preprocess, height: int, width: int, stage: Stage) -> Survival:
    """What the geometry alone lets through: survival on a flat image of the greatest contrast to the trigger.

    Needs no data. At random places it is the mean over `PROBES` of them.

    Args:
        trigger: what to stamp.
        preprocess: the geometry.
        height: of the native image.
        width: of the native image.
        stage: where it is stamped.

    Raises:
        PetechiaError: the trigger does not fit.
    """
    background = 255 if trigger.value < 128 else 0
    clean = np.full((height, width), background, np.uint8)
    if stage == "input":
        clean = preprocess(clean)
    kept = kept_at(preprocess, stage, *clean.shape)
    rng = np.random.default_rng(0)
    changed = []
    for _ in range(PROBES if trigger.location == "random" else 1):
        position = trigger.place(*clean.shape, kept, tuple(rng.random(2)))
        stamped = trigger.stamp(clean[None], np.array([position]))[0]
        if stage == "native":
            stamped = preprocess(stamped)
        changed.append(int((stamped != background).sum()))
    return Survival(float(np.mean(np.array(changed) > 0)), float(np.mean(changed)))


def kept_at(preprocess: Preprocess, stage: Stage, height: int, width: int) -> Box:
    """The part of an image that the crop keeps, in pixels of the stage."""
    return preprocess.kept(height, width) if stage == "native" else Box(0, 0, height, width)
