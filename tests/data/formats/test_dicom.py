import io
import logging
import struct
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from petechia.core.errors import PetechiaError
from petechia.data.formats.dicom import read_dicom, read_dicom_colour
from tests.conftest import SHARED

RAMP = np.arange(16 * 12, dtype=np.uint16).reshape(16, 12) * 20


def made(pixels: NDArray[Any], **entries: Any) -> pydicom.Dataset:
    """An image with one frame."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    dataset.PatientName = "Doe^Jane"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    for key, value in entries.items():
        setattr(dataset, key, value)
    return dataset


def written(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def read(pixels: NDArray[Any], **entries: Any) -> Any:
    return read_dicom(written(made(pixels, **entries)), "x.dcm")


def test_without_a_window_all_values_are_shown() -> None:
    levels = read(RAMP)
    assert (levels.low, levels.high) == (0, RAMP.max())
    assert np.array_equal(levels.values, RAMP)
    assert np.abs(levels.grey() - RAMP / RAMP.max() * 255).max() <= 0.5


def test_a_window_by_hand() -> None:
    levels = read(RAMP, WindowCenter=["1000", "50"], WindowWidth=["401", "10"])  # the first of two
    assert (levels.low, levels.high) == (799.5, 1199.5)
    grey = levels.grey()
    assert (grey[RAMP <= 799] == 0).all()
    assert (grey[RAMP >= 1200] == 255).all()
    assert grey[RAMP == 1000] == round(200.5 / 400 * 255)
    assert read(RAMP, WindowCenter="1000", WindowWidth="400", VOILUTFunction="LINEAR_EXACT")[1:] == (800, 1200)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom(function: str) -> None:
    dataset = made(
        RAMP, WindowCenter="1000", WindowWidth="800", VOILUTFunction=function, RescaleSlope="2", RescaleIntercept="-500"
    )
    out = apply_voi_lut(apply_modality_lut(RAMP, dataset), dataset)
    with np.errstate(over="ignore"):
        low, high = apply_voi_lut(np.array([-1e30, 1e30]), dataset)
    truth = (out - low) / (high - low) * 255
    assert np.abs(read_dicom(written(dataset), "x").grey() - truth).max() <= 0.51


@pytest.mark.parametrize("width", ["0", "-5", ""])
def test_a_window_without_width_is_none(width: str) -> None:
    assert read(RAMP, WindowCenter="5", WindowWidth=width)[1:] == (0, RAMP.max())


def test_exact_windows_may_be_narrower_than_1() -> None:
    window = {"WindowCenter": "100", "WindowWidth": "0.5"}
    assert read(RAMP, **window, VOILUTFunction="LINEAR_EXACT")[1:] == (99.75, 100.25)
    assert read(RAMP, **window)[1:] == (0, RAMP.max())  # narrower than a step of the values
    slope = {"RescaleSlope": "0.01", "RescaleIntercept": "0"}
    assert read(RAMP, WindowCenter="10", WindowWidth="0.5", **slope)[1:] == (9.75, 10.25)


def test_a_window_of_one_step_is_a_threshold() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read(RAMP, WindowCenter="0.5", WindowWidth="1").grey(), np.where(RAMP > 0, 255, 0))


@pytest.mark.parametrize("slope", ["1", "-1"])
def test_a_sigmoid_rises_whatever_the_slope(slope: str) -> None:
    sign = int(slope)
    levels = read(
        RAMP,
        WindowCenter=str(1000 * sign),
        WindowWidth="800",
        VOILUTFunction="SIGMOID",
        RescaleSlope=slope,
        RescaleIntercept="0",
    )
    truth = 255 / (1 + np.exp(-4 * (sign * RAMP.astype(float) - sign * 1000) / 800))
    assert np.abs(levels.grey() - truth).max() <= 0.51


def test_a_voi_lut_of_8_bits_may_have_more_than_256_entries() -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [2000, 0, 8]
    lut.add_new("LUTData", "OW", (np.arange(2000) // 8).astype(np.uint16).tobytes())
    levels = read(RAMP, VOILUTSequence=[lut])
    assert (levels.low, levels.high) == (0, 255)
    assert np.array_equal(levels.grey(), RAMP.clip(0, 1999) // 8)


def test_a_voi_lut_without_data_does_not_hide_the_window() -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [256, 0, 16]
    assert read(RAMP, VOILUTSequence=[lut], WindowCenter="1000", WindowWidth="401")[1:] == (799.5, 1199.5)


def test_a_voi_lut_is_applied() -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [256, 0, 16]
    lut.add_new("LUTData", "OW", (np.arange(255, -1, -1).astype(np.uint16) * 257).tobytes())
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read(pixels, VOILUTSequence=[lut]).grey(), 255 - pixels)


def test_monochrome1_is_turned_round_with_its_window() -> None:
    plain = read(RAMP, WindowCenter="1000", WindowWidth="401")
    turned = read(RAMP, WindowCenter="1000", WindowWidth="401", PhotometricInterpretation="MONOCHROME1")
    assert np.abs(turned.grey().astype(int) - (255 - plain.grey().astype(int))).max() <= 1
    assert (turned.low, turned.high) == (plain.low, plain.high)


def test_signed_pixels_rescaling_and_padding() -> None:
    pixels = np.array([[-2000, -1000], [0, 500]], np.int16)
    levels = read(pixels, RescaleSlope="2", RescaleIntercept="100", PixelPaddingValue=-2000)
    assert levels.values.tolist() == [[-3900, -1900], [100, 1100]]
    assert (levels.low, levels.high) == (-1900, 1100)


def test_12_bits_in_16() -> None:
    assert np.array_equal(read(RAMP, BitsStored=12, HighBit=11).values, RAMP)


def test_colour_becomes_luma() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    assert np.array_equal(read(pixels).grey(), np.asarray(Image.fromarray(pixels).convert("L")))


def test_colour_of_12_bits_in_16_is_as_bright_as_of_8() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    deep = read(pixels.astype(np.uint16) * 16, BitsStored=12, HighBit=11)
    assert np.array_equal(deep.grey(), read(pixels).grey())


def test_ybr_becomes_luma() -> None:
    pixels = np.full((4, 6, 3), 128, np.uint8)
    pixels[..., 0] = np.arange(24).reshape(4, 6) * 10
    assert np.array_equal(read(pixels, PhotometricInterpretation="YBR_FULL").grey(), pixels[..., 0])


def test_a_palette_is_applied() -> None:
    pixels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    tables: dict[str, Any] = {}
    for channel in ("Red", "Green", "Blue"):
        tables[f"{channel}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        tables[f"{channel}PaletteColorLookupTableData"] = (np.array([0, 50, 100, 255], np.uint16) * 257).tobytes()
    assert read(pixels, PhotometricInterpretation="PALETTE COLOR", **tables).grey().tolist() == [[0, 50], [100, 255]]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_pixels_are_the_same(syntax: str) -> None:
    if not get_encoder(syntax).is_available:
        pytest.skip(f"no encoder is installed for {UID(syntax).name}")
    pixels = np.tile(RAMP, (8, 8))  # encoders refuse very small images
    dataset = made(pixels)
    dataset.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(read_dicom(written(dataset), "x").values, pixels)


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm"])
def test_pydicoms_own_files_are_read(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom does not ship {name}")
    levels = read_dicom(Path(str(path)).read_bytes(), name)
    assert levels.grey().std() > 5


def test_a_real_radiograph_is_the_right_way_round_and_its_monochrome1_copy_turned() -> None:
    files = sorted((SHARED / "dicom-sample").glob("*.dcm"))
    if not files:
        pytest.skip(f"the real DICOM files are not in {SHARED / 'dicom-sample'}")
    greys = {}
    for file in files:
        kind = str(pydicom.dcmread(file, stop_before_pixels=True).PhotometricInterpretation)
        greys[kind] = read_dicom(file.read_bytes(), file.name).grey().astype(int)
    assert np.array_equal(greys["MONOCHROME1"], 255 - greys["MONOCHROME2"])  # the same pixels under both names
    height, width = greys["MONOCHROME2"].shape
    spine = greys["MONOCHROME2"][height // 2 : 3 * height // 4, 9 * width // 20 : 11 * width // 20].mean()
    lungs = greys["MONOCHROME2"][height // 3 : height // 2, width // 5 : 3 * width // 10].mean()
    assert spine > lungs + 20


def test_the_window_that_is_chosen() -> None:
    several = made(RAMP, WindowCenter=["1000", "50"], WindowWidth=["401", "11"], VOILUTFunction="LINEAR")
    assert read_dicom(written(several), "x", window=2)[1:] == (44.5, 54.5)
    with pytest.raises(PetechiaError, match=r"x has 2 windows, but number 3 was requested; leave out window=3"):
        read_dicom(written(several), "x", window=3)
    with pytest.raises(PetechiaError, match="x has 0 windows, but number 2"):
        read_dicom(written(made(RAMP)), "x", window=2)
    tables = []
    for slope in (1, -1):
        lut = pydicom.Dataset()
        lut.LUTDescriptor = [256, 0, 16]
        lut.add_new("LUTData", "OW", (np.arange(256)[::slope].astype(np.uint16) * 257).tobytes())
        tables.append(lut)
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    dataset = made(pixels, VOILUTSequence=tables)
    assert np.array_equal(read_dicom(written(dataset), "x", window=2).grey(), 255 - read_dicom(written(dataset), "x").grey())
    sigmoid = made(RAMP, WindowCenter=["1000", "2000"], WindowWidth=["800", "400"], VOILUTFunction="SIGMOID")
    truth = 255 / (1 + np.exp(-4 * (RAMP.astype(float) - 2000) / 400))
    assert np.abs(read_dicom(written(sigmoid), "x", window=2).grey() - truth).max() <= 0.51


def test_a_modality_lut_is_applied_before_the_window() -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [200, 0, 16]
    lut.ModalityLUTType = "US"
    lut.add_new("LUTData", "OW", (np.arange(200)[::-1].astype(np.uint16) * 3).tobytes())
    pixels = np.arange(200, dtype=np.uint16).reshape(20, 10)
    levels = read(pixels, ModalityLUTSequence=[lut], WindowCenter="300", WindowWidth="601")
    assert np.array_equal(levels.values, (199 - pixels) * 3)
    assert levels[1:] == (-0.5, 599.5)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_depths_and_signs_in_each_syntax(bits: int, signed: bool, syntax: str | None) -> None:
    rng = np.random.default_rng(bits)
    kind: Any = (np.int8 if signed else np.uint8) if bits == 8 else (np.int16 if signed else np.uint16)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    pixels = rng.integers(low, high, (64, 48), endpoint=True).astype(kind)
    dataset = made(pixels, BitsStored=bits, HighBit=bits - 1)
    if syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    levels = read_dicom(written(dataset), "x")
    assert np.array_equal(levels.values, pixels)
    assert levels[1:] == (pixels.min(), pixels.max())
    dataset.PhotometricInterpretation = "MONOCHROME1"
    turned = read_dicom(written(dataset), "x")
    assert np.abs(turned.grey().astype(int) - (255 - levels.grey().astype(int))).max() <= 1


def test_baseline_jpeg_is_close() -> None:
    x = np.linspace(0, 255, 64)
    pixels = ((x[:, None] + x) / 2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    dataset = made(pixels, PixelData=encapsulate([buffer.getvalue()]))
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert np.abs(read_dicom(written(dataset), "x").values - pixels).max() <= 4


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR"])
def test_colours_are_kept_where_they_are_wanted(kind: str) -> None:
    x = np.linspace(0, 255, 64)
    pixels = np.stack([np.tile(x, (64, 1)), np.tile(x[:, None], (1, 64)), np.full((64, 64), 90)], axis=2).astype(np.uint8)
    if kind == "RGB":
        content = written(made(pixels))
    elif kind == "PALETTE COLOR":
        pixels = pixels // 16 * 16
        flat, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        tables: dict[str, Any] = {}
        for channel, name in enumerate(("Red", "Green", "Blue")):
            tables[f"{name}PaletteColorLookupTableDescriptor"] = [len(flat), 0, 16]
            tables[f"{name}PaletteColorLookupTableData"] = (flat[:, channel].astype(np.uint16) * 257).tobytes()
        content = written(made(index.reshape(64, 64).astype(np.uint16), PhotometricInterpretation=kind, **tables))
    else:
        ybr = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
        data = ybr.tobytes()
        if kind == "YBR_FULL_422":
            pairs = ybr.reshape(64, 32, 2, 3)
            data = np.concatenate([pairs[..., 0], pairs[:, :, 0, 1:]], axis=2).tobytes()
        content = written(made(pixels, PhotometricInterpretation=kind, PixelData=data))
    got = read_dicom_colour(content, "x")
    assert got.shape == (64, 64, 3)
    assert np.abs(got.astype(int) - pixels).max() <= (0 if kind in ("RGB", "PALETTE COLOR") else 6)
    assert np.abs(read_dicom(content, "x").grey().astype(int) - np.asarray(Image.fromarray(got).convert("L"))).max() <= 1


def test_grey_is_repeated_where_colours_are_wanted() -> None:
    got = read_dicom_colour(written(made(RAMP)), "x")
    assert np.array_equal(got, np.repeat(read(RAMP).grey()[..., None], 3, axis=2))


# What pydicom ships, and how it is read: what is not an image of one frame is refused.
REFUSED = (
    "frames",
    "without pixels",
    "deflated",
    "not a DICOM file",
    "no decoder",
    "cannot be decoded",
    "damaged",
    "not supported",
    "contradicts",
    "not finite",
    "has no Rows",
    "NumberOfFrames (0028,0008) that is not a number",
)


def test_all_of_pydicoms_files_are_read_or_refused_with_a_sentence() -> None:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    greys, sentences = {}, {}
    for path in sorted(folder.glob("*.dcm")):
        try:
            greys[path.name] = read_dicom(path.read_bytes(), path.name).grey()
        except PetechiaError as error:
            sentences[path.name] = str(error)
    assert len(greys) >= 50
    assert all(any(word in sentence for word in REFUSED) for sentence in sentences.values()), sentences
    # One picture in several syntaxes.
    for one, other in (
        ("MR_small.dcm", "MR_small_RLE.dcm"),
        ("MR_small.dcm", "MR_small_jp2klossless.dcm"),
        ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    ):
        if one in greys and other in greys:
            assert np.array_equal(greys[one], greys[other])


def test_what_is_not_one_image_is_refused_with_a_sentence() -> None:
    report = made(RAMP)
    del report.PixelData
    cases = {
        r"x.dcm is a DICOM file without pixels": written(report),
        r"x.dcm has 3 frames": written(made(np.zeros((3, 4, 4), np.uint8).reshape(12, 4), Rows=4, NumberOfFrames="3")),
        r"claims 60,000 x 60,000 pixels": written(made(RAMP, Rows=60_000, Columns=60_000)),
        r"x.dcm claims 12 x 0 pixels": written(made(RAMP, Rows=0)),
        r"x.dcm cannot be decoded": written(made(RAMP, Rows=1000)),
        r"photometric interpretation 'HSV'": written(made(RAMP, PhotometricInterpretation="HSV")),
        r"x.dcm is not a DICOM file": b"\x89PNG\r\n\x1a\n" + bytes(400),
    }
    for sentence, content in cases.items():
        with pytest.raises(PetechiaError, match=sentence):
            read_dicom(content, "x.dcm")


def test_deflated_files_are_refused_before_they_are_inflated() -> None:
    dataset = made(np.zeros((64, 64), np.uint16))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(PetechiaError, match="deflated DICOM file"):
        read_dicom(written(dataset), "x.dcm")


def test_a_deflated_file_is_refused_wherever_its_header_says_so() -> None:
    dataset = made(np.zeros((64, 64), np.uint16))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = written(dataset)
    filler = struct.pack("<HH2sHI", 2, 0x0102, b"OB", 0, 4000) + bytes(4000)
    place = whole.index(struct.pack("<HH2s", 2, 0x0010, b"UI"))
    (length,) = struct.unpack("<I", whole[140:144])  # of the header, its first entry
    late = whole[:140] + struct.pack("<I", length + len(filler)) + whole[144:place] + filler + whole[place:]
    with pytest.raises(PetechiaError, match="deflated DICOM file"):
        read_dicom(late, "x.dcm")


def test_a_file_may_mention_the_deflated_syntax() -> None:
    syntax = DeflatedExplicitVRLittleEndian
    mentions = {"ImageComments": f"was {syntax}", "AvailableTransferSyntaxUID": syntax}
    assert np.array_equal(read(RAMP, **mentions).values, RAMP)


def test_a_syntax_without_decoder_is_named() -> None:
    dataset = made(RAMP, PixelData=encapsulate([bytes(100)]))
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = MPEG4HP41
    with pytest.raises(PetechiaError, match=r"x\.dcm is stored as MPEG-4 AVC.*no decoder"):
        read_dicom(written(dataset), "x.dcm")


@pytest.mark.parametrize("slope", ["1e300", "1e36"])
def test_values_beyond_float32_are_refused(slope: str) -> None:
    with pytest.raises(PetechiaError, match="beyond 1e\\+37"):
        read(RAMP, RescaleSlope=slope, RescaleIntercept="0")


def test_threads_leave_logging_and_warnings_as_they_were() -> None:
    content = written(made(np.zeros((200, 200), np.uint16)))

    def several() -> None:
        for _ in range(10):
            read_dicom(content, "x.dcm")

    before = logging.getLogger("pydicom").disabled, list(warnings.filters)
    threads = [threading.Thread(target=several) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (logging.getLogger("pydicom").disabled, list(warnings.filters)) == before


def test_a_compressed_frame_larger_than_the_header_says_is_refused_before_decoding() -> None:
    path = get_testdata_file("JPEG2000.dcm", download=False)
    if path is None:
        pytest.skip("pydicom does not ship JPEG2000.dcm")
    dataset = pydicom.dcmread(str(path))
    dataset.Rows = dataset.Rows // 2
    with pytest.raises(PetechiaError, match="which contradicts its other entries"):
        read_dicom(written(dataset), "x.dcm")


def said(work: Callable[[bytes], object], contents: list[bytes], caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages with which some files are refused; nothing else may be raised, warned about or logged."""
    sentences = []
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in contents:
            try:
                work(content)
            except PetechiaError as error:
                sentences.append(str(error))
    assert not caplog.records
    return sentences


def test_damaged_files_are_sentences_without_patient_data(caplog: pytest.LogCaptureFixture) -> None:
    whole = written(made(RAMP, WindowCenter="1000", WindowWidth="400", PatientBirthDate="19990101"))
    chance = np.random.default_rng(0)
    broken = [whole[:end] for end in range(0, len(whole), 37)]
    for _ in range(300):
        flipped = bytearray(whole)
        for place in chance.integers(132, len(whole), 3):
            flipped[place] = chance.integers(256)
        broken.append(bytes(flipped))

    def decode(content: bytes) -> None:
        assert read_dicom(content, "x.dcm").grey().ndim == 2

    sentences = said(decode, broken, caplog)
    assert len(sentences) > 20
    assert not any("Doe" in sentence or "1999" in sentence for sentence in sentences)
