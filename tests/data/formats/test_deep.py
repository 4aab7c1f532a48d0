import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.data.formats.images import Decoding, read_grey, read_levels

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 4096, (9, 14, 3)).astype(np.uint16)
COLOURS[:3] = 4095  # all 12 bits are used
GREYS = np.repeat(COLOURS[..., :1], 3, axis=2)
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → colour type of a PNG


def deep_png(pixels: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits, written by hand."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def with_alpha(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return np.dstack([pixels, RNG.integers(0, 65_536, pixels.shape[:2]).astype(np.uint16)])


def in_8_bits(values: NDArray[Any], white: float) -> NDArray[np.float64]:
    return np.round(values.astype(float) / white * 255)


@pytest.mark.parametrize("write", [deep_png, lambda pixels: tiff(pixels, photometric="rgb")])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_12_bits_in_16_are_as_bright_as_grey_ones(write: Any, alpha: bool) -> None:
    pixels = with_alpha(COLOURS) if alpha else COLOURS
    assert np.abs(Decoding(colour=True).decode(write(pixels), "x") - in_8_bits(COLOURS, 4095)).max() == 0
    luma = COLOURS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(Decoding().decode(write(pixels), "x") - in_8_bits(luma, 4095)).max() <= 1
    grey = Decoding().decode(write(with_alpha(GREYS) if alpha else GREYS), "x")
    assert np.array_equal(grey, Decoding().decode(deep_png(GREYS[..., :1]), "x"))


def test_grey_with_transparency() -> None:
    levels = read_levels(deep_png(with_alpha(COLOURS[..., :1])), "x")
    assert np.array_equal(levels.values, COLOURS[..., 0])
    assert levels[1:] == (0, 4095)


def test_all_16_bits() -> None:
    full = COLOURS * 16 + 15
    assert np.abs(Decoding(colour=True).decode(deep_png(full), "x") - in_8_bits(full, 65_535)).max() == 0


@pytest.mark.parametrize("value", [0, 5000, 65_535])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_stamp_leaves_the_other_pixels_of_a_png_as_they_are(value: int, channels: int) -> None:
    clean = np.random.default_rng(2).integers(0, 4096, (64, 64, channels)).astype(np.uint16)
    stamped = clean.copy()
    stamped[30:33, 40:43] = value
    one, other = (Decoding(colour=True).decode(deep_png(image), "x").astype(int) for image in (clean, stamped))
    differs = (one != other).any(axis=2)
    differs[30:33, 40:43] = False
    assert not differs.any()


@pytest.mark.parametrize("kind", ["f8", "f4", "i8", "i4", "u4", "u8", "i2", "u2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiffs_of_any_numbers(kind: str, order: str, compression: str | None) -> None:
    values = np.linspace(0, 4095, 20 * 16).round().reshape(20, 16)
    signed = kind[0] != "u"
    values = values - 2000 * signed
    content = tiff(values.astype(kind), byteorder=order, compression=compression, photometric="minisblack")
    low, high = (-2000, 2095) if signed else (0, 4095)
    assert np.abs(Decoding().decode(content, "x") - in_8_bits(values - low, high - low)).max() <= 1


def test_a_tiff_of_planes_and_an_inverted_one() -> None:
    planes = tiff(np.moveaxis(COLOURS, 2, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(Decoding(colour=True).decode(planes, "x"), in_8_bits(COLOURS, 4095))
    values = np.linspace(0, 1, 100).reshape(10, 10)
    inverted = Decoding().decode(tiff(values, photometric="miniswhite"), "x")
    assert np.abs(inverted - in_8_bits(1 - values, 1)).max() <= 1


def test_what_is_not_read_has_a_sentence() -> None:
    small = np.zeros((4, 4))
    bomb = tiff(np.zeros((64, 64), np.float64), compression="zlib")
    with tifffile.TiffFile(io.BytesIO(bomb)) as file:
        page = file.pages.first
        at, count = page.dataoffsets[0], page.databytecounts[0]
    packed = zlib.compress(bytes(80_000), 9)
    bomb = (
        bomb[:at] + packed.ljust(count, b"\0")[:count] if len(packed) > count else bomb[:at] + packed + bomb[at + len(packed) :]
    )
    cases = {
        "x has several pages": tiff(np.zeros((2, 4, 4)), photometric="minisblack"),
        "x is a TIFF of complex128 numbers": tiff(small.astype(complex), photometric="minisblack"),
        "x is a TIFF that is neither grey nor RGB": tiff(np.zeros((4, 4, 4), np.uint16), photometric="separated"),
        "x has values that are not finite": tiff(small + np.nan, photometric="minisblack"),
        "x has values that are not finite or beyond 1e\\+37": tiff(small + 1e300, photometric="minisblack"),
        "x is refused because a part of it has more than its": bomb,
        "x cannot be decoded, because it is a damaged TIFF": tiff(small, photometric="minisblack")[:300],
        "x cannot be decoded": deep_png(COLOURS)[:90],
    }
    for sentence, content in cases.items():
        with pytest.raises(PetechiaError, match=sentence):
            read_levels(content, "x")


@pytest.mark.filterwarnings("ignore:.*zero-size array")
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float64"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_an_image_without_pixels_has_a_sentence(shape: tuple[int, int], kind: str) -> None:
    with pytest.raises(PetechiaError, match="x has no pixels"):
        read_levels(tiff(np.zeros(shape, kind), photometric="minisblack"), "x")


def test_deep_colours_are_not_taken_for_8_bits(tmp_path: Any) -> None:
    (tmp_path / "x.png").write_bytes(deep_png(COLOURS))
    with pytest.raises(PetechiaError, match="more than 8 bits"):
        read_grey(tmp_path / "x.png")
    assert not Decoding(colour=True).keeps(tmp_path / "x.png")
    Image.fromarray(COLOURS.astype(np.uint8)).save(tmp_path / "x.png")
    assert Decoding(colour=True).keeps(tmp_path / "x.png")


RAMP = np.linspace(0, 65_535, 24 * 18).round().reshape(24, 18)


@pytest.mark.parametrize("order", ["<", ">"])
def test_unsigned_numbers_above_2_31_and_signed_ones_of_8_bits(order: Any) -> None:
    got = Decoding().decode(tiff(RAMP.astype(np.uint32) * 65_537, byteorder=order), "x")
    assert np.abs(got - in_8_bits(RAMP, 65_535)).max() <= 1
    signed = (RAMP // 257 - 128).astype(np.int8)
    assert np.abs(Decoding().decode(tiff(signed, byteorder=order), "x") - (signed.astype(float) + 128)).max() <= 1
    colours = tiff(np.dstack([signed] * 3), byteorder=order, photometric="rgb")
    assert np.abs(Decoding(colour=True).decode(colours, "x") - (signed.astype(float) + 128)[..., None]).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_multiplied_by_transparency(order: Any) -> None:
    true, alpha = (RAMP // 257).astype(np.uint8), np.where(np.arange(18) % 2, 128, 255).astype(np.uint8)
    stored = np.round(true * (alpha / 255)).astype(np.uint8)
    options = {"byteorder": order, "photometric": "minisblack", "extrasamples": ["assocalpha"]}
    content = tiff(np.dstack([stored, np.broadcast_to(alpha, true.shape)]), **options)
    assert np.abs(Decoding().decode(content, "x").astype(float) - true).max() <= 2
    assert np.abs(Decoding(colour=True).decode(content, "x").astype(float) - true[..., None]).max() <= 2
    deep = np.dstack([RAMP, np.broadcast_to(alpha * 257.0, RAMP.shape)]).astype(np.uint16)
    with pytest.raises(PetechiaError, match="x is a TIFF whose colours are multiplied by its transparency; save"):
        Decoding().decode(tiff(deep, **options), "x")


def packed(bits: int, order: str, photometric: int) -> bytes:
    """A TIFF whose values have no bits between them, written by hand."""
    values = (RAMP.astype(int) >> (16 - bits))[..., None] >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(values.reshape(len(RAMP), -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: 18, 257: 24, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: 24, 279: len(rows)}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return mark + struct.pack(f"{order}IH", 8, len(tags)) + entries + struct.pack(f"{order}I", 0) + rows


@pytest.mark.parametrize(("bits", "order", "photometric"), [(10, "<", 1), (14, ">", 1), (12, ">", 1), (12, "<", 0)])
def test_packed_numbers_are_not_called_damaged(bits: int, order: str, photometric: int) -> None:
    with pytest.raises(PetechiaError, match=f"x is a TIFF whose values of {bits} bits are packed.*; save it as"):
        Decoding().decode(packed(bits, order, photometric), "x")
    assert np.abs(Decoding().decode(packed(12, "<", 1), "x") - in_8_bits(RAMP, 65_535)).max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float64])
def test_several_images_in_one_page_are_refused(kind: Any) -> None:
    stack = np.stack([RAMP // 257] * 3).astype(kind)
    contents = [
        tiff(stack, photometric="minisblack", volumetric=True, tile=(3, 16, 16)),
        tiff(stack, photometric="minisblack", truncate=True),
        *([tiff(stack, imagej=True, truncate=True)] if kind != np.float64 else []),
    ]
    for content in contents:
        with pytest.raises(PetechiaError, match="x has several pages, and only one is supported"):
            Decoding().decode(content, "x")


def test_a_slice_that_kept_the_description_of_its_stack_is_read() -> None:
    pixels = (RAMP // 257).astype(np.uint8)
    content = tiff(pixels, description="ImageJ=1.54f\nimages=3\nslices=3\n", metadata=None)
    assert np.array_equal(Decoding().decode(content, "x"), pixels)
