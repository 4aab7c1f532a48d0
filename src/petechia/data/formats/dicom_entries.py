"""Read entries of a DICOM file that others write in several wrong ways."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

FUNCTIONAL_GROUPS = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
BYTE = 8


class EntryError(Exception):
    """An entry of a DICOM file cannot be used. The message continues a sentence that begins with the name of the file."""


def entry(keyword: str) -> str:
    """Return the name of an entry with its tag, for messages: "Rows (0028,0010)"."""
    tag = int(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def numbers(dataset: pydicom.Dataset, keyword: str) -> list[float | None]:
    """Return the numbers of an entry that may be absent, empty, one number or several; None where one of several is empty.

    A comma is a decimal comma.

    Raises:
        EntryError: a value is not a number.
    """
    if keyword not in dataset:
        return []
    try:
        value = dataset[keyword].value
    except Exception:  # pydicom cannot convert the text
        value = _text(dataset, keyword).split("\\")
    if isinstance(value, bytes):  # the VR is ambiguous, because the pixel representation is missing
        value = np.frombuffer(value[: len(value) // 2 * 2], _word_type(dataset)).tolist()
    several = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [_number(one, keyword) for one in several] if value is not None and value != "" else []


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    raw = dataset.get_item(keyword)
    content = getattr(raw, "value", None)
    return content.decode("latin-1") if isinstance(content, bytes) else str(content or "")


def _word_type(dataset: pydicom.Dataset) -> str:
    return ">u2" if dataset.original_encoding[1] is False else "<u2"


def _number(value: Any, keyword: str) -> float | None:
    text = str(value).strip(" \0").replace(",", ".")
    if value is None or not text:
        return None
    if text.lower() == "nan":  # this is how programs write that there is none
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise EntryError(f"has a {entry(keyword)} that is not a number; correct or remove this entry")
    return number


def number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """Return the first number of an entry; None if the entry is absent or empty.

    Raises:
        EntryError: a value is not a number.
    """
    return next((one for one in numbers(dataset, keyword) if one is not None), None)


def integer(dataset: pydicom.Dataset, keyword: str, missing: int | None = None) -> int:
    """Return the first number of an entry as an integer.

    Args:
        dataset: DICOM file or item.
        keyword: name of the entry.
        missing: what to return if the entry is absent or empty.

    Raises:
        EntryError: the entry is absent and there is no `missing`, or it is not an integer.
    """
    value = number(dataset, keyword)
    if value is None and missing is not None:
        return missing
    if value is None:
        raise EntryError(f"has no {entry(keyword)}, without which its pixels cannot be read; add this entry")
    if value != int(value):
        raise EntryError(f"has a {entry(keyword)} that is not an integer; correct this entry")
    return int(value)


def word(dataset: pydicom.Dataset, keyword: str) -> str:
    """Return the first text of an entry, in capital letters; "" if it is absent or empty."""
    value = dataset.get(keyword)
    value = value[0] if isinstance(value, MultiValue | list) and value else value
    return str(value or "").strip(" \0").upper()


def items(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    """Return the items of a sequence; [] if it is absent or not a sequence."""
    value = dataset.get(keyword)
    return [one for one in value if isinstance(one, pydicom.Dataset)] if isinstance(value, pydicom.Sequence) else []


def places(dataset: pydicom.Dataset, sequence: str) -> list[pydicom.Dataset]:
    """Return what may contain the entries of a functional group (PS3.3, C.7.6.16), the most specific first.

    Args:
        dataset: DICOM file with one frame.
        sequence: name of the group's sequence.

    Returns:
        The item for the frame and the one for all frames, if they are there, and the file, as for files that are not enhanced.
    """
    groups = [group for key in FUNCTIONAL_GROUPS for group in items(dataset, key)[:1]]
    return [*(item for group in groups for item in items(group, sequence)[:1]), dataset]


class Table:
    """A lookup table (PS3.3, C.11.1.1 and C.7.6.3.1.5).

    Attributes:
        first: the value that the first entry is for.
        entries: uint16 [n].
        bits: number of bits that the entries use, at least 8. Files often state more than that.
    """

    def __init__(self, first: int, entries: NDArray[np.uint16], bits: int) -> None:
        self.first = first
        self.entries = entries
        self.bits = bits

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Look up values; those before the first or after the last entry get this entry."""
        first = self.first
        if values.size and not (values.min() < first + len(self.entries) and values.max() >= first):
            # The first value is signed if the pixels are, but files get that wrong.
            first += 2**16 if first < 0 else -(2**16) if first >= 2**15 else 0
        wide = values if values.dtype.kind == "f" else values.astype(np.int64)  # below the first there must be room
        return self.entries[(wide - first).clip(0, len(self.entries) - 1).round().astype(np.intp)]


def has_table(dataset: pydicom.Dataset, descriptor: str = "LUTDescriptor", data: str = "LUTData") -> bool:
    """Return whether a table is there: some files have an empty one."""
    return bool(numbers(dataset, descriptor)) and bool(dataset.get(data))


def table_of(dataset: pydicom.Dataset, descriptor: str = "LUTDescriptor", data: str = "LUTData") -> Table:
    """Read a lookup table.

    Entries of 8 bits are packed into bytes, or each is the low or the high byte of a word.

    Args:
        dataset: what contains the table.
        descriptor: name of the entry with the number of entries, the first value and the number of bits.
        data: name of the entry with the table.

    Raises:
        EntryError: descriptor and data contradict each other.
    """
    stated = [int(one) for one in numbers(dataset, descriptor) if one is not None]
    if len(stated) != 3:
        raise EntryError(f"has a {entry(descriptor)} of {len(stated)} numbers instead of 3; correct this entry")
    count, bits = stated[0] % 2**16 or 2**16, stated[2]
    content = dataset.get(data)
    if isinstance(content, bytes):
        packed = len(content) in (count, count + 1) and count > 1
        usable = content if packed else content[: len(content) // 2 * 2]
        found: NDArray[Any] = np.frombuffer(usable, np.uint8 if packed else _word_type(dataset))
    else:
        found = np.atleast_1d(np.asarray(content, np.int64)).astype(np.uint16)
        packed = len(found) == (count + 1) // 2 and count > 1
        found = found.astype("<u2").view(np.uint8) if packed else found
    if len(found) < count:
        raise EntryError(f"has {len(found):,} entries in {entry(data)}, but {entry(descriptor)} states {count:,}; correct them")
    entries = found[:count].astype(np.uint16)
    used = max(BYTE, int(entries.max()).bit_length())
    if packed:
        used = BYTE
    elif bits <= BYTE < used and not (entries & 0xFF).any():
        entries, used = (entries >> BYTE).astype(np.uint16), BYTE
    return Table(stated[1], entries, used)
