import struct
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from petechia.core.errors import PetechiaError
from petechia.data.formats.dicom import read_dicom
from tests.data.formats.test_dicom import RAMP, made, written
from tests.data.test_levels import radiograph

DEEP = (np.arange(64 * 64, dtype=np.uint16)).reshape(64, 64)  # every value of 12 bits once


def grey(dataset: pydicom.Dataset) -> NDArray[np.int64]:
    return read_dicom(written(dataset), "x").grey().astype(int)


def shown(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    return np.round((values.astype(float) - low).clip(0, high - low) / (high - low) * 255)


def lut(descriptor: list[int], data: bytes | list[int], vr: str = "OW") -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.LUTDescriptor = descriptor
    item.add_new("LUTData", vr, data)
    return item


def with_raw(entries: dict[str, bytes]) -> bytes:
    """An image with decimal strings that pydicom refuses to write."""
    whole = written(made(RAMP))
    added = b""
    for tag, content in sorted((tag_for_keyword(key) or 0, content) for key, content in entries.items()):
        padded = content + b" " * (len(content) % 2)
        added += struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"DS", len(padded)) + padded
    at = whole.index(b"\xe0\x7f\x10\x00OW")
    return whole[:at] + added + whole[at:]


@pytest.mark.parametrize("most", [255, 1023, 4095, 16_383, 65_535])
@pytest.mark.parametrize("said", [12, 16])
def test_a_voi_lut_is_as_bright_as_its_data_whatever_it_says(most: int, said: int) -> None:
    data = np.linspace(0, most, 4096).round().astype(np.uint16)
    dataset = made(DEEP, BitsStored=12, HighBit=11, VOILUTSequence=[lut([4096, 0, said], data.tobytes())])
    assert np.abs(grey(dataset) - shown(data[DEEP], 0, most)).max() == 0


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_modality_luts_of_any_depth(bits: int, vr: str) -> None:
    table = np.linspace(0, 2**bits - 1, 4096).round().astype(np.uint16)[::-1]
    content = table.tobytes() if vr == "OW" else table.tolist()
    item = lut([4096, 0, bits], content, vr)
    item.ModalityLUTType = "US"
    dataset = made(DEEP, BitsStored=12, HighBit=11, ModalityLUTSequence=[item], WindowCenter="100", WindowWidth="151")
    assert np.abs(grey(dataset) - shown(table[DEEP], 24.5, 174.5)).max() == 0


def test_a_lut_of_packed_bytes_and_one_with_values_in_the_high_bytes() -> None:
    data = np.arange(256, dtype=np.uint8)[::-1]
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for content in (data.tobytes(), data.astype(np.uint16).tobytes(), (data.astype(np.uint16) << 8).tobytes()):
        for said in (8, 16):
            dataset = made(pixels, VOILUTSequence=[lut([256, 0, said], content)])
            assert np.abs(grey(dataset) - (255 - pixels)).max() <= (1 if content[::2] == bytes(256) else 0)


@pytest.mark.parametrize("first", [-1000, 64_536])  # the same in 16 bits
def test_the_first_value_of_a_lut_may_have_the_wrong_sign(first: int) -> None:
    data = np.arange(2001).astype(np.uint16)
    pixels = np.linspace(-1200, 1200, 49).round().astype(np.int16).reshape(7, 7)
    dataset = made(pixels, RescaleSlope="1", RescaleIntercept="0")
    dataset.VOILUTSequence = [lut([2001, 0, 16], data.tobytes())]
    dataset.VOILUTSequence[0]["LUTDescriptor"] = pydicom.dataelem.DataElement(
        "LUTDescriptor", "SS" if first < 0 else "US", [2001, first, 16]
    )
    assert np.abs(grey(dataset) - shown((pixels + 1000).clip(0, 2000), 0, 2047)).max() == 0


@pytest.mark.parametrize("item", [lut([], b""), lut([256, 0, 16], b""), pydicom.Dataset()])
@pytest.mark.parametrize("key", ["VOILUTSequence", "ModalityLUTSequence"])
def test_empty_luts_are_none(item: pydicom.Dataset, key: str) -> None:
    dataset = made(RAMP, WindowCenter="1000", WindowWidth="401", **{key: Sequence([item])})
    assert read_dicom(written(dataset), "x")[1:] == (799.5, 1199.5)


def test_a_lut_that_is_cut_off_is_named() -> None:
    with pytest.raises(PetechiaError, match=r"x has 100 entries in LUTData \(0028,3006\), but LUTDescriptor.* states 4,096"):
        grey(made(RAMP, VOILUTSequence=[lut([4096, 0, 16], bytes(200))]))
    with pytest.raises(PetechiaError, match=r"x has a LUTDescriptor \(0028,3002\) of 2 numbers instead of 3"):
        grey(made(RAMP, VOILUTSequence=[lut([4096, 0], bytes(200))]))


def enhanced(**root: Any) -> pydicom.Dataset:
    """One frame with rescaling for all frames and a window for this frame."""
    dataset = made(DEEP, BitsStored=12, HighBit=11, NumberOfFrames="1", **root)
    rescale, window, shared, frame = (pydicom.Dataset() for _ in range(4))
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = "2", "-1024", "HU"
    window.WindowCenter, window.WindowWidth = ["40", "500"], ["400", "1500"]
    shared.PixelValueTransformationSequence = [rescale]
    frame.FrameVOILUTSequence = [window]
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], [frame]
    return dataset


def test_functional_groups_of_one_frame() -> None:
    levels = read_dicom(written(enhanced()), "x")
    assert np.array_equal(levels.values, DEEP * 2.0 - 1024)
    assert levels[1:] == (-160 + 0.0, 239)
    assert read_dicom(written(enhanced()), "x", window=2)[1:] == (-250, 1249)


def test_functional_groups_come_before_the_file_and_real_world_values_are_not_used() -> None:
    dataset = enhanced(RescaleSlope="9", RescaleIntercept="9", WindowCenter="9", WindowWidth="9")
    real = pydicom.Dataset()
    real.RealWorldValueSlope, real.RealWorldValueIntercept = 0.1, 7.0
    dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = [real]
    dataset.RealWorldValueMappingSequence = [real]
    assert np.array_equal(grey(dataset), grey(enhanced()))


@pytest.mark.parametrize("empty", [None, "", 0])
@pytest.mark.parametrize("where", ["shared", "file"])
def test_empty_entries_of_the_frame_leave_those_of_all_frames_or_of_the_file(where: str, empty: Any) -> None:
    entries = {"RescaleSlope": "2", "RescaleIntercept": "-1024", "WindowCenter": "40", "WindowWidth": "400"}
    dataset = enhanced(**entries) if where == "file" else enhanced()
    (shared,), (frame,) = dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence
    if where == "file":
        del shared.PixelValueTransformationSequence
    else:
        shared.FrameVOILUTSequence = frame.FrameVOILUTSequence
    rescale, window = pydicom.Dataset(), pydicom.Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, window.WindowCenter, window.WindowWidth = (empty,) * 4
    frame.PixelValueTransformationSequence, frame.FrameVOILUTSequence = [rescale], [window]
    assert np.array_equal(grey(dataset), grey(enhanced()))


@pytest.mark.parametrize("where", ["PerFrame", "Shared"])
def test_a_voi_lut_of_a_functional_group(where: str) -> None:
    dataset = made(DEEP, BitsStored=12, HighBit=11, WindowCenter="9", WindowWidth="9")
    group, voi = pydicom.Dataset(), pydicom.Dataset()
    voi.VOILUTSequence = [lut([4096, 0, 12], (4095 - DEEP.reshape(-1)).tobytes())]
    group.FrameVOILUTSequence = [voi]
    setattr(dataset, f"{where}FunctionalGroupsSequence", [group])
    assert np.array_equal(grey(dataset), shown(4095 - DEEP.astype(int), 0, 4095))


def test_an_enhanced_file_without_groups_is_like_any_other() -> None:
    dataset = made(RAMP, WindowCenter="1000", WindowWidth="401")
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [], [pydicom.Dataset()]
    assert read_dicom(written(dataset), "x")[1:] == (799.5, 1199.5)


PADDED = np.linspace(-1000, 1500, 64 * 48).round().astype(np.int16).reshape(64, 48)
PADDED[:10] = -2000


@pytest.mark.parametrize(("vr", "value"), [("SS", -2000), ("US", 63_536)])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_padding_is_left_out_whatever_its_sign(vr: str, value: int, syntax: str | None) -> None:
    dataset = made(PADDED if syntax != ExplicitVRBigEndian else PADDED.astype(">i2"))
    dataset.PixelRepresentation = 1
    dataset.PixelPaddingValue = pydicom.dataelem.DataElement("PixelPaddingValue", vr, value).value
    dataset["PixelPaddingValue"].VR = vr
    if syntax:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    levels = read_dicom(written(dataset), "x")
    assert levels[1:] == (PADDED[10:].min(), PADDED.max())
    assert np.array_equal(levels.values, PADDED)


@pytest.mark.parametrize(("padding", "limit"), [(-2000, -1500), (-1500, -2000)])
def test_a_range_of_padding_is_left_out(padding: int, limit: int) -> None:
    pixels = PADDED.copy()
    pixels[10:15] = -1500
    levels = read_dicom(written(made(pixels, PixelPaddingValue=padding, PixelPaddingRangeLimit=limit)), "x")
    assert levels[1:] == (pixels[15:].min(), pixels.max())


def test_padding_beyond_the_stored_bits() -> None:
    pixels = DEEP.copy()
    pixels[:9] = 63_536
    levels = read_dicom(written(made(pixels, BitsStored=12, HighBit=11, PixelPaddingValue=63_536)), "x")
    assert levels[1:] == (DEEP[9:].min(), 4095)


def test_an_image_of_padding_alone_is_shown() -> None:
    assert grey(made(np.full((8, 8), 5, np.uint16), PixelPaddingValue=5)).shape == (8, 8)


@pytest.mark.parametrize("kind", ["FloatPixelData", "DoubleFloatPixelData"])
def test_pixels_in_floating_point(kind: str) -> None:
    values = np.linspace(-3, 5, 64 * 48).reshape(64, 48).astype(np.float32 if kind.startswith("F") else np.float64)
    values[:5] = -1000
    dataset = made(RAMP, Rows=64, Columns=48, BitsAllocated=8 * values.itemsize)
    for key in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[key]
    setattr(dataset, kind, values.tobytes())
    setattr(dataset, kind.replace("Data", "PaddingValue"), -1000.0)
    levels = read_dicom(written(dataset), "x")
    assert levels[1:] == pytest.approx((values[5:].min(), 5))
    assert np.abs(levels.grey() - shown(values, values[5:].min(), 5)).max() <= 1
    values[3, 3] = np.nan
    setattr(dataset, kind, values.tobytes())
    with pytest.raises(PetechiaError, match="x has values that are not finite"):
        read_dicom(written(dataset), "x")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", "sigmoid", ["SIGMOID", "LINEAR"], ""])
@pytest.mark.parametrize("number", [1, 2])
def test_several_windows_with_a_function(function: str | list[str], number: int) -> None:
    dataset = made(DEEP, BitsStored=12, HighBit=11, WindowCenter=["1000", "2000"], WindowWidth=["800", "401"])
    dataset.add_new("VOILUTFunction", "CS", function)
    centre, width = (1000, 800) if number == 1 else (2000, 401)
    used = (function[number - 1] if isinstance(function, list) else function).upper()
    x = DEEP.astype(float)
    truth = {
        "SIGMOID": 255 / (1 + np.exp(-4 * (x - centre) / width)),
        "LINEAR_EXACT": shown(x, centre - width / 2, centre + width / 2),
    }.get(used, shown(x, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2))
    assert np.abs(read_dicom(written(dataset), "x", number).grey() - truth).max() <= 0.51


@pytest.mark.parametrize(
    ("entries", "window"),
    [
        ({"WindowCenter": b"1000,5", "WindowWidth": b"401"}, (800, 1200)),
        ({"WindowCenter": b"\\1000\\9", "WindowWidth": b"\\401\\9"}, (799.5, 1199.5)),
        ({"WindowCenter": b"1000\\", "WindowWidth": b"401 "}, (799.5, 1199.5)),
        ({"WindowCenter": b"", "WindowWidth": b"401 "}, (0, 3820)),
        ({"RescaleSlope": b"1,5 ", "RescaleIntercept": b"0,5 "}, (0.5, 5730.5)),
        ({"RescaleSlope": b"2\\2 ", "RescaleIntercept": b"1\\1 "}, (1, 7641)),
        ({"RescaleSlope": b"", "RescaleIntercept": b""}, (0, 3820)),
        ({"RescaleSlope": b"", "RescaleIntercept": b"-10 "}, (-10, 3810)),
        ({"WindowCenter": b"nan", "WindowWidth": b"NaN"}, (0, 3820)),
        ({"RescaleSlope": b"2 "}, (0, 7640)),
        ({"RescaleSlope": b"0 ", "RescaleIntercept": b"7 "}, (0, 3820)),
        ({"RescaleSlope": b" \0", "RescaleIntercept": b"0 "}, (0, 3820)),
    ],
)
def test_numbers_that_are_written_in_wrong_ways(entries: dict[str, bytes], window: tuple[float, float]) -> None:
    assert read_dicom(with_raw(entries), "x")[1:] == window


@pytest.mark.parametrize("key", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("content", [b"Zebedee", b"1.2.3", b"inf", b"1,000,0"])
def test_what_is_not_a_number_is_named_and_not_quoted(key: str, content: bytes) -> None:
    entries = {"WindowCenter": b"5", "WindowWidth": b"9", "RescaleSlope": b"1", "RescaleIntercept": b"0", key: content}
    with pytest.raises(PetechiaError, match=rf"x has a {key} \(0028,....\) that is not a number; correct or remove") as caught:
        read_dicom(with_raw(entries), "x")
    assert "Zebedee" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 200, 4095, 65_535])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("entries", [{}, {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}, {"PixelPaddingValue": 200}])
def test_a_stamp_in_a_file_without_a_window_leaves_the_other_pixels_as_they_are(
    value: int, kind: str, entries: dict[str, Any]
) -> None:
    clean = radiograph(128)
    stamped = clean.copy()
    stamped[60:64, 90:94] = value
    one, other = (grey(made(image, PhotometricInterpretation=kind, **entries)) for image in (clean, stamped))
    differs = np.abs(one - other) > 1
    differs[60:64, 90:94] = False
    assert not differs.any()
    assert one.std() > 20


@pytest.mark.parametrize("value", [0, 255])
def test_8_bits_without_a_window_are_shown_as_in_a_png(value: int) -> None:
    pixels = np.random.default_rng(0).integers(6, 188, (64, 64), dtype=np.uint8)
    for entries in ({}, {"PixelPaddingValue": 0}, {"PixelPaddingValue": int(pixels[0, 0])}):
        assert np.array_equal(grey(made(pixels, **entries)), pixels)
    pixels[3:6, 3:6] = value
    for entries in ({}, {"PixelPaddingValue": value}):
        assert np.array_equal(grey(made(pixels, **entries)), pixels)
    assert set(np.unique(grey(made((pixels > 90).astype(np.uint8))))) == {0, 255}  # a mask
