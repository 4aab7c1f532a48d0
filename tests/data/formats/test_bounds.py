from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petechia.core.budget import budget
from petechia.core.errors import PetechiaError
from petechia.core.worker import Limits, Pool
from petechia.data.formats import images
from petechia.data.formats.images import Decoding, encode_jpeg, encode_png, read_grey, read_levels

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
COMMENT = b"\xff\xfe\0\4ab"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    small = "image_parts=50,image_metadata=30000,image_scans=20,image_side=2000,image_bytes=1e6"
    monkeypatch.setenv("PETECHIA_LIMITS", small)
    budget.cache_clear()
    yield
    budget.cache_clear()


def saved(kind: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(chunks: bytes) -> bytes:
    content = encode_png(PIXELS)
    return content[:33] + chunks + content[33:]


def with_scans(count: int) -> bytes:
    content = saved("JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * (count - content.count(b"\xff\xda")) + content[-2:]


def with_segments(segments: bytes) -> bytes:
    content = encode_jpeg(PIXELS)
    return content[:2] + segments + content[2:]


FINE: dict[str, Callable[[], bytes]] = {
    "png": lambda: with_chunks(chunk(b"teSt", b"x") * 40 + chunk(b"tEXt", b"a\0" + bytes(20_000))),
    "jpeg": lambda: with_segments(COMMENT * 30 + b"\xff" * 10),
    "progressive": lambda: with_scans(20),
    "scans in a comment": lambda: with_segments(b"\xff\xfe\1\0" + (b"\xff\xda" * 200)[:254]),
    "pixels in many bytes": lambda: encode_png(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)),
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "chunks": (lambda: with_chunks(chunk(b"teSt", b"") * 60), "has more than 50 parts, and the maximum is 50"),
    "chunks of pixels": (lambda: with_chunks(chunk(b"IDAT", b"") * 60), "has more than 50 parts"),
    "bytes of chunks": (lambda: with_chunks(chunk(b"teSt", bytes(40_000))), "has 40,013 bytes that are not pixels"),
    "segments": (lambda: with_segments(COMMENT * 60), "has more than 50 parts"),
    "fillers": (lambda: with_segments(b"\xff" * 100), "has more than 50 parts"),
    "bytes of segments": (
        lambda: with_segments((b"\xff\xe1\x40\0" + bytes(0x3FFE)) * 2),
        "has 33,... bytes that are not pixels",
    ),
    "scans": (lambda: with_scans(21), "has 21 scans, and the maximum is 20"),
    "width": (lambda: encode_png(np.zeros((1, 2001), np.uint8)), "claims 2,001 x 1 pixels, and the maximum is 2,000"),
    "height": (lambda: encode_jpeg(np.zeros((2001, 1), np.uint8)), "claims 1 x 2,001 pixels, and the maximum is 2,000"),
}


def readers(folder: Path, content: bytes) -> list[Callable[[], object]]:
    path = folder / "a"
    path.write_bytes(content)
    return [lambda: read_grey(path), lambda: Decoding()(path), lambda: read_levels(content, "a"), lambda: Decoding(True)(path)]


@pytest.mark.parametrize("name", FINE)
def test_images_within_the_limits_are_read(tmp_path: Path, name: str) -> None:
    for read in readers(tmp_path, FINE[name]()):
        read()


@pytest.mark.parametrize("name", REFUSED)
def test_images_beyond_the_limits_are_refused(tmp_path: Path, name: str) -> None:
    content, said = REFUSED[name][0](), REFUSED[name][1]
    for read in readers(tmp_path, content):
        with pytest.raises(PetechiaError, match=f"a is refused before decoding because it {said}"):
            read()


def test_files_that_take_no_space_are_not_read(tmp_path: Path) -> None:
    for name, begin in (("a.png", b"\x89PNG\r\n\x1a\n"), ("a.tif", b"II*\0"), ("a.dcm", bytes(128) + b"DICM")):
        with (tmp_path / name).open("wb") as file:
            file.write(begin)
            file.truncate(20 << 30)
        for read in (read_grey, Decoding()):
            with pytest.raises(PetechiaError, match="has 21,474,836,480 bytes, and the maximum is 1,000,000"):
                read(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PetechiaError, match="is not a regular file"):
        read_grey(tmp_path / "pipe")


def test_tiff_is_decoded_in_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Limits(1 << 30, 60), (images.__name__,))
    asked: list[str] = []
    ask = pool.ask

    def noted(what: str, function: str, *values: object) -> object:
        asked.append(function)
        return ask(what, function, *values)

    monkeypatch.setattr(pool, "ask", noted)
    monkeypatch.setattr(images, "decoding_pool", lambda: pool)
    np.testing.assert_array_equal(read_levels(saved("TIFF", compression="tiff_lzw"), "a").values, PIXELS)
    deep = read_levels(saved("TIFF", PIXELS.astype(np.uint16) * 16), "a")
    np.testing.assert_array_equal(deep.values, PIXELS * 16.0)
    assert asked == ["petechia.data.formats.images:decode_tiff"] * 2
    with pytest.raises(PetechiaError, match="^a is refused before decoding because it claims 2,001 x 1 pixels"):
        read_levels(saved("TIFF", np.zeros((1, 2001), np.uint8)), "a")
    path = tmp_path / "a.tif"
    path.write_bytes(saved("TIFF", PIXELS.astype(np.uint16)))
    with pytest.raises(PetechiaError, match="more than 8 bits"):
        read_grey(path)
    pool.close()
