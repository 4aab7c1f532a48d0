"""Volumes of the `dicom:` source: which of its files are slices of one volume, and where they are read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from petechia.core.budget import check
from petechia.core.errors import PetechiaError, printable
from petechia.data.catalog import Reader
from petechia.data.formats.dicom_frames import OpenDicom, open_image
from petechia.data.formats.dicom_geometry import Plane, order_of, upright, why_no_volume
from petechia.data.formats.dicom_headers import Header
from petechia.data.formats.images import Decoding, FileReader
from petechia.data.formats.slices import Axis, OpenVolume, SliceOptions, SliceReader, Volume, number_of, plane
from petechia.data.levels import Levels, to_grey
from petechia.data.not_read import Files, Reason

BYTES = 4  # of a value of a volume in memory
DIRECTIONS = 3  # decimals of directions that files of one volume share


class Image(NamedTuple):
    """One image of a file: its header's number, and the frame, from 0."""

    header: int
    frame: int


class Place(Protocol):
    """Where the files of a catalog are; its `str` is for messages."""

    def images(self, names: NDArray[np.str_], decoding: Decoding) -> Reader:
        """Return a reader of files with one image each, whose paths or UIDs are `names`, str [N]."""

    def slices(self, volumes: tuple[Volume, ...], which: NDArray[np.intp], numbers: NDArray[np.intp]) -> Reader:
        """Return a reader of slices, see `petechia.data.formats.slices.SliceReader`."""


class Folder(NamedTuple):
    """A folder of files."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def images(self, names: NDArray[np.str_], decoding: Decoding) -> FileReader:
        """Return a reader of files with one image each."""
        return FileReader(self.root, names, decoding)

    def slices(self, volumes: tuple[Volume, ...], which: NDArray[np.intp], numbers: NDArray[np.intp]) -> SliceReader:
        """Return a reader of slices."""
        return SliceReader(self.root, volumes, which, numbers)


class Rows(NamedTuple):
    """The N images of a catalog.

    Attributes:
        ids: str [N].
        headers: int [N], the header of each image; of a slice across several files, that of the first.
        parts: of each image the headers of all files that it is made of.
        reader: reads them.
        there: how many slices the volumes have.
    """

    ids: NDArray[np.str_]
    headers: NDArray[np.intp]
    parts: list[list[int]]
    reader: Reader
    there: int


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file whose frames are slices, see `petechia.data.formats.slices.Volume`.

    Attributes:
        path: relative to the folder of the source.
        frames: number of frames that it states.
        colour: whether to keep colours.
        window: see `petechia.data.formats.dicom.read_dicom`.
    """

    path: str
    frames: int
    colour: bool
    window: int

    @property
    def paths(self) -> tuple[str, ...]:
        """The file."""
        return (self.path,)

    def open(self, root: Path) -> OpenDicom:
        """Read the file."""
        return open_image(root, self.path, self.frames, self.colour, self.window)


@dataclass(frozen=True)
class DicomStack:
    """Slices in order that are read as a volume and cut in another plane, see `petechia.data.formats.slices.Volume`.

    Attributes:
        images: path and frame of each slice.
        files: the files with their numbers of frames.
        plane: where the first slice lies.
        size: rows and columns of a slice.
        axis: the plane of the cut.
        window: see `petechia.data.formats.dicom.read_dicom`.
    """

    images: tuple[tuple[str, int], ...]
    files: tuple[tuple[str, int], ...]
    plane: Plane
    size: tuple[int, int]
    axis: Axis
    colour: bool
    window: int

    @property
    def paths(self) -> tuple[str, ...]:
        """The files."""
        return tuple(path for path, _ in self.files)

    @cached_property
    def count(self) -> int:
        """How many slices there are across the axis."""
        shape = (len(self.images), *self.size)
        return number_of(upright(np.broadcast_to(np.float32(0), shape), self.plane), self.axis)

    def open(self, root: Path) -> OpenVolume:
        """Decode all slices.

        Raises:
            PetechiaError: one cannot be decoded or has another size.
        """
        stack, low, high = np.empty((len(self.images), *self.size), np.float32), np.inf, -np.inf
        frames = dict(self.files)
        before, file = None, None
        for at, (path, frame) in enumerate(self.images):
            if file is None or path != before:
                before, file = path, open_image(root, path, frames[path], False, self.window)
            levels = file.levels(frame)
            if levels.values.shape != self.size:
                raise PetechiaError(f"{root / path} has changed its size since it was opened; open it again.")
            stack[at] = levels.values
            low, high = min(low, levels.low), max(high, levels.high)
        return _OpenStack(upright(stack, self.plane), float(low), float(high), self.axis, self.colour)


class _OpenStack:
    """A volume whose window goes from the lowest black to the highest white of its slices."""

    def __init__(self, values: NDArray[np.float32], low: float, high: float, axis: Axis, colour: bool) -> None:
        self._values, self._low, self._high, self._axis, self._colour = values, low, high, axis, colour

    def grey(self, number: int) -> NDArray[np.uint8]:
        shown = Levels(plane(self._values, self._axis, number), self._low, self._high).grey()
        return np.repeat(shown[..., None], 3, axis=2) if self._colour else shown

    def uncut(self, number: int) -> NDArray[np.uint8] | NDArray[np.int16]:
        return to_grey(self.grey(number))


def check_stack(count: int, size: tuple[int, int]) -> None:
    """Check how much memory a volume of `count` slices takes, and how many slices it has in any plane.

    Raises:
        PetechiaError: it exceeds a limit, or its slices have no pixels.
    """
    if min(size) < 1:
        raise PetechiaError("its slices have no pixels.")
    bytes_ = BYTES * count * size[0] * size[1]
    check("volume_bytes", bytes_, f"it needs {bytes_:,} bytes", "read it as acquired")
    check("volume_slices", max(count, *size), f"it has {max(count, *size):,} slices", "read it as acquired")


def volumes_of(headers: Sequence[Header]) -> list[list[Image]]:
    """Group images into volumes, in order: frames of one file, or files of one series with parallel planes and one size.

    Without positions, files are ordered by their InstanceNumber, and frames as in the file.
    """
    found: dict[object, list[Image]] = {}
    for number, one in enumerate(headers):
        key: object = ("file", number)
        if one.slices == 1 and one.series:
            directions = tuple(np.round(one.planes[0].orientation, DIRECTIONS).tolist()) if one.planes else ()
            key = (one.series, one.study, one.size, directions)
        found.setdefault(key, []).extend(Image(number, frame) for frame in range(one.slices))
    return [_in_order(headers, images) for images in found.values()]


def _in_order(headers: Sequence[Header], images: list[Image]) -> list[Image]:
    if all(headers[one.header].planes for one in images):
        return [images[at] for at in order_of(planes_in(headers, images))]
    return sorted(images, key=lambda one: (headers[one.header].instance, headers[one.header].path, one.frame))


def planes_in(headers: Sequence[Header], images: Sequence[Image]) -> list[Plane]:
    """Return where images lie, all of which say so."""
    return [headers[one.header].planes[one.frame] for one in images]


class _Piece(NamedTuple):
    """One image of a catalog: its id, the headers it is made of, and which slice of which volume it is."""

    name: str
    headers: list[int]
    volume: DicomFile | DicomStack
    number: int


def rows_of(place: Place, headers: Sequence[Header], options: SliceOptions, decoding: Decoding, files: Files | None) -> Rows:
    """Choose the images of a catalog.

    Args:
        place: of the files.
        headers: of its files.
        options: which slices, in which plane.
        decoding: how to decode them.
        files: gets the volumes of which no slice is read; None refuses them.

    Raises:
        PetechiaError: a volume has not the slices that were asked for, and `files` is None; or none has; or there are too many.
    """
    found: list[_Piece] = []
    there, problem = 0, ""
    for images in volumes_of(headers):
        paths = list(dict.fromkeys(headers[one.header].path for one in images))
        try:
            pieces = _pieces(headers, images, options.axis, decoding)
            chosen = options.chosen(len(pieces))
            if not len(chosen):
                raise _NoSliceError(f"it has {len(pieces):,} slices, too few for slices={options.slices}")
        except _NoSliceError as error:
            problem = f"the volume of {paths[0]} in {place} cannot be read as asked: {error}"
            if files is None:
                raise PetechiaError(f"{problem[0].upper()}{problem[1:]}; change slices= or axis=.") from None
            for path in paths:
                files.add(Reason.SLICES, path)
            continue
        there += len(pieces)
        check("array_images", there, f"{place} has {there:,} slices or more")
        found += [pieces[at] for at in chosen]
    if not found:
        raise PetechiaError(f"No slice is left; {problem}; change slices= or axis=.")
    return _as_rows(place, found, decoding, there)


class _NoSliceError(Exception):
    """A volume has no slice that was asked for; the message says why."""


def _pieces(headers: Sequence[Header], images: list[Image], axis: Axis | None, decoding: Decoding) -> list[_Piece]:
    """Return all slices of a volume, in order."""
    if stack := _across(headers, images, axis, decoding):
        name, parts = stack.paths[0], [one.header for one in images]
        return [_Piece(f"{name}#{axis}-{at + 1}", parts, stack, at) for at in range(stack.count)]
    pieces = []
    for number, frame in images:
        one = headers[number]
        name = one.path if one.slices == 1 else f"{one.path}#{frame + 1}"
        file = DicomFile(one.path, one.frames, decoding.colour, decoding.window)
        pieces.append(_Piece(name, [number], file, frame))
    return pieces


def _across(headers: Sequence[Header], images: list[Image], axis: Axis | None, decoding: Decoding) -> DicomStack | None:
    """Return a volume that is cut in another plane than the acquired one; None if they are the same.

    Raises:
        _NoSliceError: it cannot be cut.
    """
    if axis is None:
        return None
    if not all(headers[one.header].planes for one in images):
        raise _NoSliceError("it does not say where its images lie in the patient")
    planes = planes_in(headers, images)
    if planes[0].axis == axis:
        return None
    if problem := why_no_volume(planes):
        raise _NoSliceError(problem)
    size = headers[images[0].header].size
    try:
        check_stack(len(images), size)
    except PetechiaError as error:
        raise _NoSliceError(str(error).rstrip(".")) from None
    used = {headers[one.header].path: headers[one.header].frames for one in images}
    return DicomStack(
        images=tuple((headers[one.header].path, one.frame) for one in images),
        files=tuple(used.items()),
        plane=planes[0],
        size=size,
        axis=axis,
        colour=decoding.colour,
        window=decoding.window,
    )


def _as_rows(place: Place, pieces: list[_Piece], decoding: Decoding, there: int) -> Rows:
    ids = np.array([one.name for one in pieces], np.str_)
    if len(np.unique(ids)) < len(ids):
        twice = next(name for name, count in Counter(ids.tolist()).items() if count > 1)
        raise PetechiaError(f"{place} has two images that are called {printable(twice)!r}; rename one of the files.")
    volumes: dict[DicomFile | DicomStack, int] = {}
    for one in pieces:
        volumes.setdefault(one.volume, len(volumes))
    whole = all(isinstance(volume, DicomFile) and volume.frames == 1 for volume in volumes)
    reader: Reader
    if whole:  # each image is a file
        reader = place.images(ids, decoding)
    else:
        which, numbers = ([volumes[one.volume] for one in pieces], [one.number for one in pieces])
        reader = place.slices(tuple(volumes), np.array(which, np.intp), np.array(numbers, np.intp))
    return Rows(ids, np.array([one.headers[0] for one in pieces]), [one.headers for one in pieces], reader, there)
