"""Grey images at full bit depth with their display window, and conversions between grey and colour."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 80_000_000  # per image; the largest mammograms have about 30 million, Pillow itself warns at 89 million


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
        with np.errstate(over="ignore"):  # values far outside a very narrow window
            shares = (self.values - np.float32(self.low)) / np.float32(self.high - self.low)
        return np.asarray((shares.clip(0, 1) * 255).round(), np.uint8)


def to_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean over the channels of an image, uint8 [H, W] or [H, W, C], as uint8 [H, W]."""
    return image if image.ndim == 2 else np.asarray(image.mean(axis=2).round(), np.uint8)


def in_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of an image, uint8 [H, W] or [H, W, 3], with three channels; grey levels are repeated."""
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else np.array(image)
