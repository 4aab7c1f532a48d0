import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petechia.data.images import FileReader, read_grey
from petechia.errors import PetechiaError


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
