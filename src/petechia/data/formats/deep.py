"""Images of more than 8 bits per channel, and readers of those that Pillow does not read at full depth."""

from __future__ import annotations

import io
import logging
import math
import re
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.budget import check
from petechia.core.errors import PetechiaError
from petechia.data.formats.bounds import check_size
from petechia.data.formats.orientation import TAG, UPRIGHT, upright
from petechia.data.levels import Levels, histogram, in_colour, shown_range, white_of

TIFF = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"  # the beginning of the file; the last two are BigTIFF
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's
LARGEST = 1e37  # maximum absolute value, as in DICOM files
NO_COMPRESSION, DEFLATE = 1, (8, 32946)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # photometric interpretations
CHANNELS = 4
LONGEST = 1000  # letters of a description that are looked at
# How ImageJ and tifffile describe several images that follow each other in one page.
STACK = re.compile(r"ImageJ=.*^images=(\d+)|\{\"shape\": \[([\d, ]+)\]", re.DOTALL | re.MULTILINE)
ASSOCIATED_ALPHA = 1  # the colours are multiplied by it
SAVE_OTHERWISE = "save it as an uncompressed grey or RGB TIFF"


class Deep(NamedTuple):
    """An image of more than 8 bits.

    Attributes:
        values: numbers of any type, [H, W] or [H, W, 3].
        inverted: whether low values are bright.
    """

    values: NDArray[Any]
    inverted: bool = False

    def levels(self, name: str, advice: str) -> Levels:
        """Return grey levels; colours are converted to luma.

        Args:
            name: name of the file for messages.
            advice: what the user can do.

        Raises:
            PetechiaError: values are not finite, or too large.
        """
        low, high = self._window(name, advice)
        values = self.values.astype(np.float32)
        values = values @ LUMA if values.ndim == 3 else values
        return Levels(low + high - values if self.inverted else values, low, max(high, low + 1e-6 * max(1, abs(low))))

    def colours(self, name: str, advice: str) -> NDArray[np.uint8]:
        """Return colours, uint8 [H, W, 3]; see `levels`."""
        if self.values.ndim == 2:
            return in_colour(self.levels(name, advice).grey())
        return Levels(self.values.astype(np.float32), *self._window(name, advice)).grey()

    def _window(self, name: str, advice: str) -> tuple[float, float]:
        """Return the values of black and white.

        Integers that are not negative begin at 0 and use only as many bits as they need; others are shown from the lowest to
        the highest value. A small stamp changes neither, see `shown_range`.
        """
        with np.errstate(invalid="ignore"):
            if not (np.abs([self.values.min(), self.values.max()], dtype=np.float64) <= LARGEST).all():
                raise PetechiaError(f"{name} has values that are not finite or beyond {LARGEST:g}; {advice}.")
        if self.values.dtype.kind not in "iu":
            return shown_range(self.values)
        values, counts = histogram(self.values) or (self.values, None)
        return shown_range(values, counts, 1) if self.values.min() < 0 else (0, white_of(values, counts))


def is_tiff(content: bytes) -> bool:
    """Return whether the content begins like a TIFF."""
    return content.startswith(TIFF)


def is_stack(description: str, values: int, room: int) -> bool:
    """Return whether a page of a TIFF holds several images.

    Args:
        description: the description of the image, which one slice of a stack may have kept.
        values: the number of values in one image.
        room: the number of values for which the file is large enough.
    """
    found = STACK.match(description[:LONGEST])
    if found is None:
        return False
    described = int(found[1]) * values if found[1] else math.prod(map(int, re.findall(r"\d+", found[2])))
    return values < described <= room


def read_deep_png(content: bytes, name: str, advice: str) -> Deep:
    """Decode a PNG of 16 bits with colours or transparency, which Pillow reduces to 8. Transparency is ignored.

    Args:
        content: a file whose size has been checked.
        name: name of the file for messages.
        advice: what the user can do.

    Raises:
        PetechiaError: the file is damaged.
    """
    import torch  # takes seconds, and few files need it

    try:
        from torchvision.io import ImageReadMode, decode_png
    except ImportError:
        raise PetechiaError(
            f"{name} is a PNG of 16 bits with colours or transparency, which this version of torchvision does not read; "
            f"{SAVE_OTHERWISE}."
        ) from None
    try:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        found = decode_png(data, ImageReadMode.UNCHANGED).numpy()
    except (RuntimeError, ValueError, TypeError):
        raise PetechiaError(f"{name} cannot be decoded, because its PNG data are damaged; {advice}.") from None
    return Deep(np.moveaxis(found[:3], 0, 2) if len(found) > 2 else found[0])


def read_deep_tiff(content: bytes, name: str, advice: str) -> Deep:
    """Decode a TIFF that Pillow does not read at full depth: several channels of 16 bits, or numbers of 64 bits.

    Args:
        content: content of the file.
        name: name of the file for messages.
        advice: what the user can do.

    Raises:
        PetechiaError: the file is damaged, too large, compressed in another way than with Deflate, has several pages, or is
            neither grey nor RGB.
    """
    import tifffile  # few files need it

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its warnings quote the file
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages.first
            size = page.imagewidth * page.imagelength * page.samplesperpixel
            stack = page.imagedepth > 1 or is_stack(page.description, size, len(content) * 8 // page.bitspersample)
            if stack or _has_second_page(file):
                raise PetechiaError(f"{name} has several pages, and only one is supported; {advice}.")
            _check_page(page, name, advice)
            _check_segments(page, content, name)
            values, axes = page.asarray(maxworkers=1), page.axes
    except PetechiaError:
        raise
    except Exception as error:  # a damaged file can make tifffile raise anything
        if "imagecodecs" in str(error):  # a package that tifffile would need
            raise PetechiaError(
                f"{name} is a TIFF whose values of {page.bitspersample} bits are packed, or coded with a predictor, in a way "
                f"that is not supported; {SAVE_OTHERWISE} of 8, 16 or 32 bits."
            ) from None
        raise PetechiaError(f"{name} cannot be decoded, because it is a damaged TIFF; {advice}.") from None
    if axes == "SYX":
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3:
        if ASSOCIATED_ALPHA in page.extrasamples[:1] and np.ptp(values[..., -len(page.extrasamples)]) > 0:
            raise PetechiaError(
                f"{name} is a TIFF whose colours are multiplied by its transparency; {SAVE_OTHERWISE} without it."
            )
        values = values[..., :3] if page.photometric == RGB else values[..., 0]
    stated = page.tags.get(TAG)
    orientation = stated.value if stated is not None and isinstance(stated.value, int) else UPRIGHT
    return Deep(upright(values, orientation), page.photometric == WHITE_IS_ZERO)


def _has_second_page(file: Any) -> bool:
    """Return whether a TIFF has several pages, without counting them: a file can claim millions."""
    try:
        file.pages[1]
    except IndexError:
        return False
    return True


def _check_page(page: Any, name: str, advice: str) -> None:
    """Check what a page states, before memory is allocated for it."""
    check_size(page.imagewidth, page.imagelength, name, advice)
    chunk = int(np.prod(page.chunks, dtype=object))
    check(
        "image_pixels", chunk // CHANNELS, f"{name} is refused before decoding because its parts claim {chunk:,} values", advice
    )
    usable = page.axes in ("YX", "YXS", "SYX") and page.samplesperpixel <= CHANNELS
    if not usable or page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or page.dtype is None:
        raise PetechiaError(f"{name} is a TIFF that is neither grey nor RGB; {SAVE_OTHERWISE}.")
    if page.dtype.kind not in "iuf":
        raise PetechiaError(f"{name} is a TIFF of {page.dtype.name} numbers, which are not supported; {SAVE_OTHERWISE}.")
    if page.compression not in (NO_COMPRESSION, *DEFLATE):
        raise PetechiaError(
            f"{name} is a TIFF of {page.dtype.name} numbers with the compression {int(page.compression)}, which is not "
            f"supported; {SAVE_OTHERWISE}."
        )


def _check_segments(page: Any, content: bytes, name: str) -> None:
    """Check that no strip or tile unpacks to more than it may have: zlib unpacks without a limit."""
    size = int(np.prod(page.chunks, dtype=object)) * page.dtype.itemsize
    for at, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if page.compression in DEFLATE:
            unpacked = len(zlib.decompressobj().decompress(content[at : at + count], size + 1))
        else:
            unpacked = count
        if unpacked > size:
            raise PetechiaError(f"{name} is refused because a part of it has more than its {size:,} bytes; check the file.")
