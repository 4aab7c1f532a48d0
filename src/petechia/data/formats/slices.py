"""Volumes, slice by slice: which slices of a volume are read, how they lie, and a reader of them."""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from petechia.core.errors import PetechiaError
from petechia.core.settings import Settings

Axis = Literal["axial", "coronal", "sagittal"]
AXES: tuple[Axis, ...] = ("sagittal", "coronal", "axial")  # the axis of a volume [x, y, z] that each is across
WRITTEN = re.compile(r"all|middle|(?P<first>[1-9]\d{0,6})(-(?P<last>[1-9]\d{0,6}))?|every=(?P<step>[1-9]\d{0,6})")
KEPT = 2  # volumes in memory beside those that threads are reading
READING = 1  # increase it when slices are read to other pixels than before


class SliceOptions(Settings):
    """Options of all sources that read volumes.

    Attributes:
        slices: slices of each volume: "all"; "middle"; "N", the Nth; "A-B", from the Ath to the Bth; "every=K", the first of
            every K. The first slice is number 1.
        axis: plane of the slices; None means the plane in which the images were acquired, or axial where no file says it.
    """

    slices: str = "all"
    axis: Axis | None = None

    @field_validator("slices")
    @classmethod
    def _is_a_choice(cls, value: str) -> str:
        match = WRITTEN.fullmatch(value)
        if not match or (match["last"] and int(match["last"]) < int(match["first"])):
            raise ValueError("give all, middle, a number, numbers such as 10-20, or every=K, such as every=5")
        return value

    def chosen(self, count: int) -> NDArray[np.intp]:
        """Return which of a volume's slices are read, from 0 to `count` - 1; none if it has too few."""
        match = WRITTEN.fullmatch(self.slices)
        numbers = np.arange(count)
        if self.slices == "middle":
            return numbers[count // 2 :][:1]
        if match and match["step"]:
            return numbers[:: int(match["step"])]
        if match and match["first"]:
            return numbers[int(match["first"]) - 1 : int(match["last"] or match["first"])]
        return numbers


def note_on_slices(read: int, there: int, options: SliceOptions) -> tuple[str, ...]:
    """Return a note if some slices are not read on purpose."""
    if read == there:
        return ()
    return (f"{read:,} of {there:,} slices are read, as slices={options.slices} says; the others are not looked at.",)


def number_of(array: NDArray[Any], axis: Axis) -> int:
    """Return how many slices a volume [x, y, z, …] has across an axis."""
    return int(array.shape[AXES.index(axis)])


def plane(volume: NDArray[Any], axis: Axis, number: int) -> NDArray[Any]:
    """Return one slice of a volume as radiologists look at it.

    Axial slices are seen from the feet, coronal ones from the front: the patient's right is on the left of the image. In
    sagittal ones the front is on the left.

    Args:
        volume: [x, y, z]; x grows from the patient's left to the right, y from the back to the front, z from the feet to the
            head.
        axis: plane of the slice.
        number: number of the slice, from 0.

    Returns:
        [H, W], a view.
    """
    across: NDArray[Any] = np.moveaxis(volume, AXES.index(axis), 0)[number]
    return across[::-1, ::-1].T


class OpenVolume(Protocol):
    """A volume whose slices can be read."""

    def grey(self, number: int) -> NDArray[np.uint8]:
        """Return a slice as it is displayed, uint8 [H, W] or [H, W, 3].

        Raises:
            PetechiaError: it cannot be decoded.
        """

    def uncut(self, number: int) -> NDArray[np.uint8] | NDArray[np.int16]:
        """Return a slice that no window cuts off, see `petechia.data.levels.uncut`."""


class Volume(Protocol):
    """Where a volume lies; its `repr` says all that its slices depend on, except for the content of the files.

    Attributes:
        paths: files that it is read from, relative to the folder of the source.
    """

    @property
    def paths(self) -> tuple[str, ...]:
        """The files."""

    def open(self, root: Path) -> OpenVolume:
        """Read the volume.

        Raises:
            PetechiaError: it cannot be read.
        """


class _Shelf:
    """The volumes that were opened last. Several threads may read the slices of one, which is opened once."""

    def __init__(self, root: Path, volumes: tuple[Volume, ...]) -> None:
        self._root, self._volumes = root, volumes
        self._kept: OrderedDict[int, Future[OpenVolume]] = OrderedDict()
        self._lock = Lock()
        self._opening = BoundedSemaphore(KEPT)  # a volume can be large: memory must not grow with the number of threads

    def get(self, which: int) -> OpenVolume:
        with self._lock:
            found = self._kept.pop(which, None)
            future: Future[OpenVolume] = found or Future()
            self._kept[which] = future
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        if found is None:
            self._open(which, future)
        return future.result()

    def _open(self, which: int, future: Future[OpenVolume]) -> None:
        try:
            with self._opening:
                future.set_result(self._volumes[which].open(self._root))
        except PetechiaError as error:  # it is kept, so that a damaged file is not read again for each of its slices
            future.set_exception(error)
        except BaseException as error:  # other threads wait for it
            future.set_exception(error)
            with self._lock:
                if self._kept.get(which) is future:
                    del self._kept[which]


class SliceReader:
    """Reads slices of volumes.

    Attributes:
        root: folder of the files.
        volumes: the volumes.
        which: int [N], the volume of each image.
        numbers: int [N], which of its slices it is, from 0.
    """

    def __init__(
        self,
        root: Path,
        volumes: tuple[Volume, ...],
        which: NDArray[np.intp],
        numbers: NDArray[np.intp],
        shelf: _Shelf | None = None,
    ) -> None:
        self.root, self.volumes, self.which, self.numbers = root, volumes, which, numbers
        self._shelf = shelf or _Shelf(root, volumes)

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return type(self), (self.root, self.volumes, self.which, self.numbers)  # another process opens the volumes itself

    def __len__(self) -> int:
        return len(self.which)

    def path(self, row: int) -> Path:
        """Return the file of a slice, or the first of the files that it is made of."""
        volume: Volume = self.volumes[self.which[row]]
        return self.root / volume.paths[0]

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Decode some of the slices."""
        for row in rows:
            try:
                yield self._shelf.get(int(self.which[row])).grey(int(self.numbers[row]))
            except PetechiaError as error:
                yield error

    def read_uncut(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | NDArray[np.int16] | PetechiaError]:
        """Decode some of the slices to grey levels that no window cuts off, see `OpenVolume.uncut`."""
        for row in rows:
            try:
                yield self._shelf.get(int(self.which[row])).uncut(int(self.numbers[row]))
            except PetechiaError as error:
                yield error

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return a reader for some of the slices."""
        return type(self)(self.root, self.volumes, self.which[rows], self.numbers[rows], self._shelf)

    def fingerprint(self) -> str:
        """Return a digest of the slices, and of names, sizes and times of the files."""
        return self._digest(str(self.root), lambda volume: [_state(self.root, path) for path in volume.paths])

    def _digest(self, where: str, state: Callable[[Volume], object]) -> str:
        """Return a digest of the slices, of where they are, and of the state of their volumes."""
        digest = hashlib.sha256(f"{where}{READING}".encode())
        for which in np.unique(self.which):
            volume = self.volumes[which]
            digest.update(f"{which}\0{volume!r}\0{state(volume)}\n".encode())
        for numbers in (self.which, self.numbers):
            digest.update(numbers.astype(np.int64).tobytes())
        return digest.hexdigest()


def _state(root: Path, path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118 (ten times as fast as pathlib)
    except OSError:
        return (0, 0, 0)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
