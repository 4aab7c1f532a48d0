"""Where the images of a DICOM series or file lie in the patient (PS3.3, C.7.6.2): their order, and volumes made of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray

from petechia.data.formats.dicom_entries import FUNCTIONAL_GROUPS, EntryError, items, numbers
from petechia.data.formats.slices import AXES, Axis

GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}
COUNTS = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
TO_RAS = np.array([-1.0, -1.0, 1.0])  # DICOM's axes grow to the left, the back and the head
ALIKE = 1e-3  # difference of directions that counts as none
UNEVEN = 0.05  # of the distance of slices
UNIT, FARTHEST = 1.01, 1e6  # of a number of a direction, and of a position in mm
SKEWED = 0.5  # length of the normal of rows and columns that are no directions of an image


class Plane(NamedTuple):
    """Where an image lies, in DICOM's patient coordinates.

    Attributes:
        position: of the centre of the first pixel, in mm.
        orientation: direction of a row, and of a column.
        spacing: distance of the rows, and of the columns, in mm; (0, 0) if it is not known.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Direction across the image, [3], which grows to the right, the front or the head."""
        row, column = np.array(self.orientation).reshape(2, 3)
        across: NDArray[np.float64] = np.cross(row, column) * TO_RAS
        return across if across[np.abs(across).argmax()] > 0 else -across

    @property
    def depth(self) -> float:
        """Position along the normal in mm."""
        return float(np.array(self.position) * TO_RAS @ self.normal)

    @property
    def axis(self) -> Axis:
        """The plane of the image, or the nearest one."""
        return AXES[int(np.abs(self.normal).argmax())]


def planes_of(dataset: pydicom.Dataset, frames: int) -> tuple[Plane, ...]:
    """Return where the frames of a file lie; () unless all of them state it and are parallel.

    Args:
        dataset: a parsed file; pixels are not needed.
        frames: number of frames.
    """
    per_frame, shared = (items(dataset, key) for key in FUNCTIONAL_GROUPS)
    if per_frame and len(per_frame) != frames:
        return ()
    found: list[Plane] = []
    for frame in range(frames):
        own = [*per_frame[frame : frame + 1], *shared[:1]]
        places = {key: [*(item for one in own for item in items(one, group)[:1]), dataset] for key, group in GROUPS.items()}
        position, orientation, spacing = (_stated(places[key], key) for key in GROUPS)
        plane = plane_of(position, orientation, spacing or (0.0, 0.0))
        if plane is None or not are_parallel([*found[:1], plane]):
            return ()
        found.append(plane)
    return tuple(found)


def plane_of(position: tuple[float, ...], orientation: tuple[float, ...], spacing: tuple[float, ...]) -> Plane | None:
    """Return where an image lies, see `Plane`; None if that is not stated, or impossible."""
    if (len(position), len(orientation)) != (COUNTS["ImagePositionPatient"], COUNTS["ImageOrientationPatient"]):
        return None
    if not np.abs(orientation).max() <= UNIT or not np.abs(position).max() <= FARTHEST:
        return None
    plane = Plane(position, orientation, spacing)
    return plane if np.linalg.norm(plane.normal) >= SKEWED else None


def _stated(places: Sequence[pydicom.Dataset], key: str) -> tuple[float, ...]:
    for place in places:
        with suppress(EntryError):
            values = [one for one in numbers(place, key) if one is not None]
            if len(values) == COUNTS[key]:
                return tuple(values)
    return ()


def are_parallel(planes: Sequence[Plane]) -> bool:
    """Return whether images have the same directions of rows and columns."""
    directions = np.array([plane.orientation for plane in planes])
    return bool(np.abs(directions - directions[0]).max() <= ALIKE)


def order_of(planes: Sequence[Plane]) -> list[int]:
    """Return the order of parallel images, from the patient's left, back or feet."""
    return sorted(range(len(planes)), key=lambda at: (planes[at].depth, at))


def why_no_volume(planes: Sequence[Plane]) -> str | None:
    """Return why images that are in order are no volume which could be cut in another plane; None if they are one."""
    if len(planes) < 2:
        return "it has one slice"
    if len({plane.spacing for plane in planes}) > 1 or not are_parallel(planes):
        return "its slices differ in pixel spacing or orientation"
    gaps = np.diff([plane.depth for plane in planes])
    if gaps.min() <= UNEVEN * np.median(gaps):
        return "several of its slices are in one place"
    if np.abs(gaps - np.median(gaps)).max() > UNEVEN * np.median(gaps):
        return "the distances of its slices are not equal, as if some were missing"
    positions = np.array([plane.position for plane in planes]) * TO_RAS
    steps = np.diff(positions, axis=0)
    aside = steps - np.outer(steps @ planes[0].normal, planes[0].normal)
    if np.linalg.norm(aside, axis=1).max() > UNEVEN * np.median(gaps):
        return "its slices are shifted against each other, as with a tilted gantry"
    return None


def upright(stack: NDArray[np.float32], plane: Plane) -> NDArray[np.float32]:
    """Turn slices that are in order into a volume [x, y, z], see `petechia.data.formats.slices.plane`.

    Args:
        stack: [N, H, W].
        plane: of the slices.
    """
    row, column = (np.array(one) * TO_RAS for one in np.array(plane.orientation).reshape(2, 3))
    directions = [plane.normal, column, row]  # along which N, H and W grow
    axes = [int(np.abs(one).argmax()) for one in directions]
    if len(set(axes)) < 3:  # at 45°, two are as near to one axis
        first = axes[0]
        others = [axis for axis in range(3) if axis != first]
        axes[1] = max(others, key=lambda axis: abs(directions[1][axis]))
        axes[2] = next(axis for axis in others if axis != axes[1])
    flips = tuple(
        slice(None, None, 1 if direction[axis] >= 0 else -1) for direction, axis in zip(directions, axes, strict=True)
    )
    return stack[flips].transpose([axes.index(axis) for axis in range(3)])
