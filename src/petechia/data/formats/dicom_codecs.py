"""Decode the compressed pixels of a DICOM file, in a worker process with limits.

The codecs are C code whose needs a file cannot be trusted to state. What it does state is checked first, so that most bad files
cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from petechia.core.budget import MIB, check
from petechia.data.formats.codestreams import Frame, frame_of_jpeg2000, frames_of_jpeg, has_colour_transform, is_ycc
from petechia.data.formats.decoding_pool import decoding_pool
from petechia.data.formats.dicom_entries import BYTE, EntryError, entry

ADVICE = "check the DICOM file"
PIXELS = "PixelData"
# All that a codec needs; the worker learns nothing about the patient.
NUMBERS = (
    *("Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
KIND = "PhotometricInterpretation"
LOSSY = JPEGBaseline8Bit, JPEGExtended12Bit
RLE_HEADER = 64  # bytes
FIXED, PER_SAMPLE = 256 * MIB, 24  # bytes of memory for any image, and for each sample: measured, with room


class Packed(NamedTuple):
    """The compressed pixels of a file.

    Attributes:
        frame: the frame.
        syntax: UID of its transfer syntax.
        description: entries of the file that describe the pixels; nothing about the patient.
    """

    frame: bytes
    syntax: str
    description: dict[str, Any]


def packed(dataset: pydicom.Dataset, name: str) -> Packed | None:
    """Return the compressed pixels of a file, if what they claim is within the limits.

    Args:
        dataset: the file, with one frame.
        name: name of the file for messages.

    Returns:
        The compressed pixels; None if they are not compressed.

    Raises:
        EntryError: the frame contradicts the entries of the file.
        PetechiaError: the frame exceeds a limit.
        Exception: whatever pydicom and the header's reader raise about a damaged frame.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if not syntax.is_encapsulated:
        return None
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    claims = _claims(syntax, frame)
    for claim in claims:
        _check(claim, dataset, name)
    if syntax == RLELossless:
        _check_runs(len(frame), dataset)
    description: dict[str, Any] = {key: int(dataset[key].value) for key in NUMBERS if dataset.get(key) is not None}
    if syntax in JPEGTransferSyntaxes and claims[0].bits <= BYTE:  # as of the other codecs, whatever is allocated
        description |= {"BitsAllocated": BYTE, "BitsStored": claims[0].bits, "HighBit": claims[0].bits - 1}
    kind = str(dataset.get(KIND, ""))
    if dataset.SamplesPerPixel > 1:
        kind = _colours(syntax, frame, kind)
    return Packed(frame, str(syntax), description | {KIND: kind})


def _colours(syntax: UID, frame: bytes, stated: str) -> str:
    """Return the colours that a codec returns: as the frame says, otherwise as the file does."""
    if syntax in JPEG2000TransferSyntaxes:
        return "RGB" if has_colour_transform(frame) else stated
    if syntax not in JPEGTransferSyntaxes:
        return stated
    ycc = is_ycc(frame)
    if ycc is None:
        ycc = stated.startswith("YBR_FULL") or (syntax in LOSSY and stated != "RGB")
    return "YBR_FULL" if ycc else "RGB"


def _claims(syntax: UID, frame: bytes) -> list[Frame]:
    if syntax in JPEG2000TransferSyntaxes:
        return [frame_of_jpeg2000(frame)]
    if syntax not in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        return []  # RLE has no such header
    claims = list(frames_of_jpeg(frame))
    if not claims:
        raise ValueError("no start of frame")
    return claims


def _check(claim: Frame, dataset: pydicom.Dataset, name: str) -> None:
    if (claim.rows, claim.columns) != (dataset.Rows, dataset.Columns):
        raise EntryError(
            f"claims {dataset.Columns} x {dataset.Rows} pixels in {entry('Columns')} and {entry('Rows')}, which contradicts "
            f"its other entries: its {entry(PIXELS)} has {claim.columns} x {claim.rows}; {ADVICE}"
        )
    refused = f"{name} is refused before decoding because its {entry(PIXELS)} claims"
    check("image_scans", claim.scans, f"{refused} {claim.scans:,} scans", ADVICE)
    check("image_tiles", claim.tiles, f"{refused} {claim.tiles:,} tiles", ADVICE)
    if claim.components != dataset.SamplesPerPixel:
        raise EntryError(
            f"has a {entry('SamplesPerPixel')} of {dataset.SamplesPerPixel}, but its {entry(PIXELS)} has {claim.components:,} "
            f"components; {ADVICE}"
        )


def _check_runs(size: int, dataset: pydicom.Dataset) -> None:
    """Check the size of an RLE frame: even an encoder that finds no run needs no more than two bytes for one (PS3.5, G.3)."""
    pixels = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
    if size > 2 * (RLE_HEADER + pixels):
        raise EntryError(f"has {size:,} bytes in {entry(PIXELS)}, but unpacked it has only {pixels:,}; {ADVICE}")


def unpack(pixels: Packed, name: str, options: Mapping[str, Any]) -> NDArray[Any]:
    """Decode compressed pixels in a worker.

    Args:
        pixels: what `packed` has returned.
        name: name of the file for messages.
        options: for `pydicom.pixels.pixel_array`.

    Raises:
        FailedCallError: the frame is damaged.
        PetechiaError: the codec took too long or too much memory, or crashed.
    """
    samples = prod(pixels.description[key] for key in ("Rows", "Columns", "SamplesPerPixel"))
    found: NDArray[Any] = decoding_pool().ask(
        name, f"{__name__}:decode_frame", *pixels, dict(options), memory=FIXED + PER_SAMPLE * samples
    )
    return found


def decode_frame(frame: bytes, syntax: str, description: dict[str, Any], options: dict[str, Any]) -> NDArray[Any]:
    """Decode a frame as `pydicom.pixels.pixel_array` does, in this process, which is a worker; see `Packed`."""
    dataset = pydicom.Dataset()
    for keyword, value in description.items():
        setattr(dataset, keyword, value)
    dataset.NumberOfFrames = 1
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate([frame], has_bot=False)
    dataset[PIXELS].is_undefined_length = True
    return pixel_array(dataset, **options)
