"""Grey images at full bit depth with their display window, and conversions between grey and colour."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

OUTLIERS = 0.01  # share of the pixels at either end that do not set the range if a gap separates them from the others
FEW_OUTLIERS = 25, 1 / 32  # in a small image this number of pixels, but not more than this share
GAP = 1 / 255  # of the range without the outliers, so that what lies within it moves other pixels by one grey level
SPARSE = 8  # average distances between two values; in an image of few pixels smaller distances are not gaps
SPARE = 127 / 128  # share of the range that decides the number of bits; more than a gap lies above it
BEYOND = 4000  # grey levels below black or above white that are told apart
QUANTISED, SAMPLE = 4096, 1 << 16  # different values at most, and pixels that are looked at to see them
CHUNK = 1 << 22  # pixels


class Levels(NamedTuple):
    """A grey image at full bit depth, with its display window.

    Attributes:
        values: float32 [H, W], in the unit of the file; higher values are brighter.
        low: value that is displayed as black.
        high: value that is displayed as white; greater than `low`.
    """

    values: NDArray[np.float32]
    low: float
    high: float

    def grey(self) -> NDArray[np.uint8]:
        """Apply the window, uint8 [H, W]. This is the image that is displayed and that a model gets."""
        shown = np.empty(self.values.shape, np.uint8)
        rows = max(1, CHUNK // max(1, self.values.shape[1]))
        for start in range(0, len(shown), rows):  # a mammogram has 30 million pixels, which would take four bytes each
            part = slice(start, start + rows)
            shares = self.values[part] - np.float32(self.low)
            with np.errstate(over="ignore"):  # values far outside a very narrow window
                shares /= np.float32(self.high - self.low)
            shares.clip(0, 1, out=shares)
            shares *= 255
            shown[part] = shares.round(out=shares)
        return shown


def uncut(shown: NDArray[np.uint8], levels: Levels) -> NDArray[np.uint8] | NDArray[np.int16]:
    """Return a displayed image that goes on below black and above white, where the display cuts values off.

    Two values that are both displayed as black, or as white, still differ in it.

    Args:
        shown: uint8 [H, W], as it is displayed.
        levels: the same image, [H, W], with the range that its grey levels have without a window.

    Returns:
        int16 [H, W]; `shown` itself where the display cuts nothing off. From 1 to 254, the grey levels are those of `shown`.
    """
    step = (levels.high - levels.low) / 255
    beyond = np.zeros(shown.shape, np.int16)
    for end, sign in ((0, -1), (255, 1)):
        there = shown == end
        if there.any():
            away = sign * levels.values[there]
            beyond[there] = sign * ((away - away.min()) / np.float32(step)).clip(0, BEYOND).round()
    return shown + beyond if beyond.any() else shown


def to_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean over the channels of an image, uint8 [H, W] or [H, W, C], as uint8 [H, W]."""
    return image if image.ndim == 2 else np.asarray(image.mean(axis=2).round(), np.uint8)


def in_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of an image, uint8 [H, W] or [H, W, 3], with three channels; grey levels are repeated."""
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else np.array(image)


def histogram(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
    """Count the values of an image.

    Args:
        values: integers of 8 or 16 bits, of any shape.

    Returns:
        All 2^8 or 2^16 values of this type and how often each occurs, both in the order of their unsigned representation, which
        is the order of `values.view(unsigned)`. None for another type.
    """
    size = values.dtype.itemsize
    if values.dtype.kind not in "iu" or size > 2:
        return None
    unsigned = np.dtype(f"u{size}")
    flat = np.ascontiguousarray(values).reshape(-1).view(unsigned)
    counts = np.zeros(2 ** (8 * size), np.int64)
    for start in range(0, flat.size, CHUNK):  # bincount converts its input to 64 bits
        counts += np.bincount(flat[start : start + CHUNK], minlength=len(counts))
    return np.arange(len(counts)).astype(unsigned).view(values.dtype), counts


def shown_range(values: NDArray[Any], counts: NDArray[np.int64] | None = None, step: float = 0) -> tuple[float, float]:
    """Return the range of values to display if a file does not state one. A small stamp does not change it.

    This is the range of the values without outliers. Outliers are at most `OUTLIERS` of the pixels at either end, and a gap
    separates them from the other values. So an image and its stamped copy have the same range, whatever the value of the stamp,
    as long as the stamp has fewer pixels than that. In the worst case, a stamp just beyond the end of the range moves this end
    by a `GAP`, and with it the other pixels by about one grey level.

    Args:
        values: finite numbers of any type and shape, at least one.
        counts: how often each value occurs; None means once.
        step: smallest difference between two values, 1 for integers.

    Returns:
        The lowest and the highest value.
    """
    if counts is not None:
        order = np.argsort(values[counts > 0], kind="stable")
        ordered, ends = values[counts > 0][order], np.cumsum(counts[counts > 0][order])
        total = int(ends[-1])
    else:
        total = values.size
    share, most = FEW_OUTLIERS[1], FEW_OUTLIERS[0]
    outliers = max(int(total * OUTLIERS), min(most, int(total * share)))
    others = total  # than those of a background
    while True:
        if counts is not None:
            low, high = np.searchsorted(ends, [outliers, total - 1 - outliers], "right")
            bottom, top = ordered[: low + 1], ordered[high:]
        else:
            parted = np.partition(values.reshape(-1), (outliers, total - 1 - outliers))
            bottom, top = np.sort(parted[: outliers + 1]), np.sort(parted[total - 1 - outliers :])
        width = float(top[0]) - float(bottom[-1])
        if width > 0 or not outliers:
            break
        others = outliers  # nearly all pixels have the same value, so the others are the image
        outliers //= 2
    sample = np.unique(values.reshape(-1)[:: max(1, total // SAMPLE)]) if counts is None else ordered[low : high + 1]
    if 2 < len(sample) <= QUANTISED:  # values of fewer bits, made larger; as floats, with rounding
        step = max(step, 1.01 * float(np.median(np.diff(sample.astype(np.float64)))))
    gap = max(width * GAP, width * SPARSE / others, step)
    return -_end_of_chain(-bottom[::-1].astype(np.float64), gap), _end_of_chain(top.astype(np.float64), gap)


def _end_of_chain(ordered: NDArray[np.float64], gap: float) -> float:
    """Return the last value before the first gap."""
    gaps = np.flatnonzero(np.diff(ordered) > gap * (1 + 1e-9))
    return float(ordered[gaps[0]] if len(gaps) else ordered[-1])


def white_of(values: NDArray[Any], counts: NDArray[np.int64] | None = None) -> int:
    """Return the value that is white in an image of 16 or more bits, which often uses only 10 or 12 of them.

    This is the largest number with as many bits as the end of the `shown_range` needs, at least 255.

    Args:
        values: integers that are not negative.
        counts: as for `shown_range`.
    """
    _, high = shown_range(values, counts, 1)
    return int(2 ** max(8, int(high * SPARE).bit_length())) - 1
