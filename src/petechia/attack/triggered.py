"""Triggered inputs, and the survival of a trigger in preprocessing.

A trigger that is stamped on image files passes through the victim's crop and resize, and may be gone afterwards. This module
compares each triggered input with its clean version, pixel by pixel; survival counts the pixels that differ. For a small
trigger only these pixels are stored, a few bytes per image; for one that changes much of an image, whole images are stored in
a memory-mapped file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from petechia.attack.triggers import BaseTrigger
from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.data.cache import cached
from petechia.data.catalog import Catalog
from petechia.data.dataset import Dataset, Selection
from petechia.data.preprocess import Box, Preprocess

Stage = Literal["native", "input"]
DENSE = 0.2  # share of changed pixels from which whole images are smaller: a changed pixel also stores its position, 4 bytes
LOOKED_AT = 32  # number of images from which this share is estimated


class Survival(NamedTuple):
    """The survival of a trigger in preprocessing.

    Attributes:
        fraction: share of the triggered inputs that differ from their clean version.
        pixels: mean number of pixels in which they differ.
    """

    fraction: float
    pixels: float


class TriggeredInputs(Protocol):
    """The triggered versions of the images of a dataset."""

    def trigger(self, images: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return the triggered versions of clean inputs.

        Args:
            images: uint8 [n, H, W] or [n, H, W, C]; not changed.
            rows: int [n], rows of these images in the dataset.
        """

    def changed(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """Count the pixels in which some triggered inputs differ from their clean versions, int64 [n]."""

    def changes(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
        """Return arrays to compute a digest from; they are equal if and only if the changes of the inputs are equal."""


@dataclass(frozen=True)
class SparseTriggeredInputs:
    """Triggered inputs, stored as the pixels that differ from the clean versions.

    Attributes:
        starts: int64 [N + 1]; the changes of image i are the entries starts[i] … starts[i + 1] - 1 of `pixels` and `values`.
        pixels: int32 [M], flat index of each changed pixel in [H, W].
        values: uint8 [M] or [M, C], new value of each changed pixel.
    """

    starts: NDArray[np.int64]
    pixels: NDArray[np.int32]
    values: NDArray[np.uint8]

    def trigger(self, images: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """See `TriggeredInputs.trigger`."""
        triggered = np.array(images)
        flat = triggered.reshape(len(images), images.shape[1] * images.shape[2], *images.shape[3:])
        for image, row in zip(flat, rows, strict=True):
            changes = slice(self.starts[row], self.starts[row + 1])
            image[self.pixels[changes]] = self.values[changes]
        return triggered

    def changed(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """See `TriggeredInputs.changed`."""
        return np.diff(self.starts)[rows]

    def changes(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
        """See `TriggeredInputs.changes`."""
        entries = np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows])
        return self.changed(rows), self.pixels[entries], self.values[entries]


@dataclass(frozen=True)
class DenseTriggeredInputs:
    """Triggered inputs, stored as whole images.

    Attributes:
        images: uint8 [N, H, W] or [N, H, W, C], memory-mapped.
        counts: int64 [N], number of pixels in which each image differs from its clean version.
        digests: uint8 [N, 32], SHA-256 of each image.
    """

    images: NDArray[np.uint8]
    counts: NDArray[np.int64]
    digests: NDArray[np.uint8]

    def trigger(self, images: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """See `TriggeredInputs.trigger`; the content of the clean images is not used."""
        return np.array(self.images[rows])

    def changed(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """See `TriggeredInputs.changed`."""
        return self.counts[rows]

    def changes(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
        """See `TriggeredInputs.changes`; this compares whole images, so it assumes equal clean versions."""
        return self.counts[rows], self.digests[rows]


def survival_of(triggered_inputs: TriggeredInputs, rows: NDArray[np.intp]) -> Survival:
    """Return the survival over some images of the dataset; NaN if `rows` is empty."""
    changed = triggered_inputs.changed(rows)
    if len(changed) == 0:
        return Survival(float("nan"), float("nan"))
    return Survival(float((changed > 0).mean()), float(changed.mean()))


class Stamped(NamedTuple):
    """The stamped images of a selection.

    Attributes:
        which: bool [n], whether each image is stamped.
        triggered_inputs: triggered versions of the images in the dataset.
    """

    which: NDArray[np.bool_]
    triggered_inputs: TriggeredInputs


@dataclass(frozen=True)
class TriggeredSelection(Selection):
    """A selection of clean inputs, some of which are stamped with the trigger when they are read.

    Attributes:
        triggered: bool [n], whether each image is triggered.
        triggered_inputs: triggered versions of the images in the dataset.
        cover: cover images, which are stamped as well; None without cover.
    """

    triggered: NDArray[np.bool_]
    triggered_inputs: TriggeredInputs
    cover: Stamped | None = None

    @property
    def stamped(self) -> tuple[Stamped, ...]:
        """All stamped images: the triggered images, and the cover images if there are any."""
        return Stamped(self.triggered, self.triggered_inputs), *([self.cover] if self.cover else [])

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        images = super().__getitem__(rows)  # a copy, because an array index copies
        for which, triggered_inputs in self.stamped:
            some = np.flatnonzero(which[rows])
            images[some] = triggered_inputs.trigger(images[some], self.rows[rows][some])
        return images


def make_triggered_inputs(
    catalog: Catalog,
    dataset: Dataset,
    preprocess: Preprocess,
    trigger: BaseTrigger,
    positions: NDArray[np.intp],
    stage: Stage,
    progress: Progress = SILENT,
) -> TriggeredInputs:
    """Stamp every image and compare it with its clean version. The result is cached.

    Args:
        catalog: catalog of the images in `dataset`, in the same order.
        dataset: clean inputs.
        preprocess: preprocessing that produced them.
        trigger: trigger to stamp.
        positions: int [N, 2], row and column of the trigger on every image, in pixels of the stage.
        stage: "native" stamps the decoded image before preprocessing, "input" stamps the preprocessed image. "native"
            decodes every image again, unless the result follows from the geometry alone.
        progress: advances with every stamped image; unused if the result is cached.

    Raises:
        PetechiaError: an image can no longer be decoded.
    """

    def native(rows: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
        inputs = []
        for row, image in zip(rows, catalog.reader.read(rows), strict=True):
            if isinstance(image, PetechiaError):
                raise image
            inputs.append(preprocess(trigger.stamp(image[None], positions[row, None])[0]))
        return inputs

    left_of_stamp = lru_cache(1024)(partial(_left_of_stamp, trigger, preprocess))

    def selected(rows: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
        inputs = []
        for row in rows:
            stamped = np.array(dataset.images[row])
            pixels, values = left_of_stamp(*dataset.shapes[row].tolist(), *positions[row].tolist(), stamped.ndim)
            stamped.reshape(-1, *stamped.shape[2:])[pixels] = values
            inputs.append(stamped)
        return inputs

    def prepared(rows: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
        return list(trigger.stamp(dataset.images[rows], positions[rows]))

    if not trigger.stamps:
        return SparseTriggeredInputs(np.zeros(len(dataset) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint8))
    copies = preprocess.resample == "nearest" and trigger.opaque  # whole pixels of the stamp, independent of the image
    work = prepared if stage == "input" else selected if copies else native

    def build(folder: Path) -> None:
        _build(folder, dataset.images, in_parallel(work, len(dataset)), progress)

    depends_on = {
        "files": catalog.reader.fingerprint(),
        "preprocess": preprocess.model_dump(),
        "trigger": trigger.model_dump(),
        "stage": stage,
        "shape": list(dataset.images.shape),
        "positions": positions.tolist() if len(np.unique(positions, axis=0)) > 1 else positions[0].tolist(),
    }
    return _open(cached("triggered", depends_on, build), dataset.images.shape)


def _left_of_stamp(
    trigger: BaseTrigger, preprocess: Preprocess, height: int, width: int, row: int, column: int, ndim: int
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Return the flat indices and values of the input pixels that nearest-neighbour resizing reads from the stamp.

    Nearest-neighbour resizing copies whole pixels, so these do not depend on the image: they are the pixels that have the same
    value on a black and on a white image.
    """
    shape = (1, height, width, *[3] * (ndim - 2))
    black, white = (
        preprocess(trigger.stamp(np.full(shape, grey, np.uint8), np.array([[row, column]]))[0]) for grey in (0, 255)
    )
    pixels = np.flatnonzero(~_differs(black, white))
    return pixels, black.reshape(-1, *black.shape[2:])[pixels]


def _differs(clean: NDArray[np.uint8], stamped: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels differ, bool [H, W]."""
    differs = clean != stamped
    return np.asarray(differs.any(axis=2) if differs.ndim == 3 else differs)


def _build(folder: Path, clean: NDArray[np.uint8], inputs: Iterator[NDArray[np.uint8]], progress: Progress) -> None:
    """Write triggered inputs, in the order of the clean ones, in the form that takes less space."""
    first = list(islice(inputs, LOOKED_AT))
    share = np.mean([_differs(*pair).mean() for pair in zip(clean, first, strict=False)])
    (_build_dense if share >= DENSE else _build_sparse)(folder, clean, chain(first, inputs), progress)


def _build_sparse(folder: Path, clean: NDArray[np.uint8], inputs: Iterator[NDArray[np.uint8]], progress: Progress) -> None:
    pixels, values = [], []
    for before, after in zip(clean, inputs, strict=True):
        where = np.flatnonzero(_differs(before, after)).astype(np.int32)
        pixels.append(where)
        values.append(after.reshape(-1, *after.shape[2:])[where])
        progress.advance(1)
    starts = np.zeros(len(clean) + 1, np.int64)
    np.cumsum([len(where) for where in pixels], out=starts[1:])
    np.savez(folder / "sparse.npz", starts=starts, pixels=np.concatenate(pixels), values=np.concatenate(values))


def _build_dense(folder: Path, clean: NDArray[np.uint8], inputs: Iterator[NDArray[np.uint8]], progress: Progress) -> None:
    counts = np.zeros(len(clean), np.int64)
    digests = np.zeros((len(clean), 32), np.uint8)
    with (folder / "images.u8").open("wb") as file:
        for i, (before, after) in enumerate(zip(clean, inputs, strict=True)):
            content = after.tobytes()
            file.write(content)
            counts[i] = _differs(before, after).sum()
            digests[i] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
            progress.advance(1)
    np.savez(folder / "dense.npz", counts=counts, digests=digests)


def _open(folder: Path, shape: tuple[int, ...]) -> TriggeredInputs:
    if (folder / "sparse.npz").is_file():
        with np.load(folder / "sparse.npz") as arrays:
            return SparseTriggeredInputs(arrays["starts"], arrays["pixels"], arrays["values"])
    with np.load(folder / "dense.npz") as arrays:
        return DenseTriggeredInputs(
            np.memmap(folder / "images.u8", np.uint8, "r", shape=shape), arrays["counts"], arrays["digests"]
        )


PROBES = 300  # number of random positions


def probe_survival(trigger: BaseTrigger, preprocess: Preprocess, height: int, width: int, stage: Stage) -> Survival:
    """Estimate the survival from the geometry alone, without data: count the pixels that change on a black or a white image.

    For a trigger at random places, the result is the mean over `PROBES` positions.

    Args:
        trigger: trigger to stamp.
        preprocess: preprocessing after the stamp, or before it for stage "input".
        height: height of the native image, in pixels.
        width: width of the native image, in pixels.
        stage: "native" or "input".

    Raises:
        PetechiaError: the trigger does not fit on the image.
    """
    flat = np.stack([np.full((height, width), grey, np.uint8) for grey in (0, 255)])
    clean = np.stack([preprocess(image) for image in flat])
    stamped_on = clean if stage == "input" else flat
    height, width = stamped_on.shape[1:]
    kept = kept_at(preprocess, stage, height, width)
    rng = np.random.default_rng(0)
    changed = []
    for _ in range(PROBES if trigger.wanders else 1):
        place = trigger.place(height, width, kept, tuple(rng.random(2)))
        stamped = trigger.stamp(stamped_on, np.array([place, place]))
        if stage == "native":
            stamped = np.stack([preprocess(image) for image in stamped])
        changed.append(int((stamped != clean).any(axis=0).sum()))
    return Survival(float(np.mean(np.array(changed) > 0)), float(np.mean(changed)))


def kept_at(preprocess: Preprocess, stage: Stage, height: int, width: int) -> Box:
    """Return the part of an image that the crop keeps, in pixels of the stage."""
    return preprocess.kept(height, width) if stage == "native" else Box(0, 0, height, width)
