"""Read the headers of DICOM files, and say which files hold one image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    MediaStorageDirectoryStorage,
    ParametricMapStorage,
    RTDoseStorage,
    SegmentationStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from petechia.core.budget import read_file
from petechia.data.formats.dicom import DEFLATED, HEAD, has_preamble, is_dicom, parse, quiet
from petechia.data.formats.dicom_entries import FUNCTIONAL_GROUPS, EntryError, integer
from petechia.data.formats.dicom_frames import can_hold
from petechia.data.formats.dicom_geometry import GROUPS, Plane, planes_of
from petechia.data.formats.dicom_parsing import parse_bounded
from petechia.data.formats.walking import READABLE, kind_of
from petechia.data.not_read import Reason

TEXTS = ("SOPInstanceUID", "PatientID", "StudyInstanceUID", "ViewPosition", "SeriesInstanceUID")
SIZES = "Rows", "Columns", "SamplesPerPixel", "BitsAllocated"
TAGS = [*TEXTS, *SIZES, *GROUPS, *FUNCTIONAL_GROUPS, "SOPClassUID", "NumberOfFrames", "InstanceNumber"]
MASKS = (SegmentationStorage,)  # objects whose frames are no slices of an image
OTHERS = (VLWholeSlideMicroscopyImageStorage, RTDoseStorage, ParametricMapStorage)


class Header(NamedTuple):
    """What the header of a DICOM image says.

    Attributes:
        path: of the file, relative to its folder.
        uid: SOPInstanceUID; the path if there is none.
        patient: PatientID; never shown to anybody.
        study: StudyInstanceUID.
        view: ViewPosition.
        frames: number of frames that it states.
        bare: whether the file has no preamble.
        series: SeriesInstanceUID.
        instance: InstanceNumber; 0 if there is none.
        size: rows and columns.
        planes: where its frames lie; () if it does not say so.
        whole: whether it can have as many frames as it states. Of another, reading the pixels raises the error.
    """

    path: str
    uid: str
    patient: str = ""
    study: str = ""
    view: str = ""
    frames: int = 1
    bare: bool = False
    series: str = ""
    instance: int = 0
    size: tuple[int, int] = (0, 0)
    planes: tuple[Plane, ...] = ()
    whole: bool = True

    @property
    def slices(self) -> int:
        """How many images are read from the file."""
        return self.frames if self.whole else 1


def read_header(root: Path, path: str) -> Header | Reason | None:
    """Read the header of one image; call it within `quiet`.

    A file that is damaged counts as an image: reading its pixels raises the error.

    Args:
        root: a folder.
        path: of the file, relative to the folder.

    Returns:
        Why the file is not read if it is not a DICOM image; None if it is no image at all.
    """
    try:
        with (root / path).open("rb") as file:
            head = file.read(HEAD)
            if not is_dicom(head):
                kind = kind_of(root, path)
                return Reason.NO_DICOM if kind == READABLE else kind
            file.seek(0)
            bare = not has_preamble(head)
            if bare:
                content = read_file(root / path, "image_bytes")  # it may be deflated, which only the whole content shows
                entries = parse(content, path, TAGS)
            elif is_deflated(root / path):
                return Header(path, path)
            else:
                entries = parse_bounded(file, path, stop_before_pixels=True, specific_tags=TAGS)
            if "Rows" not in entries:
                return _without_image(entries)
            return _of_entries(path, entries, bare, os.fstat(file.fileno()).st_size)
    except OSError:
        return Reason.UNREADABLE
    except Exception:  # a damaged file can make pydicom raise anything
        return Header(path, path)


def _of_entries(path: str, entries: pydicom.Dataset, bare: bool, size: int) -> Header | Reason:
    uid, patient, study, view, series = (str(entries.get(name) or "") for name in TEXTS)
    frames = frames_of(entries)
    if reason := why_no_slices(entries.get("SOPClassUID"), frames):
        return reason
    rows, columns, samples, bits = (_number(entries, key, 1) for key in SIZES)
    whole = frames == 1 or can_hold(size, frames, rows * columns * samples * bits, _is_compressed(entries))
    return Header(
        path,
        uid or path,
        patient,
        study,
        view,
        frames,
        bare,
        series,
        _number(entries, "InstanceNumber", 0),
        (rows, columns),
        planes_of(entries, frames) if whole else (),
        whole,
    )


def frames_of(entries: pydicom.Dataset) -> int:
    """Return how many frames a file states; 1 if it states none, or no number."""
    return _number(entries, "NumberOfFrames", 1) or 1


def why_no_slices(kind: object, frames: int) -> Reason | None:
    """Return why the frames of an object are no slices of an image; None if they are, or if there is one.

    Args:
        kind: SOPClassUID.
        frames: number of frames.
    """
    if frames <= 1 or kind not in (*MASKS, *OTHERS):
        return None
    return Reason.MASK if kind in MASKS else Reason.FRAMES


def _number(entries: pydicom.Dataset, key: str, missing: int) -> int:
    try:
        return integer(entries, key, missing)
    except EntryError:  # the patient is known all the same; reading the pixels raises it where it matters
        return missing


def _is_compressed(entries: pydicom.Dataset) -> bool:
    syntax = UID(str(entries.file_meta.get("TransferSyntaxUID") or ""))
    return syntax.is_transfer_syntax and bool(syntax.is_encapsulated)


def _without_image(entries: pydicom.Dataset) -> Reason | None:
    """Return what a file without an image is: a DICOMDIR, an image that was cut off, or another kind of object."""
    kind = UID(str(entries.get("SOPClassUID") or entries.file_meta.get("MediaStorageSOPClassUID") or ""))
    if kind == MediaStorageDirectoryStorage:
        return None
    return Reason.NO_PIXELS if kind.name != str(kind) and "Image" not in kind.name else Reason.DAMAGED


def reason_against(path: Path) -> Reason:
    """Return why an image that cannot be decoded was not read."""
    with quiet():
        header = read_header(path.parent, path.name)
    if isinstance(header, Reason) and header is not Reason.NO_DICOM:
        return header
    return Reason.FRAMES if isinstance(header, Header) and header.frames > 1 else Reason.DAMAGED


def is_deflated(path: Path) -> bool:
    """Return whether a file is deflated; pydicom would inflate everything after the meta header, however large that is."""
    return bool(read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED.decode())
