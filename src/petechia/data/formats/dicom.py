"""Read one image from a DICOM file, with its polarity and window applied."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import openjpeg.utils
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from petechia.core.errors import PetechiaError
from petechia.data.levels import MAX_PIXELS, Levels, in_colour

DEFLATED = b"1.2.840.10008.1.2.1.99"
LARGEST = 1e37  # maximum absolute value; the difference of two values must fit into float32 as well
T = TypeVar("T")
STARTS_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of JPEG and JPEG-LS
NO_SEGMENT = {0x00, 0x01, *range(0xD0, 0xDA), 0xFF}  # bytes that may follow 0xFF without a length field
_SILENCE = threading.Lock()
Values = NDArray[np.floating]


def is_dicom(content: bytes) -> bool:
    """Return whether the content begins like a DICOM file."""
    return content[128:132] == b"DICM"


def read_dicom(content: bytes, name: str, window: int = 1) -> Levels:
    """Decode a single-frame DICOM image to grey levels.

    The modality LUT or rescaling is applied. After a VOI LUT or a sigmoid window, the window is the range of their output;
    without any window, it is the range of the values, padding excluded. MONOCHROME1 is inverted within its window, so that
    higher values are brighter, and colours are converted to luma.

    Args:
        content: content of the file.
        name: name of the file for messages, which never contain patient data.
        window: number of the VOI LUT to use, or of the window if the file has no VOI LUT; 1 is the first.

    Raises:
        PetechiaError: this is not a DICOM file, it has no pixels, several frames, more than `MAX_PIXELS` or too few windows,
            or it cannot be decoded.
    """

    def levels(dataset: pydicom.Dataset) -> Levels:
        pixels = _pixels(dataset)
        if pixels.ndim == 3:
            return Levels(_luma(pixels).astype(np.float32), 0, 255)
        return _levels(dataset, pixels, name, window)

    return _decoded(content, name, levels)


def read_dicom_colour(content: bytes, name: str, window: int = 1) -> NDArray[np.uint8]:
    """Decode a single-frame DICOM image to uint8 [H, W, 3]; a grey image is windowed and its levels are repeated.

    Args:
        content: content of the file.
        name: name of the file for messages.
        window: see `read_dicom`.

    Raises:
        PetechiaError: as for `read_dicom`.
    """

    def colours(dataset: pydicom.Dataset) -> NDArray[np.uint8]:
        pixels = _pixels(dataset)
        if pixels.ndim == 3:
            return pixels.astype(np.uint8)
        return in_colour(_levels(dataset, pixels, name, window).grey())

    return _decoded(content, name, colours)


def _decoded(content: bytes, name: str, decode: Callable[[pydicom.Dataset], T]) -> T:
    with quiet():
        dataset = parse(content, name)
        try:
            _check(dataset, name)
            return decode(dataset)
        except PetechiaError:
            raise
        except Exception as error:  # a damaged file can make pydicom or a decoder raise anything
            raise PetechiaError(f"{name} cannot be decoded ({type(error).__name__}); check the DICOM file.") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings quote values that may identify a patient. Filters are global: one thread at a time."""
    logger = logging.getLogger("pydicom")
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def parse(content: bytes, name: str) -> pydicom.Dataset:
    """Parse a DICOM file without decoding pixels; call it within `quiet`.

    Raises:
        PetechiaError: this is not a DICOM file, or it is deflated or damaged.
    """
    if not is_dicom(content):
        raise PetechiaError(f"{name} is not a DICOM file: the bytes DICM are missing; check the path.")
    if DEFLATED in content:  # anywhere in the file; pydicom would inflate all of it, however large that is
        raise PetechiaError(f"{name} is a deflated DICOM file, which is not supported; convert it to another transfer syntax.")
    try:
        return pydicom.dcmread(io.BytesIO(content))
    except Exception as error:
        raise PetechiaError(f"{name} is damaged and cannot be read ({type(error).__name__}); check the DICOM file.") from None


def _check(dataset: pydicom.Dataset, name: str) -> None:
    """Reject a file that cannot or should not be decoded, before decoding it."""
    if "PixelData" not in dataset:
        raise PetechiaError(f"{name} is a DICOM file without pixels; give a file with an image.")
    if not _has_decoder(syntax := dataset.file_meta.TransferSyntaxUID):
        raise PetechiaError(
            f"{name} is stored as {syntax.name[:80]}, for which there is no decoder; convert it to Explicit VR Little Endian."
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise PetechiaError(f"{name} has {frames} frames; give a DICOM file with one image.")
    height, width = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    for rows, columns in ((height, width), _size_of_frame(dataset) or (height, width)):
        if rows * columns > MAX_PIXELS:
            raise PetechiaError(
                f"{name} is refused before decoding because it claims {columns:,} x {rows:,} pixels, and the maximum is "
                f"{MAX_PIXELS:,}; check the file."
            )
        if (rows, columns) != (height, width) or not rows * columns:
            raise PetechiaError(
                f"{name} claims {columns} x {rows} pixels, which contradicts its other entries; check the DICOM file."
            )


def _has_decoder(syntax: pydicom.uid.UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _size_of_frame(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """Return the rows and columns in the header of a compressed frame, for which a decoder allocates memory."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        return max(_sizes_in_jpeg(next(generate_frames(dataset.PixelData, number_of_frames=1))))
    if syntax in JPEG2000TransferSyntaxes:
        said = openjpeg.utils.get_parameters(next(generate_frames(dataset.PixelData, number_of_frames=1)))
        return int(said["rows"]), int(said["columns"])
    return None


def _sizes_in_jpeg(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of every start of frame (ITU-T T.81, B.2; T.87 for JPEG-LS), before libjpeg allocates memory."""
    at = frame.find(b"\xff", 2)
    while 0 < at <= len(frame) - 9:
        body = 1  # no segment: coded pixels, padding, or a marker without content
        if frame[at + 1] not in NO_SEGMENT:
            body = 2 + int.from_bytes(frame[at + 2 : at + 4])
        if frame[at + 1] in STARTS_OF_FRAME:
            yield int.from_bytes(frame[at + 5 : at + 7]), int.from_bytes(frame[at + 7 : at + 9])
        at = frame.find(b"\xff", at + body)


def _pixels(dataset: pydicom.Dataset) -> NDArray[Any]:
    """Return the stored values, [H, W]; for a colour image, 8-bit RGB, [H, W, 3]."""
    pixels = pixel_array(dataset)
    palette = str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR"
    if palette:
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim < 3:
        return pixels
    bits = 8 * pixels.dtype.itemsize if palette else int(dataset.BitsStored)
    return (pixels >> max(0, bits - 8)).clip(0, 255).astype(np.uint8)


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _levels(dataset: pydicom.Dataset, pixels: NDArray[Any], name: str, window: int) -> Levels:
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise PetechiaError(f"{name} has the photometric interpretation {kind[:40]!r}, which is not supported; convert it.")
    values, low, high = _through_window(dataset, pixels, name, window - 1)
    if not all(abs(value) <= LARGEST for value in (values.min(), values.max(), low, high)):
        raise PetechiaError(
            f"{name} has values that are not finite or beyond {LARGEST:g} after rescaling; check the DICOM file."
        )
    if kind == "MONOCHROME1":
        values = low + high - values  # the window stays unchanged, in the unit of the file
    return Levels(values.astype(np.float32), low, max(high, float(np.nextafter(np.float32(low), np.float32(np.inf)))))


def _through_window(dataset: pydicom.Dataset, pixels: NDArray[Any], name: str, index: int) -> tuple[Values, float, float]:
    """Return the values, and the low and high end of the window."""
    values = np.asarray(apply_modality_lut(pixels, dataset), np.float64)
    tables = dataset.get("VOILUTSequence")
    tables = [table for table in tables or () if "LUTDescriptor" in table and "LUTData" in table]
    centres, widths = (_numbers(dataset.get(key)) for key in ("WindowCenter", "WindowWidth"))
    there = len(tables) or min(len(centres), len(widths))
    if index and index >= there:
        raise PetechiaError(f"{name} has {there} windows, but number {index + 1} was requested; leave out window={index + 1}.")
    if tables:
        return _through_lut(dataset, values, tables, index)
    centre, width = (centres[index], widths[index]) if there else (None, None)
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    narrow = width is None or (width <= 0 if function in ("LINEAR_EXACT", "SIGMOID") else width < 1)
    if centre is None or width is None or narrow:
        shown = values[pixels != dataset.PixelPaddingValue] if "PixelPaddingValue" in dataset else values
        shown = shown if shown.size else values
        return values, float(shown.min()), float(shown.max())
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            ends = apply_windowing(np.array([-1e30, 1e30]), dataset, index)
        sign = 1 if ends[1] > ends[0] else -1  # pydicom's output decreases if the rescale slope is negative
        return sign * np.asarray(apply_windowing(values, dataset, index)), float(sign * ends[0]), float(sign * ends[1])
    if function == "LINEAR_EXACT":
        return values, centre - width / 2, centre + width / 2
    return values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def _through_lut(
    dataset: pydicom.Dataset, values: Values, tables: list[pydicom.Dataset], index: int
) -> tuple[Values, float, float]:
    dataset.VOILUTSequence = tables
    table = tables[index]
    entries, first, bits = (int(number) for number in table.LUTDescriptor)
    if bits == 8:  # otherwise pydicom would store the number of entries in 8 bits as well
        table.LUTDescriptor = [entries, first, 16]
    within = values.clip(first, first + (entries or 2**16) - 1)
    return np.asarray(apply_voi_lut(within, dataset, index), np.float64), 0, float(2**bits - 1)


def _numbers(value: Any) -> list[float]:
    """Return the numbers of an element that may be absent, empty, one number or several."""
    several = value if isinstance(value, pydicom.multival.MultiValue | list) else [value]
    return [float(one) for one in several if one is not None and one != ""]
