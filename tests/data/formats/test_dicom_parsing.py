from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from petechia.core.budget import budget
from petechia.core.errors import PetechiaError
from petechia.data import open_source
from petechia.data.formats.dicom import read_dicom
from petechia.data.formats.dicom_parsing import Counting, parse_bounded
from tests.data.formats.test_dicom import made, written

PIXELS = np.zeros((16, 16), np.uint8)
ITEM, END_OF_ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
UNDEFINED = b"\xff\xff\xff\xff"
VOI_LUT, PRIVATE = b"\x28\x00\x10\x30", b"\x29\x00\x10\x10"
MANY = 5_000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PETECHIA_LIMITS", "dicom_elements=1000,dicomdir_elements=1000,dicom_value=2000")
    budget.cache_clear()
    yield
    budget.cache_clear()


def inserted(elements: bytes, implicit: bool = False) -> bytes:
    """A DICOM file with elements before its pixels."""
    dataset = made(PIXELS)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    content = written(dataset)
    at = content.index(b"\xe0\x7f\x10\x00")
    return content[:at] + elements + content[at:]


def empty(count: int) -> bytes:
    """So many empty elements."""
    return b"".join(struct.pack("<HH2sH", 0x29, 0x1000 + number, b"LO", 0) for number in range(count))


def sequence(tag: bytes, content: bytes, known: bool = True, implicit: bool = False) -> bytes:
    kind = b"" if implicit else b"SQ\0\0"
    return tag + kind + (struct.pack("<I", len(content)) + content if known else UNDEFINED + content + END)


def item(content: bytes, known: bool = True) -> bytes:
    return ITEM + struct.pack("<I", len(content)) + content if known else ITEM + UNDEFINED + content + END_OF_ITEM


CLAIMS: dict[str, Callable[[], bytes]] = {
    "elements": lambda: inserted(empty(MANY)),
    "items of known length": lambda: inserted(sequence(VOI_LUT, item(b"") * MANY)),
    "items of unknown length": lambda: inserted(sequence(VOI_LUT, item(b"", known=False) * MANY, known=False)),
    "private items of unknown length": lambda: inserted(sequence(PRIVATE, item(b"") * MANY, known=False)),
    "elements of an item": lambda: inserted(sequence(VOI_LUT, item(empty(MANY)))),
    "elements of an item of an item": lambda: inserted(sequence(VOI_LUT, item(sequence(VOI_LUT, item(empty(MANY)))))),
    "elements of a known item of an unknown one": lambda: inserted(
        sequence(VOI_LUT, item(sequence(VOI_LUT, item(empty(MANY))), known=False), known=False)
    ),
    "items without types": lambda: inserted(sequence(VOI_LUT, item(b"") * MANY, implicit=True), implicit=True),
    "items of no type": lambda: inserted(VOI_LUT + b"UN\0\0" + struct.pack("<I", 8 * MANY) + item(b"") * MANY),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_too_many_elements_are_refused(name: str) -> None:
    with pytest.raises(
        PetechiaError, match=r"^a\.dcm has (more than 1,000 data elements|\d,\d+ items), and the maximum is 1,000; "
    ):
        read_dicom(CLAIMS[name](), "a.dcm")


def test_values_are_bounded() -> None:
    numbers = b"\\".join([b"1"] * 2000)
    with pytest.raises(PetechiaError, match=r"^a has a value of 3,999 bytes, and the maximum is 2,000"):
        read_dicom(inserted(b"\x28\x00\x50\x10" + struct.pack("<I", 3999) + numbers, implicit=True), "a")
    with pytest.raises(PetechiaError, match=r"^a has a value of 4,000 bytes"):
        read_dicom(inserted(b"\x28\x00\x06\x30" + struct.pack("<I", 4000) + bytes(4000), implicit=True), "a")


def test_parts_of_pixels_are_bounded() -> None:
    dataset = made(PIXELS)
    dataset.compress(RLELossless)
    dataset.PixelData = encapsulate([b"\0\0"]) + item(b"") * MANY
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(PetechiaError, match=r"^a has 5,00\d items"):
        read_dicom(written(dataset), "a")


def test_usual_files_are_parsed_as_pydicom_does() -> None:
    budget.cache_clear()
    folder = Path(pydicom.data.__file__).parent / "test_files"
    tried = 0
    for path in folder.glob("*.dcm"):
        try:
            truth = pydicom.dcmread(path)
        except Exception:  # noqa: S112
            continue
        with path.open("rb") as file:
            try:
                found = parse_bounded(file, path.name)
            except PetechiaError as error:
                assert "data elements" in str(error) or "a value of" in str(error)  # noqa: PT017
                continue
        assert found == truth
        tried += 1
    assert tried > 50


def test_a_file_is_not_asked_for_more_than_it_has() -> None:
    class Strict(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size <= 100
            return super().read(size)

    assert Counting(Strict(bytes(100)), 5).read(1 << 32) == bytes(100)


def test_a_dicomdir_of_too_many_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(inserted(b"\x04\x00\x20\x12SQ\0\0" + struct.pack("<I", 8 * MANY) + item(b"") * MANY))
    with pytest.raises(PetechiaError, match="DICOMDIR has 5,00. items"):
        open_source(f"dicom:{tmp_path}")


def test_the_default_limit_takes_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PETECHIA_LIMITS")
    budget.cache_clear()
    content = inserted(sequence(VOI_LUT, item(b"") * 3_000_000))
    began = time.process_time()
    with pytest.raises(PetechiaError, match="a has 3,000,000 items, and the maximum is 100,000"):
        read_dicom(content, "a")
    assert time.process_time() - began < 2
