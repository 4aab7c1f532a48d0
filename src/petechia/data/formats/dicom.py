"""Read one image from a DICOM file, with its polarity and window applied."""

from __future__ import annotations

import io
import logging
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.datadict import dictionary_has_tag
from pydicom.filereader import read_partial
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from petechia.core.budget import limit
from petechia.core.errors import PetechiaError
from petechia.core.worker import FailedCallError
from petechia.data.formats.dicom_codecs import unpack
from petechia.data.formats.dicom_entries import EntryError
from petechia.data.formats.dicom_parsing import Counting, parse_bounded
from petechia.data.formats.dicom_pixels import OPTIONS, check, damaged, decode
from petechia.data.formats.dicom_values import levels_of
from petechia.data.levels import Levels, in_colour, uncut

DEFLATED = b"1.2.840.10008.1.2.1.99"
STATES_DEFLATED = re.compile(rb"\x02\0\x10\0.{4,8}[\s\0]*" + re.escape(DEFLATED), re.DOTALL)  # TransferSyntaxUID, of any VR
HEAD = 1024  # bytes at the beginning of a file from which `is_dicom` can tell
PREAMBLE, MAGIC = 128, b"DICM"
FIRST_GROUPS = (0x0002, 0x0008)  # of a file without preamble
UNDEFINED = 0xFFFFFFFF  # length
META = 0x0002  # group of the meta header, which is always in explicit VR
MOST_OF_HEADER = 1 << 16  # bytes of an entry at the beginning of a file
LOOKED_AT = 4  # entries
GROUP_LENGTH = 4  # bytes of the entry xxxx,0000
LOGGERS = "pydicom", "pydicom.pixels.decoders.base"  # disabling the first does not disable the second
T = TypeVar("T")
Reading: TypeAlias = Callable[[pydicom.Dataset, NDArray[Any] | None], T]  # gets a file, and its pixels if they were compressed
_SILENCE = threading.Lock()


def is_dicom(content: bytes) -> bool:
    """Return whether the content begins like a DICOM file, with or without preamble and meta header.

    Args:
        content: the whole file, or its first `HEAD` bytes; with 132 bytes, a few files without preamble are missed.
    """
    return has_preamble(content) or content.startswith(MAGIC) or _begins_with_entries(content[:HEAD])


def has_preamble(content: bytes) -> bool:
    """Return whether the content begins with a preamble, as every DICOM file should (PS3.10, 7.1)."""
    return content[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC


def _begins_with_entries(head: bytes) -> bool:
    """Return whether a file begins with entries of the first groups in ascending order, in any transfer syntax."""
    order = ">" if head[:1] == b"\0" else "<"
    at, last, found = 0, -1, 0
    while found < LOOKED_AT and at + 8 <= len(head):
        group, element = struct.unpack_from(f"{order}HH", head, at)
        tag, vr = group << 16 | element, head[at + 4 : at + 6].decode("latin-1")
        known = bool(group % 2) or not element or dictionary_has_tag(tag)
        if tag <= last or (not found and group not in FIRST_GROUPS) or not known:
            return False
        long = vr in EXPLICIT_VR_LENGTH_32
        if long and at + 12 > len(head):
            break
        form, place, size = ("I", 8, 12) if long else ("H", 6, 8) if vr in STANDARD_VR else ("I", 4, 8)
        (length,) = struct.unpack_from(f"{order}{form}", head, at + place)
        if length == UNDEFINED:
            return found > 0
        expected = length % 2 == 0 and length <= MOST_OF_HEADER if element else length == GROUP_LENGTH
        if not expected or (group == META and vr not in STANDARD_VR):
            return False
        at, last, found = at + size + length, tag, found + 1
    return found > 0


def read_dicom(content: bytes, name: str, window: int = 1) -> Levels:
    """Decode a single-frame DICOM image to grey levels.

    The modality LUT or rescaling is applied. After a VOI LUT or a sigmoid window, the window is the range of their output.
    Without any window, it is the range of the values without padding and outliers, see `petechia.data.levels.shown_range`, or
    all 8 bits of an image of 8 bits. MONOCHROME1 is inverted within its window, so that higher values are brighter, and colours
    are converted to luma. Values of functional groups come before those of the file; real-world values are not used.

    Args:
        content: content of the file.
        name: name of the file for messages, which never contain patient data.
        window: number of the VOI LUT to use, or of the window if the file has no VOI LUT; 1 is the first.

    Raises:
        PetechiaError: this is not a DICOM file, it has no pixels, several frames or too few windows, exceeds a limit,
            or it cannot be decoded.
    """
    return _decoded(content, name, levels_at(window))


def read_dicom_uncut(content: bytes, name: str, window: int = 1) -> NDArray[np.uint8] | NDArray[np.int16]:
    """Decode a single-frame DICOM image to grey levels that no window cuts off, [H, W], see `petechia.data.levels.uncut`.

    Args:
        content: content of the file.
        name: name of the file for messages.
        window: see `read_dicom`.

    Raises:
        PetechiaError: as for `read_dicom`.
    """
    return _decoded(content, name, uncut_at(window))


def read_dicom_colour(content: bytes, name: str, window: int = 1) -> NDArray[np.uint8]:
    """Decode a single-frame DICOM image to uint8 [H, W, 3]; a grey image is windowed and its levels are repeated.

    Args:
        content: content of the file.
        name: name of the file for messages.
        window: see `read_dicom`.

    Raises:
        PetechiaError: as for `read_dicom`.
    """
    return _decoded(content, name, colours_at(window))


def levels_at(window: int) -> Reading[Levels]:
    """Return a function that reads the grey levels of a decoded image, see `read_dicom`."""

    def levels(dataset: pydicom.Dataset, unpacked: NDArray[Any] | None) -> Levels:
        pixels = decode(dataset, unpacked)
        if pixels.ndim == 3:
            return Levels(_luma(pixels).astype(np.float32), 0, 255)
        return levels_of(dataset, pixels, window)

    return levels


def uncut_at(window: int) -> Reading[NDArray[np.uint8] | NDArray[np.int16]]:
    """Return a function that reads grey levels which no window cuts off, see `read_dicom_uncut`."""

    def levels(dataset: pydicom.Dataset, unpacked: NDArray[Any] | None) -> NDArray[np.uint8] | NDArray[np.int16]:
        pixels = decode(dataset, unpacked)
        if pixels.ndim == 3:
            return _luma(pixels)
        return uncut(levels_of(dataset, pixels, window).grey(), levels_of(dataset, pixels, None))

    return levels


def colours_at(window: int) -> Reading[NDArray[np.uint8]]:
    """Return a function that reads colours, see `read_dicom_colour`."""

    def colours(dataset: pydicom.Dataset, unpacked: NDArray[Any] | None) -> NDArray[np.uint8]:
        pixels = decode(dataset, unpacked)
        return pixels if pixels.ndim == 3 else in_colour(levels_of(dataset, pixels, window).grey())

    return colours


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _decoded(content: bytes, name: str, read: Reading[T]) -> T:
    with explained(name):
        with quiet():
            dataset = parse(content, name)
        return decoded(dataset, name, read)


def decoded(dataset: pydicom.Dataset, name: str, read: Reading[T]) -> T:
    """Check and decode an image of one frame; call it within `explained`.

    Args:
        dataset: the parsed file, or one frame of it.
        name: name of the file for messages.
        read: gets the file, and its pixels if they were compressed.

    Raises:
        EntryError: an entry cannot be used, or the pixels are damaged.
        PetechiaError: the file exceeds a limit.
    """
    with quiet():
        compressed = check(dataset, name)
    unpacked = None
    if compressed:
        try:
            unpacked = unpack(compressed, name, OPTIONS)  # not within `quiet`, so that threads can do so at the same time
        except FailedCallError:
            raise damaged(dataset) from None
    with quiet():
        return read(dataset, unpacked)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Say what is wrong with a file."""
    try:
        yield
    except EntryError as error:
        raise PetechiaError(f"{name} {error}.") from None
    except PetechiaError:
        raise
    except Exception:  # a damaged file can make pydicom raise anything
        raise PetechiaError(
            f"{name} cannot be decoded, because one of the entries that describe its pixels (group 0028, or the functional "
            f"groups in 5200) is damaged; restore the file."
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings quote values that may identify a patient. Filters are global: one thread at a time."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = [logger.disabled for logger in loggers]
        for logger in loggers:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, was in zip(loggers, before, strict=True):
                logger.disabled = was


def parse(content: bytes, name: str, tags: list[str] | None = None) -> pydicom.Dataset:
    """Parse a DICOM file without decoding pixels; call it within `quiet`.

    A file without preamble or meta header is read as well, as implicit VR little endian if nothing else shows.

    Args:
        content: content of the file.
        name: name of the file for messages.
        tags: names of the entries to read, without the pixels; None means all, with the pixels.

    Raises:
        PetechiaError: this is not a DICOM file, or it is deflated or damaged.
    """
    if not is_dicom(content):
        raise PetechiaError(f"{name} is not a DICOM file: the bytes DICM are missing; check the path.")
    if DEFLATED in content and STATES_DEFLATED.search(content):  # pydicom would inflate all of it, however large that is
        raise PetechiaError(f"{name} is a deflated DICOM file, which is not supported; convert it to another transfer syntax.")
    whole = bytes(PREAMBLE) + content if content.startswith(MAGIC) and not has_preamble(content) else content
    try:
        return parse_bounded(io.BytesIO(whole), name, stop_before_pixels=tags is not None, force=True, specific_tags=tags)
    except PetechiaError:
        raise
    except Exception:
        raise PetechiaError(
            f"{name} is damaged and cannot be read{_place(whole)}; check the DICOM file, or restore it."
        ) from None


def _place(content: bytes) -> str:
    """Return where a damaged file cannot be read, for a message."""
    seen: list[int] = []

    def note(tag: pydicom.tag.BaseTag, _vr: str | None, _length: int) -> bool:
        seen.append(int(tag))
        return False

    with suppress(Exception):  # it fails as before
        counting = Counting(io.BytesIO(content), limit("dicom_elements"))
        read_partial(counting, note, force=True)  # type: ignore[arg-type]
    return f": its entry ({seen[-1] >> 16:04X},{seen[-1] & 0xFFFF:04X}) or its length is wrong" if seen else ""
