from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.uid import HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL, JPEGLSTransferSyntaxes

from petechia.data.formats.codestreams import Frame, frame_of_jpeg2000, frames_of_jpeg, has_colour_transform, is_ycc

RNG = np.random.default_rng(0)
SHARED = Path(__file__).parents[4] / "shared"
PYDICOM = Path(pydicom.data.__file__).parent / "test_files"


def encoded(mode: str, kind: str, height: int, width: int, **options: Any) -> bytes:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = RNG.integers(0, 256, (height, width, channels) if channels > 1 else (height, width), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "components"), [("L", 1), ("RGB", 3)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (300, 7)])
def test_jpeg(mode: str, components: int, height: int, width: int) -> None:
    assert list(frames_of_jpeg(encoded(mode, "JPEG", height, width))) == [Frame(height, width, components, 8, 1)]
    (progressive,) = frames_of_jpeg(encoded(mode, "JPEG", height, width, progressive=True))
    assert progressive[:4] == (height, width, components, 8)
    assert progressive.scans > 3


def test_every_start_of_frame_is_seen() -> None:
    one, other = encoded("L", "JPEG", 8, 9), encoded("L", "JPEG", 5, 6)
    at = one.index(b"\xff\xda")
    both = one[:at] + other[other.index(b"\xff\xc0") :]
    assert [frame[:2] for frame in frames_of_jpeg(both)] == [(8, 9), (5, 6)]


def test_jpeg_ls() -> None:
    for path in PYDICOM.glob("*JPEG*LS*.dcm"):
        dataset = pydicom.dcmread(path)
        assert dataset.file_meta.TransferSyntaxUID in JPEGLSTransferSyntaxes
        (frame,) = frames_of_jpeg(next(generate_frames(dataset.PixelData, number_of_frames=1)))
        assert frame[:3] == (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
        assert frame.bits == dataset.BitsStored


@pytest.mark.parametrize("jp2", [False, True])
def test_jpeg_2000(jp2: bool) -> None:
    options: dict[str, Any] = {"no_jp2": not jp2, "quality_layers": [20]}
    assert frame_of_jpeg2000(encoded("L", "JPEG2000", 50, 70, **options)) == Frame(50, 70, 1, 8)
    tiled = encoded("RGB", "JPEG2000", 50, 70, tile_size=(32, 32), offset=(3, 5), tile_offset=(1, 2), **options)
    with Image.open(io.BytesIO(tiled)) as image:
        image.load()
        assert frame_of_jpeg2000(tiled) == Frame(image.height, image.width, 3, 8, tiles=6)


@pytest.mark.parametrize("transform", [0, 1])
@pytest.mark.parametrize("jp2", [False, True])
def test_the_colour_transform_of_jpeg_2000(jp2: bool, transform: int) -> None:
    content = encoded("RGB", "JPEG2000", 50, 70, mct=transform, no_jp2=not jp2)
    assert has_colour_transform(content) == bool(transform)
    assert not has_colour_transform(content[: content.index(b"\xff\x52")])


def test_the_colours_of_jpeg() -> None:
    jfif, adobe = encoded("RGB", "JPEG", 8, 9), encoded("RGB", "JPEG", 8, 9, keep_rgb=True)
    length = int.from_bytes(jfif[4:6])
    bare = jfif[:2] + jfif[4 + length :]
    at = adobe.index(b"Adobe") + 11
    assert (is_ycc(jfif), is_ycc(adobe), is_ycc(bare)) == (True, False, None)
    assert is_ycc(adobe[:at] + b"\1" + adobe[at + 1 :])
    assert (
        is_ycc(adobe[:4] + b"\0\x0c" + adobe[6 : at - 1] + adobe[at + 1 :]) is None
    )  # cut short, as in pydicom's SC_rgb_jpeg.dcm


def test_htj2k() -> None:
    paths = list((SHARED / "cases" / "15-htj2k").rglob("*.dcm"))
    if not paths:
        pytest.skip("needs ../shared/cases")
    for path in paths:
        dataset = pydicom.dcmread(path)
        assert dataset.file_meta.TransferSyntaxUID in (HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)
        frame = frame_of_jpeg2000(next(generate_frames(dataset.PixelData, number_of_frames=1)))
        assert frame[:3] == (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)


def test_damaged_codestreams() -> None:
    valid = encoded("L", "JPEG2000", 50, 70, no_jp2=True)
    whole = encoded("L", "JPEG2000", 50, 70)
    renamed, nothing = whole.replace(b"jp2c", b"jp2x"), valid[:8] + bytes(32) + valid[40:]
    endless = whole[:12] + struct.pack(">I4s", 0, b"free") + whole[12:]
    for content in (b"", valid[:41], valid[1:], whole[:40], renamed, nothing, endless):
        with pytest.raises(ValueError, match="SIZ|codestream"):
            frame_of_jpeg2000(content)
    assert list(frames_of_jpeg(b"\xff\xd8\xff\xc0")) == []
