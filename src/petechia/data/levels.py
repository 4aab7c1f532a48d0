"""One grey image at its full depth, with the window through which it is seen; and colours as grey."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 80_000_000  # of one image; the largest mammograms have about 30 million, Pillow itself warns at 89 million


class Levels(NamedTuple):
    """A grey image.

    Attributes:
        values: float32 [H, W], in its own unit; the more, the brighter.
        low: the value that is shown as black.
        high: the value that is shown as white; more than `low`.
    """

    values: NDArray[np.float32]
    low: float
    high: float

    def grey(self) -> NDArray[np.uint8]:
        """What is seen through the window, and what a model gets; uint8 [H, W]."""
        with np.errstate(over="ignore"):  # far outside a very narrow window
            shares = (self.values - np.float32(self.low)) / np.float32(self.high - self.low)
        return np.asarray((shares.clip(0, 1) * 255).round(), np.uint8)


def to_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean over the channels of an image, uint8 [H, W] or [H, W, C]; uint8 [H, W]."""
    return image if image.ndim == 2 else np.asarray(image.mean(axis=2).round(), np.uint8)


def in_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of an image, uint8 [H, W] or [H, W, 3], with three channels; grey levels are repeated."""
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else np.array(image)
