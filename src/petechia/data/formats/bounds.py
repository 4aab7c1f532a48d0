"""Check what a PNG or JPEG file claims before it is decoded in this process: Pillow has no bounds for some of it."""

from __future__ import annotations

import struct

from petechia.core.budget import check, limit
from petechia.core.errors import PetechiaError
from petechia.data.formats.codestreams import NO_SEGMENT, START_OF_SCAN

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PIXELS, SCAN = b"IDAT", 0xDA
FILLER = 0xFF  # may be repeated before a marker of a JPEG


def check_content(content: bytes, name: str, advice: str) -> None:
    """Check the parts of a PNG or JPEG: how many there are, and the size of those that hold no pixels.

    Args:
        content: content of the file.
        name: name of the file for messages.
        advice: what the user can do.

    Raises:
        PetechiaError: the file exceeds a limit.
    """
    refused = f"{name} is refused before decoding because it has"
    if content.startswith(PNG):
        _check_parts(*_parts_of_png(content), refused, advice)
    elif content.startswith(JPEG):
        parts, begin = _parts_of_jpeg(content)
        _check_parts(parts, begin, refused, advice)
        scans = content.count(START_OF_SCAN, begin)  # these bytes cannot occur in coded pixels
        check("image_scans", scans, f"{refused} {scans:,} scans", advice)


def check_size(width: int, height: int, name: str, advice: str) -> None:
    """Check the size that an image claims.

    Raises:
        PetechiaError: the image has no pixels, too many, or too long a side.
    """
    if width < 1 or height < 1:
        raise PetechiaError(f"{name} has no pixels: it claims {width:,} x {height:,}; {advice}.")
    claim = f"{name} is refused before decoding because it claims {width:,} x {height:,} pixels"
    check("image_pixels", width * height, claim, advice)
    check("image_side", max(width, height), claim, advice)


def _check_parts(parts: int, others: int, refused: str, advice: str) -> None:
    check("image_parts", parts, f"{refused} more than {parts - 1:,} parts", advice)
    check("image_metadata", others, f"{refused} {others:,} bytes that are not pixels", advice)


def _parts_of_png(content: bytes) -> tuple[int, int]:
    """Return the number of chunks, counted up to one more than the limit, and the bytes in those that hold no pixels."""
    at, parts, others = len(PNG), 0, 0
    while at + 8 <= len(content) and parts <= limit("image_parts"):
        length, kind = struct.unpack_from(">I4s", content, at)
        at += 12 + length
        parts += 1
        if kind != PIXELS:
            others += min(length, len(content))
    return parts, others


def _parts_of_jpeg(content: bytes) -> tuple[int, int]:
    """Return the number of segments before the first scan, and where that begins."""
    at, parts = 2, 0
    while 0 <= at < len(content) - 3 and parts <= limit("image_parts"):
        marker = content[at + 1]
        if marker == SCAN:
            break
        parts += 1
        if marker in NO_SEGMENT:
            at = content.find(b"\xff", at + 1 if marker == FILLER else at + 2)
            continue
        at = content.find(b"\xff", at + 2 + int.from_bytes(content[at + 2 : at + 4]))
    return parts, len(content) if at < 0 else at
