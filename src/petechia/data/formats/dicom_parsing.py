"""Parse DICOM files of a bounded number of data elements; pydicom takes about 15 µs and 400 bytes for each, or for an item."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_sequence

from petechia.core.budget import check, limit

HEADER = 8  # bytes that are read for an element or an item
ITEM = b"\xfe\xff\x00\xe0"  # tag of an item; four such bytes that are none are rare
ADVICE = "check the DICOM file"
# A value of one of these types becomes a list of Python objects when it is looked at.
LISTED = frozenset("AE AS AT CS DA DS DT FD FL IS LO PN SH SL SS SV TM UI UL US UV".split())  # noqa: SIM905
ENCODING = ["iso8859"]


class Counting:
    """A file that ends after a certain number of data elements and items.

    Attributes:
        left: how many more there may be.
        exceeded: whether there were more.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._read = file.read
        at = file.tell()
        self._size = file.seek(0, io.SEEK_END)
        file.seek(at)
        self.left = most
        self.seek = file.seek
        self.tell = file.tell
        self.exceeded = False

    def read(self, size: int = -1) -> bytes:
        """Read bytes."""
        if size == HEADER:
            self.left -= 1
            if self.left < 0:
                self.exceeded = True
                return b""
        return self._read(min(size, self._size))  # a file object would allocate whatever is asked for


def parse_bounded(file: BinaryIO, name: str, most: str = "dicom_elements", **options: Any) -> pydicom.Dataset:
    """Parse a DICOM file as `pydicom.dcmread` does, if it is within the limits.

    Args:
        file: the open file; `io.BytesIO(content)` for one in memory.
        name: name of the file for messages.
        most: name of the limit of the number of elements.
        options: for `pydicom.dcmread`.

    Raises:
        PetechiaError: the file has too many elements or a value that is too long.
        Exception: whatever pydicom raises about a damaged file.
    """
    if isinstance(file, io.BytesIO):
        items = file.getvalue().count(ITEM)  # of sequences, and parts of the pixels; fast
        check(most, items, f"{name} has {items:,} items", ADVICE)
    counting = Counting(file, limit(most))
    try:
        dataset = pydicom.dcmread(counting, **options)
    finally:
        if counting.exceeded:
            check(most, limit(most) + 1, f"{name} has more than {limit(most):,} data elements", ADVICE)
    _Check(name, most).values(dataset)
    return dataset


class _Check:
    """Checks what pydicom parses and converts later, when a value is looked at.

    Args:
        name: name of the file for messages.
        most: name of the limit of the number of elements.
    """

    def __init__(self, name: str, most: str) -> None:
        self._name = name
        self._most = most
        self._left = limit(most)

    def values(self, dataset: pydicom.Dataset, counts: bool = False) -> None:
        """Check the values of a file or an item.

        Args:
            dataset: the file or the item.
            counts: count the elements of all sequences, and not only where their size allows too many.

        Raises:
            PetechiaError: a value is too long, or there are too many elements.
        """
        sequences = []
        for element in dataset.values():
            if not isinstance(element, RawDataElement):
                for item in element.value if element.VR == "SQ" else ():
                    self.values(item, counts)
                continue
            kind, content = _kind(element), element.value or b""
            if kind == "SQ":
                sequences.append(element)
            elif kind in LISTED or "US or" in kind:
                check("dicom_value", len(content), f"{self._name} has a value of {len(content):,} bytes", ADVICE)
        if counts or sum(len(element.value or b"") for element in sequences) > HEADER * self._left:
            for element in sequences:
                self._count(element)

    def _count(self, sequence: RawDataElement) -> None:
        content = sequence.value or b""
        counting = Counting(io.BytesIO(content), self._left)
        try:
            items: Iterable[pydicom.Dataset] = read_sequence(
                counting,  # type: ignore[arg-type]
                sequence.is_implicit_VR,
                sequence.is_little_endian,
                len(content),
                ENCODING,
            )
        except Exception:  # it is damaged, and would fail in the same way if it were looked at
            items = []
        if counting.exceeded:
            check(self._most, limit(self._most) + 1, f"{self._name} has more than {limit(self._most):,} data elements", ADVICE)
        self._left = counting.left
        for item in items:
            self.values(item, counts=True)


def _kind(element: RawDataElement) -> str:
    """Return the type of a value as pydicom finds it; private ones are never looked at."""
    if element.VR not in (None, "UN"):
        return str(element.VR)
    return dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else ""
