"""Decode the pixels of a DICOM file to the words that are stored, after checks of what a decoder would allocate memory for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import generate_frames, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from petechia.core.budget import check as check_limit
from petechia.core.errors import PetechiaError, printable
from petechia.data.formats.codestreams import CODESTREAM, JP2, markers
from petechia.data.formats.dicom_codecs import KIND, LOSSY, Packed, packed
from petechia.data.formats.dicom_entries import BYTE, EntryError, entry, has_table, integer, table_of, word
from petechia.data.levels import OUTLIERS, white_of

PIXELS = "PixelData"
FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}  # bits
CHANNELS = "Red", "Green", "Blue"
SYNTAXES = {  # of a start of frame
    0xC0: JPEGBaseline8Bit,
    0xC1: JPEGExtended12Bit,
    0xC2: JPEGExtended12Bit,  # progressive, which has no transfer syntax any more
    0xC3: JPEGLossless,
    0xF7: JPEGLSLossless,
}
FAMILIES = LOSSY, (JPEGLossless, JPEGLosslessSV1), JPEGLSTransferSyntaxes, JPEG2000TransferSyntaxes  # decoded alike
CAPABILITIES = b"\xff\x50"  # marker of JPEG 2000 that is there in HTJ2K alone
OPTIONS: dict[str, Any] = {"correct_unused_bits": False, "allow_excess_frames": False}  # of `pixel_array`
GREY = "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"
DARK = 12  # bits of a palette that would be nearly black as one of 16
OF_VIDEO = "YBR_PARTIAL_420"
COLOURS = "RGB", "YBR_FULL", "YBR_FULL_422", OF_VIDEO, "YBR_ICT", "YBR_RCT"


def check(dataset: pydicom.Dataset, name: str) -> Packed | None:
    """Check a file before it is decoded, and add entries that may be left out.

    Args:
        dataset: the file.
        name: name of the file for messages.

    Returns:
        The compressed pixels, to be unpacked with `petechia.data.formats.dicom_codecs.unpack`; None if they are not compressed.

    Raises:
        EntryError: an entry is missing or contradicts another, or the file has no pixels or several frames.
        PetechiaError: the file exceeds a limit.
    """
    keyword = keyword_of(dataset)
    frames = integer(dataset, "NumberOfFrames", 1) or 1
    if frames != 1:
        raise EntryError(f"has {frames} frames; give a file with one image, or, where a data source can be given, dicom:FOLDER")
    height, width = (integer(dataset, key, None) for key in ("Rows", "Columns"))
    check_size(height, width, name)
    dataset.NumberOfFrames = 1
    complete(dataset, keyword)
    try:
        _correct_syntax(dataset, keyword, height * width)
        compressed = packed(dataset, name)
    except (EntryError, PetechiaError):
        raise
    except Exception:  # a damaged file can make pydicom raise anything
        raise damaged(dataset, keyword) from None
    _check_colours(compressed.description[KIND] if compressed else dataset.PhotometricInterpretation)
    return compressed


def _check_colours(kind: str) -> None:
    if kind not in (*GREY, *COLOURS) or kind == OF_VIDEO:
        raise EntryError(
            f"has the photometric interpretation {printable(kind, 40)!r} in {entry('PhotometricInterpretation')}, which is not "
            "supported; convert it"
        )


def keyword_of(dataset: pydicom.Dataset) -> str:
    """Return the name of the entry that contains the pixels."""
    for keyword in (PIXELS, *FLOATS):
        if keyword in dataset:
            if dataset[keyword].value:
                return keyword
            raise EntryError(f"has no pixels, because its {entry(keyword)} is empty; give a file with an image")
    raise EntryError("is a DICOM file without pixels; give a file with an image")


def check_size(rows: int, columns: int, name: str) -> None:
    """Check the size that a file claims.

    Raises:
        EntryError: it has no pixels.
        PetechiaError: it exceeds a limit.
    """
    claim = f"{name} is refused before decoding because it claims {columns:,} x {rows:,} pixels"
    check_limit("image_pixels", rows * columns, claim)
    check_limit("image_side", max(rows, columns), claim)
    if rows < 1 or columns < 1:
        raise EntryError(
            f"claims {columns} x {rows} pixels in {entry('Columns')} and {entry('Rows')}, which contradicts its other entries; "
            "check the DICOM file"
        )


def complete(dataset: pydicom.Dataset, keyword: str) -> None:
    """Add the entries that pydicom needs and that have a usual value; others must be there."""
    kind = word(dataset, "PhotometricInterpretation")
    if not kind:
        raise EntryError(
            f"has no {entry('PhotometricInterpretation')}, so it is not known whether low values are dark; add this entry, "
            "usually MONOCHROME2"
        )
    dataset.PhotometricInterpretation = kind
    if kind != OF_VIDEO:  # the frame may say something else
        _check_colours(kind)
    samples = integer(dataset, "SamplesPerPixel", 1 if kind in GREY else 3)
    if samples not in (1, 3) or (samples == 3) == (kind in GREY):
        raise EntryError(f"has a {entry('SamplesPerPixel')} of {samples} with {printable(kind, 20)} pixels; correct this entry")
    dataset.SamplesPerPixel = samples
    if samples > 1:
        dataset.PlanarConfiguration = integer(dataset, "PlanarConfiguration", 0)
    if keyword in FLOATS:
        dataset.BitsAllocated = FLOATS[keyword]
        return
    allocated = integer(dataset, "BitsAllocated")
    if allocated not in (1, 8, 16, 32):
        raise EntryError(f"has a {entry('BitsAllocated')} of {allocated}, and only 1, 8, 16 and 32 are supported; convert it")
    dataset.BitsAllocated = allocated
    stored = integer(dataset, "BitsStored", allocated)
    if not 1 <= stored <= allocated:
        raise EntryError(f"has a {entry('BitsStored')} of {stored} with {allocated} allocated bits; correct this entry")
    dataset.BitsStored = stored
    dataset.HighBit = integer(dataset, "HighBit", dataset.BitsStored - 1)
    dataset.PixelRepresentation = int(integer(dataset, "PixelRepresentation", 0) == 1)


def bits_of(dataset: pydicom.Dataset, pixels: int) -> int:
    """Return the bits of one frame that is not compressed; its entries are complete."""
    bits = int(pixels * dataset.SamplesPerPixel * dataset.BitsAllocated)
    return bits * 2 // 3 if dataset.PhotometricInterpretation == "YBR_FULL_422" else bits


def _offsets(content: bytes) -> int:
    """How many frames the table of offsets names; 0 where there is none, or it is damaged."""
    with suppress(Exception):  # pydicom raises many types
        return len(parse_basic_offsets(content))
    return 0


def _correct_syntax(dataset: pydicom.Dataset, keyword: str, pixels: int) -> None:
    """Set a transfer syntax that fits the pixels: it may be missing, or contradict how the file is written."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    syntax = UID(str(syntax)) if syntax else None
    compressed = bool(dataset[keyword].is_undefined_length)
    content = dataset[keyword].value
    size = -(-bits_of(dataset, pixels) // BYTE)
    if not compressed and len(content) < size:
        raise EntryError(
            f"cannot be decoded, because its {entry(keyword)} has {len(content):,} bytes and its {entry('Rows')}, "
            f"{entry('Columns')} and {entry('BitsAllocated')} need {size:,}; restore the file"
        )
    # What follows one frame may be filling, which is all alike.
    more = not compressed and len(set(content[size : 2 * size])) > 1
    several = _offsets(content) if compressed else len(content) // max(1, size) if more else 1
    if several > 1:
        raise EntryError(f"has {several} frames, without saying so; state them in {entry('NumberOfFrames')}")
    written = _written(dataset)
    if compressed:
        syntax = _syntax_of(next(generate_frames(content, number_of_frames=1)), syntax)
    elif syntax is None or _encapsulates(syntax) or syntax.is_little_endian != written.is_little_endian:
        syntax = written
    if not _has_decoder(syntax):
        raise EntryError(
            f"is stored as {printable(syntax.name, 80)}, for which there is no decoder; convert it to Explicit VR Little Endian"
        )
    dataset.file_meta.TransferSyntaxUID = syntax


def _written(dataset: pydicom.Dataset) -> UID:
    """Return the transfer syntax in which the entries are written, whatever the file states."""
    implicit, little = dataset.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian


def _encapsulates(syntax: UID) -> bool:
    return not syntax.is_transfer_syntax or syntax.is_private or bool(syntax.is_encapsulated)


def _has_decoder(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _syntax_of(frame: bytes, stated: UID | None) -> UID:
    """Return the transfer syntax of a compressed frame, as its first bytes show, or as is stated if that is as good."""
    shown = _shown_syntax(frame)
    if stated is not None and _encapsulates(stated):
        alike = any(stated in family and shown in family for family in FAMILIES)
        return stated if alike or shown is None else shown
    if shown is None:
        raise EntryError(
            f"cannot be decoded, because its {entry(PIXELS)} is compressed in an unknown way and TransferSyntaxUID (0002,0010) "
            "does not state how; add this entry"
        )
    return shown


def _shown_syntax(frame: bytes) -> UID | None:
    if frame.startswith((CODESTREAM, JP2)):
        return HTJ2K if CAPABILITIES in frame[:200] else JPEG2000
    if frame.startswith(b"\xff\xd8"):
        for marker in (frame[at + 1] for at in markers(frame)):
            if marker in SYNTAXES:
                return SYNTAXES[marker]
    segments = int.from_bytes(frame[:4], "little")
    if len(frame) > 64 and 1 <= segments <= 15 and int.from_bytes(frame[4:8], "little") == 64:
        return RLELossless
    return None


def decode(dataset: pydicom.Dataset, unpacked: NDArray[Any] | None) -> NDArray[Any]:
    """Decode the pixels of a checked file.

    Args:
        dataset: the file.
        unpacked: its pixels if they were compressed.

    Returns:
        The words that are stored, [H, W], with all their bits; for a colour image, 8-bit RGB, [H, W, 3].

    Raises:
        EntryError: the pixels or the palette are damaged.
    """
    keyword = keyword_of(dataset)
    try:
        pixels = pixel_array(dataset, **OPTIONS) if unpacked is None else unpacked
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    except Exception:  # a damaged file can make pydicom or a decoder raise anything
        raise damaged(dataset, keyword) from None
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _in_palette(dataset, pixels)
    if pixels.ndim < 3:
        return pixels
    return _in_8_bits(pixels, int(dataset.BitsStored))


def damaged(dataset: pydicom.Dataset, keyword: str = PIXELS) -> EntryError:
    """Return the error for pixels that cannot be decoded."""
    kind, bits = dataset.PhotometricInterpretation, dataset.BitsAllocated
    if kind in ("YBR_FULL", "YBR_FULL_422") and bits > BYTE:
        return EntryError(f"has {kind} pixels of {bits} bits, and only 8 are supported; convert it to RGB")
    return EntryError(
        f"cannot be decoded, because its {entry(keyword)}, stored as "
        f"{printable(dataset.file_meta.TransferSyntaxUID.name, 80)}, is damaged or contradicts the entries that describe it "
        "(group 0028); restore the file or correct these entries"
    )


def _in_8_bits(pixels: NDArray[Any], stored: int) -> NDArray[np.uint8]:
    """Turn colours into 8 bits: those that are stored, or that the colours use if these are more, as with a high bit of 15."""
    allocated = BYTE * pixels.dtype.itemsize
    stored = min(stored, allocated)
    white = 2**stored - 1
    if stored < BYTE and np.count_nonzero(pixels > white) <= OUTLIERS * pixels.size:
        return np.asarray(pixels.clip(0, white).astype(np.uint16) * 255 // white, np.uint8)
    if allocated > BYTE:
        used = white_of(pixels).bit_length()
        stored = used if stored == allocated else max(used, stored)
    return np.asarray((pixels >> max(0, stored - BYTE)).clip(0, 255), np.uint8)


def _in_palette(dataset: pydicom.Dataset, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Apply a palette, uint8 [H, W, 3]."""
    names = [(f"{one}PaletteColorLookupTableDescriptor", f"{one}PaletteColorLookupTableData") for one in CHANNELS]
    if all(has_table(dataset, *name) for name in names):
        tables = [table_of(dataset, *name) for name in names]
        used = max(table.bits for table in tables)
        shift = used - BYTE if used <= DARK else BYTE  # 8 or 16 bits (PS3.3, C.7.6.3.1.5); some use 12
        stored = pixels & (2 ** int(dataset.BitsStored) - 1)
        return np.stack([(table(stored) >> shift).astype(np.uint8) for table in tables], axis=2)
    if not any("Segmented" in str(element.keyword) for element in dataset.group_dataset(0x0028)):
        raise EntryError(f"has a palette without {entry(names[0][1])}; restore the file")
    pixels = apply_color_lut(pixels, dataset)
    return np.asarray(pixels >> (8 * pixels.dtype.itemsize - 8), np.uint8)
