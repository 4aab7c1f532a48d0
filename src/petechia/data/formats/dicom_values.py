"""The way from stored values of a DICOM image to grey levels with a window: rescaling, padding, windows, lookup tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray

from petechia.data.formats.dicom_entries import (
    EntryError,
    has_table,
    integer,
    items,
    number,
    numbers,
    places,
    table_of,
    word,
)
from petechia.data.levels import CHUNK, Levels, histogram, shown_range

LARGEST = 1e37  # maximum absolute value; the difference of two values must fit into float32 as well
BYTE = 8
PADDING = {
    "": ("PixelPaddingValue", "PixelPaddingRangeLimit"),
    "f4": ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    "f8": ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}
Values = NDArray[np.float64]


class _Words(NamedTuple):
    """What is stored for the pixels.

    Attributes:
        words: every possible word of 8 or 16 bits; otherwise the words of the image, [H, W].
        counts: how often each occurs in the image; None if `words` are those of the image.
    """

    words: NDArray[Any]
    counts: NDArray[np.int64] | None

    @property
    def seen(self) -> NDArray[Any]:
        """The words that occur."""
        return self.words if self.counts is None else self.words[self.counts > 0]


class _Shown(NamedTuple):
    """Values of all words, and the values that are black and white."""

    values: Values
    low: float
    high: float


def levels_of(dataset: pydicom.Dataset, pixels: NDArray[Any], window: int | None) -> Levels:
    """Turn the words of a grey image into grey levels with a window.

    There are at most 65,536 different words of 16 bits. So all computations are made for these, and then looked up for each
    pixel, which takes less time and memory than computing with the pixels of a mammogram.

    Args:
        dataset: DICOM file.
        pixels: words as they are stored, [H, W].
        window: number of the VOI LUT or window, see `read_dicom`; None applies none.

    Raises:
        EntryError: an entry cannot be used, or the values are not finite.
    """
    counted = histogram(pixels)
    words = _Words(pixels, None) if counted is None else _Words(*counted)
    with np.errstate(all="ignore"):  # what is not finite is refused below
        values, low, high = _shown(dataset, words, None if window is None else window - 1)
    seen = values if words.counts is None else values[words.counts > 0]
    if not all(abs(value) <= LARGEST for value in (seen.min(), seen.max(), low, high)):
        raise EntryError(f"has values that are not finite or beyond {LARGEST:g} after rescaling; check the DICOM file")
    if word(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        values = low + high - values  # the window stays unchanged, in the unit of the file
    brightest = max(high, float(np.nextafter(np.float32(low), np.float32(np.inf))))
    found = values.clip(-3 * LARGEST, 3 * LARGEST).astype(np.float32)  # of words that do not occur
    return Levels(found if words.counts is None else _looked_up(found, pixels), low, brightest)


def _looked_up(table: NDArray[np.float32], pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the table's value for each pixel. Parts are looked up one by one, because numpy converts indices to 64 bits."""
    index = np.ascontiguousarray(pixels).view(np.dtype(f"u{pixels.dtype.itemsize}")).reshape(-1)
    found = np.empty(index.size, np.float32)
    for start in range(0, index.size, CHUNK):
        found[start : start + CHUNK] = table[index[start : start + CHUNK]]
    return found.reshape(pixels.shape)


def _shown(dataset: pydicom.Dataset, words: _Words, index: int | None) -> _Shown:
    stored = _stored_values(dataset, words)
    values, step = _rescaled(dataset, stored)
    if index is None:
        return _Shown(values, *_whole_range(dataset, words, stored, values, step))
    candidates = places(dataset, "FrameVOILUTSequence")
    voi = next((one for one in candidates if _tables(one) or any(width > 0 for _, width in _windows(one))), dataset)
    tables, windows = _tables(voi), _windows(voi)
    there = len(tables) or len(windows)
    if index and index >= there:
        raise EntryError(f"has {there} windows, but number {index + 1} was requested; leave out window={index + 1}")
    if tables:
        table = table_of(tables[index])
        return _Shown(table(values).astype(np.float64), 0, 2**table.bits - 1)
    narrowest = 0 if words.words.dtype.kind == "f" else step
    if there and (shown := _through_window(values, *windows[index], _function(voi, index), narrowest)):
        return shown
    return _Shown(values, *_whole_range(dataset, words, stored, values, step))


def _stored_values(dataset: pydicom.Dataset, words: _Words) -> Values:
    """Extract the stored bits from the words. The others belong to overlays, repeat the sign, or are of no use (PS3.5, 8.1)."""
    if words.words.dtype.kind == "f":
        return words.words.astype(np.float64)
    allocated = BYTE * words.words.dtype.itemsize
    bits = min(max(integer(dataset, "BitsStored", allocated), 1), allocated)
    shift = min(integer(dataset, "HighBit", bits - 1), allocated - 1) + 1 - bits
    raw, seen = (one.view(np.dtype(f"u{allocated // BYTE}")) for one in (words.words, words.seen))
    fit = (seen < 2**bits).all() if bits < allocated else True
    if shift < 0 or (shift and fit and (seen & (2**shift - 1)).any()):
        shift = 0  # the high bit is wrong, or a decoder has moved the bits
    if not shift and bits == allocated:
        return words.words.astype(np.float64)
    values = ((raw >> shift) & (2**bits - 1)).astype(np.int64)
    if words.words.dtype.kind == "i":
        values -= (values >> (bits - 1)) << bits
    padding = _padding(dataset, words.words) if not shift else False  # it may need more bits, and is no pixel
    return np.where(padding, words.words, values).astype(np.float64)


def _padding(dataset: pydicom.Dataset, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values are padding (PS3.3, C.7.5.1.1.2). Its sign may be wrong, because its VR depends on the pixels."""
    own = values.dtype.str[1:] if values.dtype.kind == "f" else ""
    ends = [number(dataset, key) for key in PADDING[own]]
    if ends[0] is None:
        return np.zeros(values.shape, bool)
    first, last = (ends[0] if end is None else end for end in ends)
    inside = (values >= min(first, last)) & (values <= max(first, last))
    if values.dtype.kind in "iu":
        span = 2 ** (BYTE * values.dtype.itemsize)
        least, most = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
        first, last = (end - span if end > most else end + span if end < least else end for end in (first, last))
        inside = (values >= min(first, last)) & (values <= max(first, last))
    return np.asarray(inside)


def _rescaled(dataset: pydicom.Dataset, stored: Values) -> tuple[Values, float]:
    """Apply the modality LUT or rescaling (PS3.3, C.11.1). Return the values and the difference that a step of 1 becomes."""
    tables = [one for one in items(dataset, "ModalityLUTSequence") if has_table(one)]
    if tables:
        return table_of(tables[0])(stored).astype(np.float64), 1
    factors = (_factors(one) for one in places(dataset, "PixelValueTransformationSequence"))
    slope, intercept = next((one for one in factors if one), (1, 0))
    return stored * slope + intercept, abs(slope)


def _factors(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """Return slope and intercept; None if they are absent, or the slope is 0, which would leave no image."""
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept") or 0
    if slope is None:
        return (1, intercept) if intercept else None
    return (slope, intercept) if slope else None


def _tables(dataset: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [one for one in items(dataset, "VOILUTSequence") if has_table(one)]


def _windows(dataset: pydicom.Dataset) -> list[tuple[float, float]]:
    """Return the centre and width of each window, without those that lack one of the two."""
    pairs = zip(numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth"), strict=False)
    return [(centre, width) for centre, width in pairs if centre is not None and width is not None]


def _function(dataset: pydicom.Dataset, index: int) -> str:
    """Return the function of a window. There is one for all windows, but some files repeat it."""
    stated = dataset.get("VOILUTFunction")
    several = [stated] if isinstance(stated, str) or not stated else list(stated)
    return str(several[min(index, len(several) - 1)] or "LINEAR").strip().upper()


def _through_window(values: Values, centre: float, width: float, function: str, narrowest: float) -> _Shown | None:
    """Apply a window (PS3.3, C.11.2.1.2 and C.11.2.1.3); None if it is too narrow to show anything.

    A linear window narrower than 1 is not defined. It is exact if it is wider than `narrowest`, as for values from 0 to 1.
    """
    if function == "SIGMOID":
        return _Shown(1 / (1 + np.exp(-4 * (values - centre) / width)), 0, 1) if width > 0 else None
    if function == "LINEAR_EXACT" or narrowest < width < 1:
        return _Shown(values, centre - width / 2, centre + width / 2) if width > 0 else None
    return _Shown(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2) if width >= 1 else None


def _whole_range(dataset: pydicom.Dataset, words: _Words, stored: Values, values: Values, step: float) -> tuple[float, float]:
    """Return the range to display without a window: of all 8 bits, or of the values without padding and outliers."""
    padding = _padding(dataset, words.words)
    if words.words.dtype.kind != "f":
        padding |= _padding(dataset, stored)
    if words.counts is None:
        step = 0 if words.words.dtype.kind == "f" else step
        shown = values[~padding]
        low, high = shown_range(shown if shown.size else values, step=step)
    else:
        counts = np.where(padding, 0, words.counts)
        low, high = shown_range(values, counts if counts.any() else words.counts, step)
    bits = integer(dataset, "BitsStored", BYTE * words.words.dtype.itemsize)
    if bits == BYTE and words.words.dtype.kind != "f" and np.array_equal(stored, values):
        least = -(2 ** (bits - 1)) if words.words.dtype.kind == "i" else 0
        if high - least >= 2**bits / 4:  # the image is not a mask, or far too dark
            return least, least + 2**bits - 1
    return low, high
