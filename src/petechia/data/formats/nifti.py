"""Read NIfTI volumes as the header says: orientation, scaling and range. Sizes are checked before anything is unpacked."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.budget import check, check_file, check_unpacked
from petechia.core.errors import PetechiaError, first_line
from petechia.data.formats.bounds import check_size
from petechia.data.formats.slices import Axis, number_of, plane
from petechia.data.levels import Levels, histogram, shown_range, uncut

GZIP = b"\x1f\x8b"
HEADERS = {348: "Nifti1Header", 540: "Nifti2Header"}  # sizeof_hdr → nibabel's class
LONGEST = max(HEADERS)
CHUNK = 1 << 22
LARGEST = 1e37  # maximum absolute value, so that a difference of two fits into float32
SAMPLE = 1 << 24  # voxels that set the range of values which are not counted one by one
ADVICE = "check the file"
RESTORE = "restore it, or leave it out with --on-error skip"


class Header(NamedTuple):
    """What the header of a NIfTI file says.

    Attributes:
        shape: voxels of the first volume, as stored.
        dtype: their type, in the byte order of the file.
        offset: where they begin, in bytes, after unpacking.
        slope: of the scaling.
        intercept: of the scaling.
        turned: for each stored axis, the axis of [x, y, z] that is nearest and 1, or -1 if it grows the other way.
        shown: values that are black and white; None if it does not say so.
        volumes: number of volumes, of which the first is read.
        placed: whether it says how the axes lie.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    turned: tuple[tuple[int, int], ...]
    shown: tuple[float, float] | None
    volumes: int
    placed: bool

    @property
    def upright(self) -> tuple[int, int, int]:
        """Shape of the volume [x, y, z], see `petechia.data.formats.slices.plane`."""
        sides = {axis: side for (axis, _), side in zip(self.turned, self.shape, strict=True)}
        return sides[0], sides[1], sides[2]


def require_nibabel() -> None:
    """Check that nibabel is there.

    Raises:
        PetechiaError: the extra `nifti` is not installed.
    """
    try:
        import nibabel  # noqa: F401
    except ImportError as error:
        raise PetechiaError(f"nifti: sources need {error.name}; install it with pip install 'petechia[nifti]'.") from None


def read_header(path: Path) -> Header:
    """Read the header of a file; not more than that is unpacked.

    Raises:
        PetechiaError: this is no NIfTI file of one part, it is damaged or too short, its voxels are no real numbers, or they
            exceed a limit.
    """
    size = check_file(path, "image_bytes", RESTORE)
    try:
        with _opened(path) as (file, packed):
            head = file.read(LONGEST)
        header = _parsed(head, str(path))
    except PetechiaError:
        raise
    except Exception as error:  # from nibabel or gzip, of a damaged file
        raise PetechiaError(f"{path} has a header that cannot be read ({first_line(error)}); {ADVICE}.") from None
    needed = header.offset + math.prod(header.shape) * header.dtype.itemsize
    claim = f"{path} is refused before it is unpacked because its first volume claims"
    check("volume_bytes", needed, f"{claim} {needed:,} bytes")
    check("volume_slices", max(header.shape), f"{claim} {max(header.shape):,} slices")
    x, y, z = header.upright
    for width, height in ((x, y), (x, z), (y, z)):
        check_size(width, height, str(path), ADVICE)
    if packed:
        check_unpacked(needed, size, claim)
    elif size < needed:
        raise PetechiaError(f"{path} has {size:,} bytes, but its header claims {needed:,}; {RESTORE}.")
    return header


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, bool]]:
    """Open the content of a file, unpacked if it is compressed, and say whether it is."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        yield (gzip.open(file) if packed else file), packed  # noqa: SIM115 (it opens nothing that must be closed)


def _parsed(head: bytes, name: str) -> Header:
    import nibabel

    size = next((one for one in HEADERS if one in (int.from_bytes(head[:4], order) for order in ("little", "big"))), 0)
    magic = head[344:348] if size == 348 else head[4:8]
    if magic[:3] in (b"ni1", b"ni2"):
        raise PetechiaError(f"{name} is one half of a pair of .hdr and .img, which is not read; convert it to .nii.")
    if not size or magic[:3] not in (b"n+1", b"n+2") or len(head) < size:
        raise PetechiaError(f"{name} is not a NIfTI file; give a .nii or .nii.gz file.")
    parsed = getattr(nibabel, HEADERS[size]).from_fileobj(io.BytesIO(head[:size]), check=False)  # extensions are not read
    shape = tuple(int(side) for side in parsed.get_data_shape())
    if not shape or min(shape) < 1:
        raise PetechiaError(f"{name} claims a volume of {' x '.join(map(str, shape)) or 'no'} voxels; {ADVICE}.")
    if math.prod(shape[4:]) > 1:
        raise PetechiaError(f"{name} has several numbers a voxel, such as vectors or colours, which are not read; convert it.")
    dtype = parsed.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = "colours" if dtype.names else "complex numbers" if dtype.kind == "c" else "an unusual type of numbers"
        raise PetechiaError(f"{name} has {kind} as voxels, which are not read; convert it to real numbers.")
    offset = float(parsed["vox_offset"])
    if not size <= offset <= 2**53:
        raise PetechiaError(f"{name} claims that its voxels begin at byte {offset:g}; {ADVICE}.")
    x, y, z = (*shape[:3], 1, 1)[:3]
    slope, intercept = parsed.get_slope_inter()
    low, high = float(parsed["cal_min"]), float(parsed["cal_max"])
    return Header(
        shape=(x, y, z),
        dtype=dtype,
        offset=int(offset),
        slope=1.0 if slope is None else slope,
        intercept=intercept or 0.0,
        turned=_turned(parsed, name),
        shown=(low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None,
        volumes=math.prod(shape[3:4]),
        placed=bool(parsed["sform_code"] > 0 or parsed["qform_code"] > 0),
    )


def _turned(parsed: Any, name: str) -> tuple[tuple[int, int], ...]:
    """Return the axis and the direction of each stored axis, by the sform, else the qform, else as nibabel assumes."""
    from nibabel.orientations import io_orientation

    affine = parsed.get_best_affine()
    found = io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)  # type: ignore[no-untyped-call]
    if not np.isfinite(found).all():
        raise PetechiaError(f"{name} has a sform or qform that does not say how its axes lie; correct its header.")
    return tuple((int(axis), int(way)) for axis, way in found)


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file whose slices are images, see `petechia.data.formats.slices.Volume`.

    Attributes:
        path: relative to the folder of the source.
        axis: plane of the slices.
        shown: values that are black and white; None means as the file says.
    """

    path: str
    axis: Axis
    shown: tuple[float, float] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The file."""
        return (self.path,)

    def open(self, root: Path) -> OpenNifti:
        """Read the file.

        Raises:
            PetechiaError: it cannot be read.
        """
        header = read_header(root / self.path)
        try:
            return OpenNifti(_stored(root / self.path, header), header, self)
        except MemoryError:
            raise PetechiaError(f"{root / self.path} needs more memory than there is; close other programs.") from None


def _stored(path: Path, header: Header) -> NDArray[Any]:
    """Read the voxels of the first volume, [N], in the order of the file."""
    content: NDArray[Any] = np.empty(math.prod(header.shape), header.dtype)
    left = content.view(np.uint8)
    try:
        with _opened(path) as (file, packed):
            skipped = header.offset
            while skipped > 0 and (part := file.read(min(skipped, CHUNK))):
                skipped -= len(part)
            while left.size and (count := file.readinto(left[:CHUNK])):
                left = left[count:]
            if packed and header.volumes == 1:  # gzip compares its checksum when it has read to the end
                file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise PetechiaError(f"{path} is damaged ({first_line(error)}); {RESTORE}.") from None
    if left.size:
        raise PetechiaError(f"{path} ends before its last voxel; {RESTORE}.")
    return content


def _upright(stored: NDArray[Any], header: Header) -> NDArray[Any]:
    """Return a view [x, y, z] of stored voxels, [N], with axes that grow to the right, the front and the head."""
    flips = tuple(slice(None, None, way) for _, way in header.turned)
    axes = [axis for axis, _ in header.turned]
    return stored.reshape(header.shape, order="F")[flips].transpose([axes.index(axis) for axis in range(3)])


class OpenNifti:
    """A volume in memory.

    Args:
        stored: voxels, [N], in the order of the file.
        header: header of the file.
        file: how its slices are read.
    """

    def __init__(self, stored: NDArray[Any], header: Header, file: NiftiFile) -> None:
        self._voxels, self._header, self._file = _upright(stored, header), header, file
        self._range = self._whole_range(stored)
        self._shown = file.shown or header.shown or self._range

    def grey(self, number: int) -> NDArray[np.uint8]:
        """Return a slice, uint8 [H, W]."""
        return Levels(self._values(number), *self._shown).grey()

    def uncut(self, number: int) -> NDArray[np.uint8] | NDArray[np.int16]:
        """Return a slice that no range cuts off."""
        values = self._values(number)
        return uncut(Levels(values, *self._shown).grey(), Levels(values, *self._range))

    def _values(self, number: int) -> NDArray[np.float32]:
        """Return the values of a slice, float32 [H, W]; what is no number is black."""
        values = self._scaled(plane(self._voxels, self._file.axis, number))
        low = self._shown[0]
        return np.nan_to_num(values, nan=low, posinf=LARGEST, neginf=-LARGEST).clip(-LARGEST, LARGEST).astype(np.float32)

    def _scaled(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):
            return stored.astype(np.float64) * self._header.slope + self._header.intercept

    def _whole_range(self, stored: NDArray[Any]) -> tuple[float, float]:
        """Return the range of the values of the volume without outliers, see `petechia.data.levels.shown_range`."""
        native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        step = abs(self._header.slope) if native.dtype.kind != "f" else 0.0
        counted = histogram(native)
        if counted is not None:
            low, high = shown_range(self._scaled(counted[0]), counted[1], step)
        else:
            values = self._scaled(native[:: -(-native.size // SAMPLE)])
            values = values[np.isfinite(values) & (np.abs(values) <= LARGEST)]
            low, high = shown_range(values, step=step) if values.size else (0.0, 0.0)
        if not all(abs(end) <= LARGEST for end in (low, high)):
            low, high = 0.0, 0.0
        return low, max(high, float(np.nextafter(np.float32(low), np.float32(np.inf))))


def slices_of(header: Header, axis: Axis) -> int:
    """Return how many slices a file has across an axis."""
    return number_of(np.broadcast_to(np.int8(0), header.upright), axis)
