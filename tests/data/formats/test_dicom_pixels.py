import io
import struct
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from petechia.core.errors import PetechiaError
from petechia.data.formats.dicom import has_preamble, is_dicom, read_dicom, read_dicom_colour
from petechia.data.formats.dicom_entries import Table
from petechia.data.formats.images import Decoding, read_levels
from tests.data.formats.test_dicom import RAMP, made, said, written

VALUES = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)
OVERLAY = np.random.default_rng(1).integers(0, 2, VALUES.shape).astype(np.uint16)
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
WINDOW = {"WindowCenter": "2048", "WindowWidth": "4096"}


def twelve(pixels: NDArray[Any], **entries: Any) -> pydicom.Dataset:
    return made(pixels, **{"BitsStored": 12, "HighBit": 11, **entries})


def as_written(dataset: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The file in an uncompressed syntax."""
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return written(dataset)


def without_meta(content: bytes) -> bytes:
    """The file without preamble and meta header."""
    return content[144 + struct.unpack("<I", content[140:144])[0] :]


@pytest.mark.parametrize("syntax", NATIVE)
def test_files_without_preamble_or_meta_header(syntax: str) -> None:
    content = as_written(twelve(VALUES), syntax)
    assert has_preamble(content)
    for cut in (without_meta(content), content[132:], content[128:], content[:132] + without_meta(content)):
        assert is_dicom(cut)
        assert is_dicom(cut[:132])
        assert np.array_equal(read_dicom(cut, "x").values, VALUES)
        assert np.array_equal(read_levels(cut, "x").values, VALUES)
        assert np.array_equal(Decoding().decode(cut, "x"), read_dicom(content, "x").grey())


@pytest.mark.parametrize("groups", [(0x0008,), (0x0010,), (0x0008, 0x0010, 0x0028)])
@pytest.mark.parametrize("syntax", NATIVE)
def test_files_without_preamble_may_begin_with_the_length_of_a_group(syntax: str, groups: tuple[int, ...]) -> None:
    order, vr = (">" if syntax == ExplicitVRBigEndian else "<"), b"" if syntax == ImplicitVRLittleEndian else b"UL"
    content = without_meta(as_written(twelve(VALUES), syntax))
    for group, first in ((0x0008, 0x0016), (0x0010, 0x0010), (0x0028, 0x0002)):
        at = content.index(struct.pack(f"{order}HH", group, first))
        length = struct.pack(f"{order}HH", group, 0) + vr + struct.pack(f"{order}{'HI' if vr else 'II'}", 4, 1000)
        content = content[:at] + (length if group in groups else b"") + content[at:]
    assert is_dicom(content)
    assert np.array_equal(read_dicom(content, "x").values, VALUES)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_compressed_file_without_meta_header_is_recognised_by_its_pixels(syntax: str) -> None:
    dataset = twelve(VALUES)
    dataset.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(read_dicom(without_meta(written(dataset)), "x").values, VALUES)
    whole = bytes(128) + b"DICM" + meta(ExplicitVRLittleEndian) + without_meta(written_as_is(dataset, syntax))
    assert np.array_equal(read_dicom(whole, "x").values, VALUES)


def written_as_is(dataset: pydicom.Dataset, syntax: str) -> bytes:
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return written(dataset)


def meta(syntax: str | None) -> bytes:
    """A meta header that states a transfer syntax, or none."""
    uid = b"" if syntax is None else str(syntax).encode() + b"\0" * (len(str(syntax)) % 2)
    body = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    body += b"" if syntax is None else struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    return struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


@pytest.mark.parametrize("stated", [None, *NATIVE, JPEGBaseline8Bit])
@pytest.mark.parametrize("true", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_missing_or_wrong_transfer_syntax(stated: str | None, true: str) -> None:
    if stated == ExplicitVRBigEndian:
        pytest.skip("the entries cannot be read")
    content = bytes(128) + b"DICM" + meta(stated) + without_meta(as_written(twelve(VALUES), true))
    assert np.array_equal(read_dicom(content, "x").values, VALUES)


def test_a_preamble_of_another_format_is_skipped() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(buffer, "TIFF")
    content = buffer.getvalue()[:128].ljust(128, b"\0") + written(twelve(VALUES))[128:]
    assert np.array_equal(read_levels(content, "x").values, VALUES)


def test_other_content_is_not_taken_for_dicom() -> None:
    rng = np.random.default_rng(0)
    others = [b"", b"\x08", b"\x08\0\x05\0", b"\x08\0\0\0\0\0\0\0" * 9, bytes(400), b"\x02\0" * 200, b"DIC", b"a,b\n1,2\n" * 40]
    others += [b"\x08\0" + rng.bytes(300) for _ in range(500)]
    others += [b"\x08\0\0\0\4\0\0\0" + rng.bytes(300) for _ in range(500)]
    assert not any(is_dicom(content) for content in others)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_overlays_in_the_unused_bits_are_not_shown(syntax: str | None, signed: bool) -> None:
    values = VALUES.astype(np.int16) - 2048 * signed
    words = (values.astype(np.uint16) & 0x0FFF) | OVERLAY << 12 | OVERLAY[::-1] << 15
    dataset = made(words, PixelRepresentation=int(signed))
    if syntax:
        dataset.PixelRepresentation = 0  # 16 bits are compressed, as archives do
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.PixelRepresentation = int(signed)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.add_new(0x60000010, "US", 64)
    dataset.add_new(0x60000011, "US", 48)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 12)
    assert np.array_equal(read_dicom(written(dataset), "x").values, values)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_values_in_the_high_bits(syntax: str | None, signed: bool) -> None:
    values = VALUES.astype(np.int32) - 2048 * signed
    words = ((values & 0x0FFF) << 4 | OVERLAY).astype(np.uint16)  # an overlay in the low bits
    dataset = made(words)
    if syntax:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 15, int(signed)
    assert np.array_equal(read_dicom(written(dataset), "x").values, values)


@pytest.mark.parametrize("high", [7, 15])
def test_a_wrong_high_bit_is_ignored(high: int) -> None:
    assert np.array_equal(read_dicom(written(twelve(VALUES, HighBit=high)), "x").values, VALUES)


def test_signed_values_whose_sign_is_not_extended() -> None:
    words = (VALUES.astype(np.int32) - 2048) & 0x0FFF
    read = read_dicom(written(twelve(words.astype(np.uint16), PixelRepresentation=1)), "x")
    assert np.array_equal(read.values, VALUES.astype(int) - 2048)


@pytest.mark.parametrize("missing", ["BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames"])
def test_entries_that_may_be_missing_or_empty(missing: str) -> None:
    dataset = made(RAMP)
    setattr(dataset, missing, None)
    assert np.array_equal(read_dicom(written(dataset), "x").values, RAMP)
    del dataset[missing]
    assert np.array_equal(read_dicom(written(dataset), "x").values, RAMP)


@pytest.mark.parametrize(
    ("missing", "tag"),
    [
        ("Rows", "0028,0010"),
        ("Columns", "0028,0011"),
        ("BitsAllocated", "0028,0100"),
        ("PhotometricInterpretation", "0028,0004"),
    ],
)
def test_entries_that_must_be_there_are_named(missing: str, tag: str) -> None:
    dataset = made(RAMP)
    dataset["PixelData"].VR = "OW"
    del dataset[missing]
    with pytest.raises(PetechiaError, match=rf"x has no {missing} \({tag}\).*add this entry"):
        read_dicom(written(dataset), "x")


def test_pixels_that_are_empty_or_too_short_or_have_a_bad_depth_are_named() -> None:
    cases = {
        r"x has no pixels, because its PixelData \(7FE0,0010\) is empty": made(RAMP, PixelData=b""),
        r"its PixelData \(7FE0,0010\) has 100 bytes and its Rows.* need 384": made(RAMP, PixelData=bytes(100)),
        r"x has a BitsAllocated \(0028,0100\) of 12": made(RAMP, BitsAllocated=12),
        r"x has a SamplesPerPixel \(0028,0002\) of 3 with MONOCHROME2": made(RAMP, SamplesPerPixel=3),
        r"x has the photometric interpretation 'CMYK'": made(RAMP, PhotometricInterpretation="CMYK"),
    }
    for sentence, dataset in cases.items():
        with pytest.raises(PetechiaError, match=sentence):
            read_dicom(written(dataset), "x")


@pytest.mark.parametrize("extra", [1, 2, 50, 384, 1000])
def test_pixels_that_are_longer_than_needed(extra: int) -> None:
    content = written(made(RAMP, PixelData=RAMP.tobytes() + b"\7" * (extra + extra % 2)))
    assert np.array_equal(read_dicom(content, "x").values, RAMP)


def test_an_odd_number_of_bytes_and_what_follows_the_pixels() -> None:
    odd = np.arange(15, dtype=np.uint8).reshape(3, 5) * 17
    assert np.array_equal(read_dicom(written(made(odd, PixelData=odd.tobytes() + b"\0")), "x").values, odd)
    padding = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 6) + bytes(6)
    assert np.array_equal(read_dicom(written(made(odd, PixelData=odd.tobytes() + b"\0")) + padding, "x").values, odd)


def test_group_lengths_and_undefined_lengths() -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [256, 0, 16]
    lut.add_new("LUTData", "OW", (np.arange(256).astype(np.uint16) * 257).tobytes())
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    dataset = made(pixels, VOILUTSequence=[lut])
    dataset.add_new(0x00080000, "UL", 4)
    dataset.add_new(0x00280000, "UL", 4)
    dataset["VOILUTSequence"].is_undefined_length = True
    dataset.VOILUTSequence[0].is_undefined_length_sequence_item = True
    assert np.array_equal(read_dicom(written(dataset), "x").grey(), pixels)


PALETTE = np.array([[0, 10, 200], [50, 255, 3], [100, 7, 90], [255, 128, 64]], np.uint8)


@pytest.mark.parametrize("said_bits", [8, 16])
@pytest.mark.parametrize("form", ["packed", "low byte", "high byte", "repeated"])
def test_palettes_of_8_and_16_bits_in_any_form(form: str, said_bits: int) -> None:
    pixels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    tables: dict[str, Any] = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        column = PALETTE[:, channel]
        words = column.astype(np.uint16) * {"packed": 1, "low byte": 1, "high byte": 256, "repeated": 257}[form]
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, said_bits]
        tables[f"{name}PaletteColorLookupTableData"] = column.tobytes() if form == "packed" else words.tobytes()
    content = written(made(pixels, PhotometricInterpretation="PALETTE COLOR", **tables))
    assert np.array_equal(read_dicom_colour(content, "x").reshape(4, 3), PALETTE)


def test_colours_of_16_bits_that_use_12() -> None:
    colours = np.random.default_rng(0).integers(0, 4096, (8, 10, 3)).astype(np.uint16)
    colours[0] = 4095
    assert np.array_equal(read_dicom_colour(written(made(colours)), "x"), colours >> 4)


@pytest.mark.parametrize(("factor", "shift"), [(1, 0), (16, 4), (256, 8)])
def test_palettes_of_fewer_bits_than_they_state(factor: int, shift: int) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tables: dict[str, Any] = {}
    for k, name in enumerate(("Red", "Green", "Blue")):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = (np.roll(np.arange(256), k).astype(np.uint16) * factor + shift).tobytes()
    found = read_dicom_colour(written(made(pixels, PhotometricInterpretation="PALETTE COLOR", **tables)), "x")
    assert np.array_equal(found, np.stack([np.roll(np.arange(256), k).reshape(16, 16) for k in range(3)], axis=2))


@pytest.mark.parametrize("stamp", [None, 255])
def test_colours_of_6_bits_in_8(stamp: int | None) -> None:
    colours = np.random.default_rng(0).integers(0, 64, (40, 40, 3)).astype(np.uint8)
    colours[:2, :2] = colours[:2, :2] if stamp is None else stamp
    found = read_dicom_colour(written(made(colours, BitsStored=6, HighBit=5)), "x").astype(int)
    assert np.abs(found - (colours.clip(0, 63) * (255 / 63))).max() <= 1
    misstated = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    assert np.array_equal(read_dicom_colour(written(made(misstated, BitsStored=6, HighBit=5)), "x"), misstated)


@pytest.mark.parametrize("high", [11, 15])
def test_colours_of_12_bits_in_the_high_or_low_bits(high: int) -> None:
    colours = np.random.default_rng(0).integers(0, 4096, (40, 40, 3)).astype(np.uint16)
    content = written(made(colours << (high - 11), BitsStored=12, HighBit=high))
    assert np.array_equal(read_dicom_colour(content, "x"), colours >> 4)


@pytest.mark.parametrize("end", range(140, 900, 29))
def test_damaged_files_name_an_entry_and_no_exception(end: int, caplog: pytest.LogCaptureFixture) -> None:
    whole = written(made(RAMP, **WINDOW))
    (sentence,) = said(lambda content: read_dicom(content, "x"), [whole[:end]], caplog) or ["(0028,0010)"]
    assert "Error)" not in sentence
    assert "(" in sentence or "without pixels" in sentence


def test_a_damaged_frame_names_the_pixels_and_how_they_are_stored() -> None:
    dataset = twelve(VALUES)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.PixelData = encapsulate([b"\1\0\0\0" + bytes(100)])
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(PetechiaError, match=r"its PixelData \(7FE0,0010\), stored as RLE Lossless, is damaged or contradicts"):
        read_dicom(written(dataset), "x")


def test_frames_that_are_not_stated_are_no_image() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, *RAMP.shape), dtype=np.uint8).astype(RAMP.dtype)
    with pytest.raises(PetechiaError, match="has 3 frames, without saying so"):
        read_dicom(written(made(RAMP, PixelData=frames.tobytes())), "x")


def test_a_palette_gives_what_lies_below_its_first_value_the_first_entry() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    entries = (np.arange(12) * 20).astype(np.uint8)
    table = Table(4, entries.astype(np.uint16), 8)
    assert table(pixels).ravel().tolist() == [0] * 4 + entries.tolist()
