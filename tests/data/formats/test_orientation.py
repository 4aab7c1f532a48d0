import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from petechia.data.formats.images import Decoding, FileReader, encode_png, read_grey, read_levels
from petechia.data.formats.orientation import TAG, as_stored, upright

ALL = range(1, 9)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)


def file_of(pixels: NDArray[Any], kind: str, orientation: object) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[TAG] = orientation
    options: dict[str, Any] = {"tiffinfo": {TAG: orientation}} if kind == "TIFF" else {"exif": exif}
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", ALL)
def test_stored_pixels_are_turned_as_pillow_does(orientation: int) -> None:
    content = file_of(PIXELS, "PNG", orientation)
    truth = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert np.array_equal(upright(PIXELS, orientation), truth)
    assert np.array_equal(as_stored(truth, orientation), PIXELS)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("colour", [False, True])
def test_files_are_read_upright(tmp_path: Path, kind: str, orientation: int, colour: bool) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8) if colour else PIXELS
    content = file_of(pixels, kind, orientation)
    truth = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(Decoding(colour).decode(content, "x"), np.asarray(truth.convert("RGB" if colour else "L")))
    assert np.array_equal(read_levels(content, "x").grey(), np.asarray(truth.convert("L")))
    (tmp_path / "x").write_bytes(content)
    assert np.array_equal(read_grey(tmp_path / "x"), np.asarray(truth.convert("L")))
    assert FileReader(tmp_path, np.array(["x"])).orientation(0) == orientation


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_files_are_read_upright(kind: str, orientation: int) -> None:
    deep = PIXELS.astype(np.uint16) * 257
    read = read_levels(file_of(deep, kind, orientation), "x").values
    assert np.array_equal(read, upright(deep, orientation))


@pytest.mark.parametrize("orientation", [0, 9, 300])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_orientation_that_does_not_exist_is_none(kind: str, orientation: int) -> None:
    content = file_of(PIXELS, kind, orientation)
    assert np.array_equal(Decoding().decode(content, "x"), np.asarray(Image.open(io.BytesIO(content))))


def test_damaged_exif_data_are_ignored() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert np.array_equal(Decoding().decode(buffer.getvalue(), "x"), PIXELS)


@pytest.mark.parametrize("orientation", ALL)
def test_a_png_is_written_in_an_orientation(orientation: int) -> None:
    content = encode_png(PIXELS, orientation)
    with Image.open(io.BytesIO(content)) as image:
        assert image.getexif().get(TAG, 1) == orientation
        assert np.array_equal(np.asarray(image), as_stored(PIXELS, orientation))
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), PIXELS)
