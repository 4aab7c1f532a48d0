"""Read image files as grey or colour images; untrusted files are checked before they are decoded."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError, unreadable
from petechia.data.formats.bounds import check_content, check_size
from petechia.data.formats.decoding_pool import decoding_pool
from petechia.data.formats.deep import WHITE_IS_ZERO, Deep, is_stack, is_tiff, read_deep_png, read_deep_tiff
from petechia.data.formats.dicom import is_dicom, read_dicom, read_dicom_colour, read_dicom_uncut
from petechia.data.formats.orientation import UPRIGHT, as_stored, exif_of, stored_orientation, upright
from petechia.data.levels import Levels, uncut

ADVICE = "give a PNG, JPEG, TIFF or DICOM image"
FORMATS = ("PNG", "JPEG", "TIFF")
READING = 3  # increase it when files are decoded to other pixels than before
BITS, PHOTOMETRIC, DESCRIPTION, CHANNELS, SAMPLE_FORMAT, DEPTH = 258, 262, 270, 277, 339, 32997  # tags of a TIFF
UNSIGNED, SIGNED = 1, 2  # sample formats
GREY_AND_DEEP = "I", "F"  # first letters of Pillow's modes


def read_image_file(path: Path) -> bytes:
    """Return the content of an image file that the user named, without decoding it.

    Raises:
        PetechiaError: the file cannot be read.
    """
    advice = "check the path of the image"
    try:
        return read_file(path, "image_bytes", advice)
    except FileNotFoundError as error:
        raise unreadable(path, error, advice) from None


@dataclass(frozen=True)
class Decoding:
    """Decodes files of all supported formats at full bit depth and applies their window.

    Attributes:
        colour: whether to return [H, W, 3], repeating grey levels; otherwise colours are converted to luma.
        window: window of a DICOM file, see `read_dicom`.
    """

    colour: bool = False
    window: int = 1

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        """Decode a file, uint8 [H, W] or [H, W, 3].

        Raises:
            PetechiaError: as for `read_levels`, or the file cannot be read.
        """
        return self.decode(self._content(path), str(path))

    def _content(self, path: Path) -> bytes:
        advice = "restore it, or leave it out with --missing skip"
        try:
            return read_file(path, "image_bytes", advice)
        except FileNotFoundError as error:
            raise unreadable(path, error, advice) from None

    def decode(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """Decode the content of a file, uint8 [H, W] or [H, W, 3]; `name` is for messages.

        Raises:
            PetechiaError: as for `read_levels`.
        """
        if is_dicom(content):
            return (read_dicom_colour if self.colour else _grey_dicom)(content, name, self.window)
        found = _read(content, name, "RGB" if self.colour else "L")
        if not isinstance(found, Deep):
            return found
        return found.colours(name, ADVICE) if self.colour else found.levels(name, ADVICE).grey()

    def uncut(self, path: Path) -> NDArray[np.uint8] | NDArray[np.int16]:
        """Decode a file to grey levels that no window cuts off, see `petechia.data.levels.uncut`. Colours are not converted.

        Returns:
            uint8 or int16 [H, W]; of a file of 8 bits in colour, uint8 [H, W, 3] if `colour` is set.

        Raises:
            PetechiaError: as for `__call__`.
        """
        content = self._content(path)
        if is_dicom(content):
            return read_dicom_uncut(content, str(path), self.window)
        found = _read(content, str(path), "RGB" if self.colour else "L")
        if not isinstance(found, Deep):
            return found
        levels = found.levels(str(path), ADVICE)
        return uncut(levels.grey(), levels)

    def keeps(self, path: Path) -> bool:
        """Return whether a file already has the format that is written: 8-bit PNG, grey or colour according to `colour`."""
        try:
            with Image.open(path, formats=("PNG",)) as image:
                return image.mode == ("RGB" if self.colour else "L") and not _is_deep(image)
        except (OSError, SyntaxError, ValueError):
            return False


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Decode an 8-bit PNG, JPEG or TIFF to grey levels, uint8 [H, W]. Colour is converted to luma, transparency is ignored.

    Raises:
        PetechiaError: the file is missing, not an image or truncated, exceeds a limit, or has more than 8 bits.
    """
    advice = "replace it, or leave it out with --on-error skip"
    try:
        found = _read(read_file(path, "image_bytes", advice), str(path), "L", advice)
    except FileNotFoundError:
        raise PetechiaError(f"{path} is missing; restore it, or leave it out with --missing skip.") from None
    if isinstance(found, Deep):
        raise PetechiaError(f"{path} has more than 8 bits per pixel; convert it to an 8-bit PNG first.")
    return found


def read_levels(content: bytes, name: str, window: int = 1) -> Levels:
    """Decode a PNG, JPEG, TIFF or DICOM image to grey levels at full bit depth; the format is detected from the content.

    With 8 bits, black is 0 and white is 255, as in `read_grey`. With 16 bits or more, white is the largest number with as many
    bits as the pixels need, because 16-bit files often use only 10 or 12 bits. With signed integers or floating point, as in
    some TIFFs, the window is the range of the values. A small stamp changes neither, see `petechia.data.levels.shown_range`.

    Args:
        content: content of the file.
        name: name of the file for messages.
        window: window of a DICOM file, see `read_dicom`.

    Raises:
        PetechiaError: the file has none of these formats, is damaged, or exceeds a limit.
    """
    if is_dicom(content):
        return read_dicom(content, name, window)
    found = _read(content, name, "L")
    try:
        return found.levels(name, ADVICE) if isinstance(found, Deep) else Levels(found.astype(np.float32), 0, 255)
    except MemoryError:
        raise PetechiaError(f"{name} needs more memory than there is; close other programs, or make it smaller.") from None


def _read(content: bytes, name: str, mode: str, advice: str = ADVICE) -> NDArray[np.uint8] | Deep:
    """Decode an image upright: one of 8 bits per channel in a mode of Pillow's, and others at full depth."""
    if name.lower().endswith((".nii", ".nii.gz")):
        raise PetechiaError(f"{name} is a volume; {advice}, or, where a data source can be given, nifti:FOLDER.")
    if not is_tiff(content):
        check_content(content, name, advice)
        return _decode(content, name, mode, advice)
    values, inverted = decoding_pool().ask(name, f"{__name__}:decode_tiff", content, name, mode, advice)
    return values if inverted is None else Deep(values, inverted)


def decode_tiff(content: bytes, name: str, mode: str, advice: str) -> tuple[NDArray[Any], bool | None]:
    """Decode a TIFF in this process, which is a worker: nothing that could be checked first bounds what its codecs do.

    Returns:
        The pixels, and `Deep.inverted`; None if they have 8 bits per channel.
    """
    found = _decode(content, name, mode, advice)
    return (found.values, found.inverted) if isinstance(found, Deep) else (found, None)


def _decode(content: bytes, name: str, mode: str, advice: str) -> NDArray[np.uint8] | Deep:
    try:
        with _opened(content, name, advice) as image:
            if not _is_deep(image):
                return _in_8_bits(image, mode)
            if _is_deep_grey(image):
                inverted = image.format == "TIFF" and image.getexif().get(PHOTOMETRIC) == WHITE_IS_ZERO
                values = np.asarray(image)
                values = values.astype(values.dtype.newbyteorder("="), copy=False)
                if image.mode == "I" and _in_tiff(image, BITS) == 32 and _in_tiff(image, SAMPLE_FORMAT) == UNSIGNED:
                    values = values.view(np.uint32)  # Pillow takes them for signed numbers
                return Deep(upright(values, _orientation(image)), inverted)
            if image.format == "PNG":
                deep = read_deep_png(content, name, advice)
                return deep._replace(values=upright(deep.values, _orientation(image)))
    except _UnidentifiedError:
        if not is_tiff(content):
            raise
    return read_deep_tiff(content, name, advice)


def _in_8_bits(image: Image.Image, mode: str) -> NDArray[np.uint8]:
    """Decode an image upright, in a mode of Pillow's."""
    image = image.convert("LA") if image.mode == "La" else image  # Pillow converts it to nothing else
    return upright(np.asarray(image.convert(mode)), _orientation(image))


def _in_tiff(image: Image.Image, tag: int) -> Any:
    """Return the number in a tag of a TIFF, the largest of several; 1 if there is none."""
    return np.max(image.getexif().get(tag) or 1)


def _orientation(image: Image.Image) -> int:
    """Return the orientation in which Pillow decodes an image: it turns TIFFs itself."""
    return UPRIGHT if image.format == "TIFF" else stored_orientation(image)


class _UnidentifiedError(PetechiaError):
    """A file has no format that Pillow knows."""


def _grey_dicom(content: bytes, name: str, window: int) -> NDArray[np.uint8]:
    return read_dicom(content, name, window).grey()


def _is_deep(image: Image.Image) -> bool:
    """Return whether an image has more than 8 bits per channel, or signed ones; Pillow's mode does not always tell."""
    if image.format == "TIFF":
        signed = _in_tiff(image, SAMPLE_FORMAT) == SIGNED
        return image.mode.startswith(GREY_AND_DEEP) or _in_tiff(image, BITS) > 8 or signed
    return image.mode.startswith(GREY_AND_DEEP) or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _is_deep_grey(image: Image.Image) -> bool:
    """Return whether Pillow decodes a deep image at full depth: one channel, and not those TIFFs that it gets wrong."""
    if not image.mode.startswith(GREY_AND_DEEP):
        return False
    big_endian = isinstance(image, TiffImageFile) and image.tag_v2.prefix == b"MM"
    return image.mode.startswith("I;16") or not big_endian


@contextmanager
def _opened(content: bytes, name: str, advice: str) -> Iterator[Image.Image]:
    """Open an image without decoding it; errors within the block are raised as `PetechiaError`."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            check_size(image.width, image.height, name, advice)
            if image.format == "TIFF" and (_has_second_page(image) or _is_stack(image, content)):
                raise PetechiaError(f"{name} has several pages, and only one is supported; {advice}.")
            yield image
    except Image.DecompressionBombError as error:  # Pillow's own limit, beyond ours
        raise PetechiaError(f"{name} is refused before decoding because it is too large ({error}); {advice}.") from None
    except UnidentifiedImageError:
        raise _UnidentifiedError(f"{name} is not a PNG, JPEG or TIFF image; {advice}.") from None
    except (OSError, SyntaxError, TypeError, ValueError, MemoryError) as error:
        raise PetechiaError(f"{name} cannot be decoded ({error}); {advice}.") from None


def _is_stack(image: Image.Image, content: bytes) -> bool:
    """Return whether the only page of a TIFF holds several images."""
    values = image.width * image.height * _in_tiff(image, CHANNELS)
    room = len(content) * 8 // _in_tiff(image, BITS)
    return _in_tiff(image, DEPTH) > 1 or is_stack(str(image.getexif().get(DESCRIPTION, "")), values, room)


def _has_second_page(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return False
    return True


def magnified(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Enlarge an image, uint8 [H, W] or [H, W, 3], by an integer factor, until its shorter side has at least `side` pixels."""
    factor = -(-side // min(image.shape[:2]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def encode_png(image: NDArray[np.uint8], orientation: int = UPRIGHT) -> bytes:
    """Encode an image as PNG.

    Args:
        image: upright image, uint8 [H, W] or [H, W, 3].
        orientation: EXIF orientation that the file states; it stores the image turned so that viewers show it upright.
    """
    buffer = io.BytesIO()
    tags = {} if orientation == UPRIGHT else {"exif": exif_of(orientation)}
    Image.fromarray(as_stored(image, orientation)).save(buffer, "PNG", **tags)
    return buffer.getvalue()


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode an image, uint8 [H, W] or [H, W, 3], as a small JPEG, for display only."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=82, subsampling=0)
    return buffer.getvalue()


class FileReader:
    """Reads image files below one folder.

    Attributes:
        root: the folder.
        names: str [N], paths relative to the folder.
        decoding: how to decode the files; None reads 8-bit files as grey images and rejects others.
    """

    def __init__(self, root: Path, names: NDArray[np.str_], decoding: Decoding | None = None) -> None:
        self.root = root
        self.names = names
        self.decoding = decoding

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """Return the path of an image."""
        return self.root / str(self.names[row])

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Decode some of the images."""
        for row in rows:
            try:
                yield (self.decoding or read_grey)(self.path(int(row)))
            except PetechiaError as error:
                yield error

    def read_uncut(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | NDArray[np.int16] | PetechiaError]:
        """Decode some of the images to grey levels that no window cuts off, see `Decoding.uncut`."""
        for row in rows:
            try:
                yield (self.decoding.uncut if self.decoding else read_grey)(self.path(int(row)))
            except PetechiaError as error:
                yield error

    def take(self, rows: NDArray[np.intp]) -> FileReader:
        """Return a reader for some of the images."""
        return FileReader(self.root, self.names[rows], self.decoding)

    def keeps(self, row: int) -> bool:
        """Return whether a file can be copied unchanged into a dataset whose other images are newly written."""
        return self.decoding is None or self.decoding.keeps(self.path(row))

    def orientation(self, row: int) -> int:
        """Return the EXIF orientation that a file states, 1 to 8; 1 for a DICOM file or one that states none."""
        try:
            with Image.open(self.path(row), formats=FORMATS) as image:
                return stored_orientation(image)
        except (OSError, SyntaxError, TypeError, ValueError):
            return UPRIGHT

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and times, including the change time, which cannot be set back."""
        reading = f"{self.decoding}{READING}" if self.decoding else ""
        digest = hashlib.sha256(f"{self.root}{reading}".encode())
        for name in self.names:
            try:
                status = os.stat(os.path.join(self.root, str(name)))  # noqa: PTH116, PTH118 (ten times as fast as pathlib)
                state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            except OSError:
                state = (0, 0, 0)
            digest.update(f"{name}\0{state}\n".encode())
        return digest.hexdigest()
