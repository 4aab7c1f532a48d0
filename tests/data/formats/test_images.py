import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.data.formats.images import Decoding, FileReader, read_grey, read_levels


def huge_png(path: Path, side: int) -> None:
    """A small file that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def test_grey_png_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_grey(tmp_path / "a.png"), pixels)


def test_rgba_of_equal_channels_gives_the_same_grey(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    alpha = np.full_like(pixels, 7)
    Image.fromarray(np.stack([pixels] * 3 + [alpha], axis=2)).save(tmp_path / "a.png")
    assert np.array_equal(read_grey(tmp_path / "a.png"), pixels)


def test_real_rgba_files_are_read(nih_sample: Path) -> None:
    modes = {path: Image.open(path).mode for path in (nih_sample / "images").iterdir()}
    rgba = [path for path, mode in modes.items() if mode == "RGBA"]
    assert len(rgba) == 2
    for path in rgba:
        assert np.array_equal(read_grey(path), np.asarray(Image.open(path))[:, :, 0])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 50_000])
def test_a_bomb_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    huge_png(tmp_path / "bomb.png", side)
    with pytest.raises(PetechiaError, match=r"bomb\.png is refused before decoding.*--on-error skip"):
        read_grey(tmp_path / "bomb.png")


def test_truncated_text_deep_and_missing_files_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "deep.png")
    said = {
        "cut": "cannot be decoded",
        "text": "not a PNG",
        "empty": "not a PNG",
        "deep": "more than 8 bits",
        "gone": "missing",
    }
    for name, words in said.items():
        with pytest.raises(PetechiaError, match=f"{name}.png.*{words}"):
            read_grey(tmp_path / f"{name}.png")


def test_the_fingerprint_sees_changed_content_even_with_old_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    reader = FileReader(tmp_path, np.array(["a.png"]))
    before, status = reader.fingerprint(), path.stat()
    assert reader.fingerprint() == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert reader.fingerprint() != before


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_levels_of_8_bits_are_the_grey_of_a_dataset(tmp_path: Path, kind: str, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(pixels).convert(mode), kind)
    (tmp_path / "a").write_bytes(content)
    levels = read_levels(content, "a")
    assert (levels.low, levels.high) == (0, 255)
    assert np.array_equal(levels.grey(), read_grey(tmp_path / "a"))


@pytest.mark.parametrize(("brightest", "white"), [(65_535, 65_535), (4_000, 4_095), (100, 255)])
def test_levels_of_16_bits_use_as_many_as_they_need(brightest: int, white: int) -> None:
    pixels = np.linspace(0, brightest, 64).astype(np.uint16).reshape(8, 8)
    levels = read_levels(encoded(Image.fromarray(pixels)), "deep")
    assert levels.high == white
    assert np.array_equal(levels.values, pixels)
    assert np.abs(levels.grey() - pixels / white * 255).max() <= 0.5


def test_uploads_are_named_as_the_caller_says(tmp_path: Path) -> None:
    huge_png(tmp_path / "bomb.png", 50_000)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    cases = {
        b"": "The image is not a PNG, JPEG or TIFF image; give a PNG, JPEG, TIFF or DICOM image",
        b"GIF89a" + bytes(100): "The image is not a PNG, JPEG or TIFF",
        encoded(Image.fromarray(noise))[:2000]: "The image cannot be decoded",
        (tmp_path / "bomb.png").read_bytes(): "The image is refused before decoding",
        bytes(128) + b"DICM" + bytes(50): "The image",
    }
    for content, sentence in cases.items():
        with pytest.raises(PetechiaError, match=sentence):
            read_levels(content, "The image")


def test_tiff_of_any_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (12, 10), dtype=np.uint8)
    for name, values, expected in (
        ("8", grey, grey),
        ("16", grey.astype(np.uint16) * 257, grey),
        ("12 in 16", grey.astype(np.uint16) * 16 + 15, grey),
        ("float", (grey - grey.min()).astype(np.float32) / (grey.max() - grey.min()) * 3 - 1, None),
        ("signed", grey.astype(np.int32) - 300, None),
    ):
        for compression in (None, "tiff_lzw", "tiff_deflate"):
            Image.fromarray(values).save(tmp_path / "x.tif", compression=compression)
            got = Decoding()(tmp_path / "x.tif")
            stretched = ((grey.astype(float) - grey.min()) / (grey.max() - grey.min()) * 255).round()
            assert np.abs(got.astype(int) - (stretched if expected is None else expected)).max() <= 1, name
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "x.tif", tiffinfo={262: 0})  # white is zero
    assert np.abs(Decoding()(tmp_path / "x.tif").astype(int) - (255 - grey.astype(int))).max() <= 1
    Image.fromarray(grey).save(tmp_path / "x.tif", save_all=True, append_images=[Image.fromarray(grey)])
    with pytest.raises(PetechiaError, match=r"x\.tif has several pages"):
        Decoding()(tmp_path / "x.tif")
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(PetechiaError, match=r"x\.tif has values that are not finite"):
        Decoding()(tmp_path / "x.tif")
    Image.fromarray(grey).save(tmp_path / "x.tif")
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:60])
    with pytest.raises(PetechiaError, match=r"x\.tif"):
        Decoding()(tmp_path / "x.tif")


def test_colours_are_kept_or_become_luma(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "x.png")
    assert np.array_equal(Decoding(colour=True)(tmp_path / "x.png"), colour)
    assert np.array_equal(Decoding()(tmp_path / "x.png"), np.asarray(Image.fromarray(colour).convert("L")))
    assert Decoding(colour=True).keeps(tmp_path / "x.png")
    assert not Decoding().keeps(tmp_path / "x.png")
    deep = colour[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "y.png")
    assert np.array_equal(Decoding(colour=True)(tmp_path / "y.png"), np.repeat(colour[..., :1], 3, axis=2))
    assert not Decoding().keeps(tmp_path / "y.png")
    with pytest.raises(PetechiaError, match="cannot be read"):
        Decoding()(tmp_path / "none.png")
