"""The preprocessing of the victim: central crop and resize."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from petechia.core.settings import Settings

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


class Preprocess(Settings):
    """Central crop to a fraction of each side or to a square, then resize to a square; uint8 in, uint8 out.

    Attributes:
        crop: fraction of height and width to keep; 1.0 keeps everything. The border is `int((n - n * crop) / 2)` pixels on
            each side, as in TensorFlow's `central_crop`. "square" keeps the central square whose side is the shorter one of the
            image, as torchxrayvision's `XRayCenterCrop` does.
        size: side of the result, in pixels.
        resample: "nearest" reads the source pixel `floor((i + 0.5) * n / size)`, or the one before it if that position is
            exactly between two pixels; "bilinear" and "bicubic" are antialiased; "area" averages.
    """

    crop: Annotated[float, Field(gt=0, le=1)] | Literal["square"] = 1.0
    size: int = Field(64, ge=8, le=4096)
    resample: Literal["nearest", "bilinear", "bicubic", "area"] = "area"

    def kept(self, height: int, width: int) -> Box:
        """Return the part of an image of this size that the crop keeps."""
        if self.crop == "square":
            side = min(height, width)
            return Box(height // 2 - side // 2, width // 2 - side // 2, side, side)
        top = int((height - height * self.crop) / 2)
        left = int((width - width * self.crop) / 2)
        return Box(top, left, height - 2 * top, width - 2 * left)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Preprocess one image, uint8 [H, W] or [H, W, 3], to [size, size] or [size, size, 3]."""
        top, left, height, width = self.kept(*image.shape[:2])
        cropped = image[top : top + height, left : left + width]
        if cropped.shape[:2] == (self.size, self.size):
            return cropped
        resized = Image.fromarray(cropped).resize((self.size, self.size), FILTERS[self.resample])
        return np.asarray(resized)
