from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

from petechia.core.budget import MIB, budget
from petechia.core.errors import PetechiaError
from petechia.core.worker import Limits, Pool
from petechia.data.formats import dicom_codecs
from petechia.data.formats.dicom import read_dicom, read_dicom_colour
from tests.data.formats.test_dicom import made, written

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    budget.cache_clear()
    yield
    budget.cache_clear()


def waves() -> Dataset:
    dataset = made(PIXELS)
    dataset.compress(JPEG2000Lossless)
    return dataset


def frame_of(dataset: Dataset) -> bytes:
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def with_frame(dataset: Dataset, frame: bytes) -> bytes:
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return written(dataset)


def with_components(frame: bytes, count: int) -> bytes:
    """A JPEG 2000 codestream that claims so many components."""
    size = (38 + 3 * count).to_bytes(2, "big")
    return frame[:4] + size + frame[6:40] + count.to_bytes(2, "big") + frame[42:45] * count + frame[45:]


def test_pixels_come_back_from_the_worker() -> None:
    for syntax in (JPEG2000Lossless, RLELossless):
        dataset = made(PIXELS)
        dataset.compress(syntax)
        np.testing.assert_array_equal(read_dicom(written(dataset), "a").values, PIXELS)


def test_codecs_are_not_called_in_this_process() -> None:
    script = (
        "import sys; from petechia.data.formats.dicom import read_dicom\n"
        "import pydicom.pixels.decoders.pylibjpeg as one, pydicom.pixels.decoders.pillow as other\n"
        "def fail(*_): raise SystemExit('called here')\n"
        "one._decode_frame = other._decode_frame = fail\n"
        "print(read_dicom(sys.stdin.buffer.read(), 'a').values.sum())"
    )
    told = subprocess.run([sys.executable, "-c", script], input=written(waves()), capture_output=True, check=True)
    assert float(told.stdout) == PIXELS.sum()


@pytest.mark.parametrize("count", [2, 3, 16384])
def test_components_beyond_the_samples_are_refused(count: int) -> None:
    dataset = waves()
    content = with_frame(dataset, with_components(frame_of(dataset), count))
    with pytest.raises(
        PetechiaError, match=rf"^a has a SamplesPerPixel .* of 1, but its PixelData .* has {count:,} components"
    ):
        read_dicom(content, "a")


def test_tiles_are_bounded() -> None:
    dataset = made(np.zeros((300, 300), np.uint8))
    dataset.compress(JPEG2000Lossless)
    frame = bytearray(frame_of(dataset))
    frame[24:32] = bytes((0, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(PetechiaError, match="claims 90,000 tiles, and the maximum is 16,384"):
        read_dicom(with_frame(dataset, bytes(frame)), "a")


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    already = content.count(b"\xff\xda")
    return content[:-2] + content[last:-2] * (scans - already) + content[-2:]


def test_scans_of_a_jpeg_are_bounded() -> None:
    dataset = made(PIXELS)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert read_dicom(with_frame(dataset, progressive(20)), "a").values.shape == PIXELS.shape
    with pytest.raises(PetechiaError, match="claims 5,000 scans, and the maximum is 100"):
        read_dicom(with_frame(dataset, progressive(5000)), "a")


def test_runs_beyond_the_pixels_are_refused() -> None:
    dataset = made(PIXELS)
    dataset.compress(RLELossless)
    frame = frame_of(dataset)
    assert read_dicom(with_frame(dataset, frame + bytes(100)), "a").values.shape == PIXELS.shape
    with pytest.raises(PetechiaError, match=r"^a has 2\d,\d+ bytes in PixelData .*, but unpacked it has only 4,096"):
        read_dicom(with_frame(dataset, frame + b"\x81\0" * 10_000), "a")


def test_a_codec_that_takes_too_much_costs_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for limits, said in (
        (Limits(MIB, 60), "needed more than 1 MiB"),
        (Limits(1 << 30, 1e-4), "took longer than 0.0001 seconds"),
    ):
        pool = Pool(limits, (dicom_codecs.__name__,))
        monkeypatch.setattr(dicom_codecs, "decoding_pool", lambda pool=pool: pool)
        large = made(np.random.default_rng(0).integers(0, 256, (500, 500), np.uint8))
        large.compress(RLELossless)
        with pytest.raises(PetechiaError, match=f"^a.dcm {said}"):
            read_dicom(written(large), "a.dcm")
        pool.close()


def test_threads_read_compressed_files_at_the_same_time() -> None:
    contents = []
    for number in range(12):
        dataset = made(PIXELS + np.uint8(number))
        dataset.compress(JPEG2000Lossless)
        contents.append(written(dataset))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda content: read_dicom(content, "a").values, contents))
    for number, values in enumerate(found):
        np.testing.assert_array_equal(values, PIXELS + np.uint8(number))


COLOURS = np.stack([np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8), *np.full((2, 64, 64), 60, np.uint8)], axis=2)


def frame_in(kind: str, pixels: NDArray[np.uint8], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420"])
def test_colours_are_those_that_the_frame_states(stated: str) -> None:
    jfif = frame_in("JPEG", COLOURS, quality=100, subsampling=0)
    adobe = jfif[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1" + jfif[4 + int.from_bytes(jfif[4:6]) :]
    frames = {
        (JPEGBaseline8Bit, jfif),
        (JPEGBaseline8Bit, adobe),
        (JPEGBaseline8Bit, frame_in("JPEG", COLOURS, quality=100, keep_rgb=True)),
        (JPEG2000, frame_in("JPEG2000", COLOURS, mct=1)),
        (JPEG2000Lossless, frame_in("JPEG2000", COLOURS, mct=1, no_jp2=True)),
    }
    for syntax, frame in frames:
        dataset = made(COLOURS, PhotometricInterpretation=stated)
        dataset.file_meta.TransferSyntaxUID = syntax
        assert np.abs(read_dicom_colour(with_frame(dataset, frame), "a").astype(int) - COLOURS).max() <= 4


@pytest.mark.parametrize("stated", [JPEGBaseline8Bit, JPEGLossless, JPEGLSLossless, JPEG2000, HTJ2K, RLELossless])
def test_frames_of_another_syntax_than_is_stated(stated: str) -> None:
    grey = COLOURS[..., 0]
    runs = made(grey)
    runs.compress(RLELossless)
    for frame in (frame_in("JPEG", grey, quality=100), frame_in("JPEG2000", grey, no_jp2=True), frame_of(runs)):
        dataset = made(grey)
        dataset.file_meta.TransferSyntaxUID = UID(stated)
        assert np.abs(read_dicom(with_frame(dataset, frame), "a").values - grey).max() <= 2


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEG2000])
def test_8_bits_where_16_are_allocated(syntax: str) -> None:
    grey = COLOURS[..., 0]
    dataset = made(grey.astype(np.uint16), BitsStored=8, HighBit=7)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    frame = frame_in("JPEG2000" if syntax == JPEG2000 else "JPEG", grey)
    assert np.abs(read_dicom(with_frame(dataset, frame), "a").values - grey).max() <= 4


def test_colours_of_video_and_of_16_bits_are_refused_with_a_sentence() -> None:
    with pytest.raises(PetechiaError, match="has the photometric interpretation 'YBR_PARTIAL_420'"):
        read_dicom(written(made(COLOURS, PhotometricInterpretation="YBR_PARTIAL_420")), "a")
    with pytest.raises(PetechiaError, match="a has YBR_FULL pixels of 16 bits, and only 8 are supported; convert it to RGB"):
        read_dicom(written(made(COLOURS.astype(np.uint16), PhotometricInterpretation="YBR_FULL")), "a")
