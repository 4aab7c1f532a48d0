"""Decode the compressed pixels of a DICOM file, in a worker process with limits.

The codecs are C code whose needs a file cannot be trusted to state. What it does state is checked first, so that most bad files
cost nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from petechia.core.budget import MIB, check, limit
from petechia.core.errors import PetechiaError
from petechia.core.worker import FailedCallError, Limits, Pool
from petechia.data.formats.codestreams import Frame, frame_of_jpeg2000, frames_of_jpeg

ADVICE = "check the DICOM file"
PIXELS = "PixelData"
# All that a codec needs; the worker learns nothing about the patient.
NUMBERS = (
    *("Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
KIND = "PhotometricInterpretation"
FIXED, PER_SAMPLE = 256 * MIB, 24  # bytes of memory for any image, and for each sample: measured, with room


def is_compressed(dataset: pydicom.Dataset) -> bool:
    """Return whether the pixels of a DICOM file are compressed."""
    return bool(UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated)


def check_frame(dataset: pydicom.Dataset, name: str) -> Frame | None:
    """Check what the header of a compressed frame claims, before a codec allocates memory for it.

    Args:
        dataset: the file, with one frame.
        name: name of the file for messages.

    Returns:
        What the frame claims; None if it says nothing, as RLE, or is not compressed.

    Raises:
        PetechiaError: the frame exceeds a limit, contradicts the entries of the file, or is damaged.
    """
    if not is_compressed(dataset):
        return None
    syntax, frame = dataset.file_meta.TransferSyntaxUID, _frame(dataset)
    if syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        claims = list(frames_of_jpeg(frame))
    elif syntax in JPEG2000TransferSyntaxes:
        claims = [frame_of_jpeg2000(frame)]
    else:
        return None
    for claim in claims:
        _check_claim(claim, int(dataset.get("SamplesPerPixel") or 1), name)
    return max(claims)


def _check_claim(claim: Frame, samples: int, name: str) -> None:
    size = f"{claim.columns:,} x {claim.rows:,} pixels"
    refused = f"{name} is refused before decoding because its frame claims"
    check("image_pixels", claim.rows * claim.columns, f"{refused} {size}", ADVICE)
    check("image_side", max(claim.rows, claim.columns), f"{refused} {size}", ADVICE)
    check("image_scans", claim.scans, f"{refused} {claim.scans:,} scans", ADVICE)
    check("image_tiles", claim.tiles, f"{refused} {claim.tiles:,} tiles", ADVICE)
    if claim.components != samples:
        raise PetechiaError(
            f"{refused} {claim.components:,} components, but SamplesPerPixel (0028,0002) is {samples}; {ADVICE}."
        )


def decode(dataset: pydicom.Dataset, name: str, **options: Any) -> NDArray[Any]:
    """Decode the pixels of a file as `pydicom.pixels.pixel_array` does; compressed ones in a worker.

    Args:
        dataset: the file, with one frame that `check_frame` has accepted.
        name: name of the file for messages.
        options: for `pydicom.pixels.pixel_array`.

    Raises:
        PetechiaError: the codec took too long or too much memory, or crashed.
        ValueError: the frame is damaged.
        Exception: whatever pydicom raises about pixels that are not compressed.
    """
    if not is_compressed(dataset):
        return pixel_array(dataset, **options)
    description: dict[str, Any] = {key: int(dataset[key].value) for key in NUMBERS if dataset.get(key) is not None}
    description[KIND] = str(dataset.get(KIND, ""))
    samples = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    memory = FIXED + PER_SAMPLE * samples
    try:
        pixels: NDArray[Any] = _pool().ask(
            name, f"{__name__}:decode_frame", _frame(dataset), syntax, description, options, memory=memory
        )
    except FailedCallError:
        raise ValueError("a damaged frame") from None
    return pixels


def decode_frame(frame: bytes, syntax: str, description: dict[str, Any], options: dict[str, Any]) -> NDArray[Any]:
    """Decode a frame in this process, which is a worker.

    Args:
        frame: the compressed frame.
        syntax: UID of its transfer syntax.
        description: entries of the file that describe the pixels.
        options: for `pydicom.pixels.pixel_array`.
    """
    dataset = pydicom.Dataset()
    for keyword, value in description.items():
        setattr(dataset, keyword, value)
    dataset.NumberOfFrames = 1
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate([frame], has_bot=False)
    dataset[PIXELS].is_undefined_length = True
    pixels = pixel_array(dataset, **options)
    return np.ascontiguousarray(pixels)


def _frame(dataset: pydicom.Dataset) -> bytes:
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


@cache
def _pool() -> Pool:
    return Pool(Limits(limit("decode_memory"), limit("decode_seconds")), (__name__,))
