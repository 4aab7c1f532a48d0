"""Read the frames of a DICOM file one by one, each as a file of one image: no other frame is decoded for it."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate, generate_frames, get_frame, parse_basic_offsets

from petechia.core.budget import check as check_limit
from petechia.core.budget import limit, read_file
from petechia.core.errors import PetechiaError, unreadable
from petechia.data.formats.dicom import Reading, T, colours_at, decoded, explained, levels_at, parse, quiet, uncut_at
from petechia.data.formats.dicom_entries import BYTE, FUNCTIONAL_GROUPS, EntryError, entry, integer, items
from petechia.data.formats.dicom_pixels import bits_of, check_size, complete, damaged, keyword_of
from petechia.data.levels import Levels

PER_FRAME = FUNCTIONAL_GROUPS[0]
OFFSETS, LENGTHS = "ExtendedOffsetTable", "ExtendedOffsetTableLengths"
LEAST = 8  # bytes of a compressed frame: the header of its item
ADVICE = "restore it, or leave it out with --missing skip"


class DicomImage:
    """A DICOM file in memory, with one image or several frames.

    Args:
        content: content of the file.
        name: name of the file for messages.

    Attributes:
        frames: number of frames.

    Raises:
        PetechiaError: this is not a DICOM file, it is damaged, has no pixels, or states more frames than it can have.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._name = name
        with explained(name), quiet():
            self._file = parse(content, name)
            self.frames = integer(self._file, "NumberOfFrames", 1) or 1
            if self.frames != 1:
                self._prepare()

    def read(self, frame: int, reading: Reading[T]) -> T:
        """Decode one frame, numbered from 0.

        Raises:
            PetechiaError: it cannot be decoded.
        """
        with explained(self._name):
            with quiet():
                one = self._file if self.frames == 1 else self._one(frame)
            return decoded(one, self._name, reading)

    def _prepare(self) -> None:
        check_frames(self.frames, self._name)
        self._keyword = keyword_of(self._file)
        height, width = (integer(self._file, key) for key in ("Rows", "Columns"))
        check_size(height, width, self._name)
        complete(self._file, self._keyword)
        pixels = self._file[self._keyword]
        self._groups = items(self._file, PER_FRAME)
        if self._groups and len(self._groups) != self.frames:
            raise EntryError(
                f"has {self.frames:,} frames, but {entry(PER_FRAME)} describes {len(self._groups):,}; correct these entries"
            )
        self._bits = bits_of(self._file, height * width)
        self._compressed: list[bytes] = []
        if not pixels.is_undefined_length:
            if len(pixels.value) * BYTE < self._bits * self.frames:
                raise EntryError(
                    f"has {len(pixels.value):,} bytes in {entry(self._keyword)}, which its {self.frames:,} frames need "
                    f"{-(-self._bits * self.frames // BYTE):,} of; restore the file"
                )
        elif not self._has_offsets():  # so the places of all frames are found at once; they share no bytes
            try:
                self._compressed = list(generate_frames(pixels.value, number_of_frames=self.frames))
            except Exception:  # of a damaged file
                raise damaged(self._file, self._keyword) from None
            if len(self._compressed) != self.frames:
                raise EntryError(
                    f"has {self.frames:,} frames, but {len(self._compressed):,} in {entry(self._keyword)}; restore the file"
                )

    def _has_offsets(self) -> bool:
        if OFFSETS in self._file and LENGTHS in self._file:
            return True
        with suppress(Exception):  # pydicom raises many types
            return bool(parse_basic_offsets(self._file[self._keyword].value))
        return False

    def _one(self, frame: int) -> pydicom.Dataset:
        """Return a frame as a file of its own, with its functional groups alone."""
        whole = self._file
        left_out = {whole[key].tag for key in (self._keyword, PER_FRAME, OFFSETS, LENGTHS) if key in whole}
        one = pydicom.Dataset({tag: whole.get_item(tag) for tag in whole.keys() if tag not in left_out})  # noqa: SIM118
        implicit, little = whole.original_encoding
        one.set_original_encoding(implicit, little, whole.original_character_set)
        one.file_meta = copy.copy(whole.file_meta)
        one.NumberOfFrames = 1
        if self._groups:
            setattr(one, PER_FRAME, [self._groups[frame]])
        pixels = whole[self._keyword]
        content = self._packed(frame) if pixels.is_undefined_length else self._cut(frame)
        one[pixels.tag] = DataElement(pixels.tag, pixels.VR, content, is_undefined_length=pixels.is_undefined_length)
        return one

    def _cut(self, frame: int) -> bytes:
        """Return the bytes of a frame that is not compressed. Frames of 1 bit may begin within a byte (PS3.5, 8.1.1)."""
        content, first = self._file[self._keyword].value, frame * self._bits
        end = first + self._bits
        part: bytes = content[first // BYTE : -(-end // BYTE)]
        if first % BYTE == 0:
            return part
        bits = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")[first % BYTE :][: self._bits]
        return np.packbits(bits, bitorder="little").tobytes()

    def _packed(self, frame: int) -> bytes:
        """Return a compressed frame, encapsulated alone."""
        if self._compressed:
            return encapsulate([self._compressed[frame]], has_bot=False)
        whole = self._file
        tables = (whole[OFFSETS].value, whole[LENGTHS].value) if OFFSETS in whole and LENGTHS in whole else None
        try:
            found = get_frame(whole[self._keyword].value, frame, extended_offsets=tables, number_of_frames=self.frames)
        except Exception:  # an offset leads out of the file, for example
            found = b""
        if not found:
            raise EntryError(
                f"has no frame {frame + 1:,} where its table of offsets in {entry(self._keyword)} says; restore the file"
            )
        return encapsulate([found], has_bot=False)


def check_frames(frames: int, name: str) -> None:
    """Check how many frames a file claims.

    Raises:
        EntryError: there is none.
        PetechiaError: there are more than the limit.
    """
    if frames < 1:
        raise EntryError(f"claims {frames:,} frames in {entry('NumberOfFrames')}; check the DICOM file")
    check_limit("volume_slices", frames, f"{name} is refused before decoding because it claims {frames:,} frames")


def can_hold(size: int, frames: int, bits: int, compressed: bool) -> bool:
    """Return whether a file can have as many frames as it states.

    Args:
        size: of the file in bytes.
        frames: stated number.
        bits: of a frame that is not compressed; 0 if they are not known.
        compressed: whether the frames are compressed.
    """
    least = LEAST * BYTE if compressed or not bits else bits * 2 // 3
    return 1 <= frames <= limit("volume_slices") and frames * least <= size * BYTE


class OpenDicom:
    """A DICOM file whose frames can be read, see `petechia.data.formats.slices.OpenVolume`."""

    def __init__(self, image: DicomImage, colour: bool, window: int) -> None:
        self._image, self._colour, self._window = image, colour, window

    def grey(self, number: int) -> NDArray[np.uint8]:
        """Decode a frame, uint8 [H, W] or [H, W, 3]."""
        if self._colour:
            return self._image.read(number, colours_at(self._window))
        return self.levels(number).grey()

    def uncut(self, number: int) -> NDArray[np.uint8] | NDArray[np.int16]:
        """Decode a frame to grey levels that no window cuts off."""
        return self._image.read(number, uncut_at(self._window))

    def levels(self, number: int) -> Levels:
        """Decode a frame at full bit depth."""
        return self._image.read(number, levels_at(self._window))


def open_image(root: Path, path: str, frames: int, colour: bool, window: int) -> OpenDicom:
    """Read a DICOM file whose frames are to be decoded.

    Args:
        root: folder of the source.
        path: of the file, relative to it.
        frames: number of frames that the file had.
        colour: whether to keep colours.
        window: see `petechia.data.formats.dicom.read_dicom`.

    Raises:
        PetechiaError: it cannot be read, or has changed.
    """
    try:
        image = DicomImage(read_file(root / path, "image_bytes", ADVICE), str(root / path))
    except FileNotFoundError as error:
        raise unreadable(root / path, error, ADVICE) from None
    if image.frames != frames:
        raise PetechiaError(
            f"{root / path} has {image.frames:,} frames, and had {frames:,} when it was opened; open it again, or restore it."
        )
    return OpenDicom(image, colour, window)
