"""Read the headers of JPEG, JPEG-LS and JPEG 2000 images: what a decoder will allocate memory and take time for."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

STARTS_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of JPEG and JPEG-LS
NO_SEGMENT = {0x00, 0x01, *range(0xD0, 0xDA), 0xFF}  # bytes that may follow 0xFF without a length field
ADOBE = 14  # bytes of the segment that states the colours; some write a shorter one without
START_OF_SCAN = b"\xff\xda"
CODESTREAM = b"\xff\x4f\xff\x51"  # start of codestream and the SIZ segment of JPEG 2000
START_OF_TILE, CODING_STYLE = b"\xff\x90", b"\xff\x52"  # start of a tile-part and the COD segment of JPEG 2000
JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"


class Frame(NamedTuple):
    """What an image says about its size.

    Attributes:
        rows: height in pixels.
        columns: width in pixels.
        components: number of components, such as 3 for colour.
        bits: number of bits of a component, the largest.
        scans: upper bound of the number of scans; 1 for JPEG 2000.
        tiles: number of tiles; 1 for JPEG.
    """

    rows: int
    columns: int
    components: int
    bits: int
    scans: int = 1
    tiles: int = 1


def frames_of_jpeg(content: bytes) -> Iterator[Frame]:
    """Yield every start of frame of a JPEG or JPEG-LS image (ITU-T T.81, B.2; T.87); a decoder may read any of them."""
    scans = content.count(START_OF_SCAN)  # cannot occur in coded pixels, but in comments
    for at in markers(content):
        if content[at + 1] in STARTS_OF_FRAME:
            bits, rows, columns, components = struct.unpack_from(">BHHB", content, at + 4)
            yield Frame(rows, columns, components, bits, scans)


def markers(content: bytes) -> Iterator[int]:
    """Yield the places of the markers of a JPEG or JPEG-LS image."""
    at = content.find(b"\xff", 2)
    while 0 < at <= len(content) - 10:
        body = 1  # no segment: coded pixels, padding, or a marker without content
        if content[at + 1] not in NO_SEGMENT:
            body = 2 + int.from_bytes(content[at + 2 : at + 4])
        yield at
        at = content.find(b"\xff", at + body)


def is_ycc(content: bytes) -> bool | None:
    """Return whether a JPEG image of three components is YCbCr, as JFIF and Adobe markers say (ITU-T T.871, T.872).

    Returns:
        None if neither marker is there.
    """
    found = None
    for at in markers(content):
        kind, size, text = content[at + 1], int.from_bytes(content[at + 2 : at + 4]), content[at + 4 : at + 9]
        if kind in STARTS_OF_FRAME:
            break
        if kind == 0xE0 and text == b"JFIF\0":
            return True
        if kind == 0xEE and text == b"Adobe" and size >= ADOBE:
            found = content[at + 15] != 0
    return found


def frame_of_jpeg2000(content: bytes) -> Frame:
    """Read the SIZ segment of a JPEG 2000 image, HTJ2K included (ITU-T T.800, A.5.1). It may be within a JP2 file.

    Raises:
        ValueError: there is no such segment, or it is damaged.
    """
    at = _codestream(content) if content.startswith(JP2) else 0
    if not content.startswith(CODESTREAM, at) or len(content) < at + 43:
        raise ValueError("no SIZ segment")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = struct.unpack_from(">8I", content, at + 8)
    (components,) = struct.unpack_from(">H", content, at + 40)
    precisions = content[at + 42 : at + 42 + 3 * components : 3]
    if right <= left or bottom <= top or not (tile_width and tile_height and components == len(precisions)):
        raise ValueError("a damaged SIZ segment")
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    bits = max((one & 0x7F) + 1 for one in precisions)
    return Frame(bottom - top, right - left, components, bits, tiles=tiles)


def has_colour_transform(content: bytes) -> bool:
    """Return whether a JPEG 2000 image was transformed from RGB, which a decoder reverses (ITU-T T.800, A.6.1)."""
    at = (_codestream(content) if content.startswith(JP2) else 0) + 2
    while content.startswith(b"\xff", at) and not content.startswith(START_OF_TILE, at):
        if content.startswith(CODING_STYLE, at):
            return content[at + 8 : at + 9] == b"\1"
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return False


def _codestream(content: bytes) -> int:
    """Return where the codestream of a JP2 file begins (ITU-T T.800, I.4)."""
    at = 0
    while at + 16 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"jp2c":
            return at + (16 if length == 1 else 8)
        length = struct.unpack_from(">Q", content, at + 8)[0] if length == 1 else length
        if length < 8:
            break
        at += length
    raise ValueError("no codestream")
