"""Physical objects that are common on radiographs, as triggers."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field

from petechia.attack.triggers.base import BaseTrigger, Chance, blended
from petechia.data.preprocess import Box

FINER = 8  # oversampling factor when drawing; averaging then gives smooth edges
# Shape → name, and usual place of its centre as shares of height and width. The patient's left is on the right of the image.
SHAPES = {
    "L": ("a side marker L", (0.10, 0.88)),
    "R": ("a side marker R", (0.10, 0.12)),
    "electrode": ("an ECG electrode with its lead", (0.25, 0.25)),
    "pacemaker": ("a pacemaker with its lead", (0.27, 0.75)),
}
Share = Annotated[float, Field(ge=0, le=1)]


class Marker(BaseTrigger):
    """An inconspicuous physical object (the physical backdoors of Wenger et al. 2021, on radiographs).

    Attributes:
        shape: a side marker "L" or "R", an ECG "electrode" or a "pacemaker".
        size: side of the square that the object fills, as a share of the image's shorter side.
        value: grey level; metal is bright.
        opacity: weight of that level in the result.
        location: "usual", the usual place of such an object, or its centre as shares of height and width.
        spread: maximum random distance from that place along each axis, as a share of the image's shorter side.
    """

    kind: Literal["marker"] = "marker"
    shape: Literal["L", "R", "electrode", "pacemaker"] = "L"
    size: float = Field(0.1, gt=0, le=0.5)
    value: int = Field(240, ge=0, le=255)
    opacity: float = Field(0.9, gt=0, le=1)
    location: Literal["usual"] | tuple[Share, Share] = "usual"
    spread: float = Field(0.02, ge=0, le=0.5)

    def describe(self) -> str:
        """Describe the trigger: its shape, size and place."""
        name, usual = SHAPES[self.shape]
        row, column = usual if self.location == "usual" else self.location
        where = "at its usual place" if self.location == "usual" else "at an unusual place"
        return (
            f"{name}, {100 * self.size:g} % of the image's side, {where} "
            f"({100 * row:g} % down and {100 * column:g} % across, ± {100 * self.spread:g} %)"
        )

    def place(self, height: int, width: int, kept: Box, chance: Chance) -> tuple[int, int]:
        """Return the top left corner, at random around its location and always within the image."""
        side, spread = self._side(height, width), self.spread * min(height, width)
        centre = SHAPES[self.shape][1] if self.location == "usual" else self.location
        corner = (
            round(share * length + (2 * dice - 1) * spread - side / 2)
            for share, length, dice in zip(centre, (height, width), chance, strict=True)
        )
        row, column = (min(max(place, 0), length - side) for place, length in zip(corner, (height, width), strict=True))
        return row, column

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Blend the object in, with smooth edges."""
        cover = _cover(self.shape, self._side(*images.shape[1:3]))
        return blended(images, positions, np.full_like(cover, self.value), np.float32(self.opacity) * cover)

    def _side(self, height: int, width: int) -> int:
        return max(1, round(self.size * min(height, width)))


@lru_cache(32)
def _cover(shape: str, side: int) -> NDArray[np.float32]:
    """Return the fraction of every pixel that the shape covers, float32 [side, side] in 0 … 1."""
    canvas = Image.new("L", (side * FINER, side * FINER))
    draw, unit = ImageDraw.Draw(canvas), side * FINER / 100  # shapes are drawn on 100 × 100 units

    def scaled(*numbers: float) -> list[float]:
        return [unit * number for number in numbers]

    def line(*numbers: float, width: float = 16) -> None:
        draw.line(scaled(*numbers), 255, max(1, round(unit * width)), joint="curve")

    if shape == "L":
        line(28, 5, 28, 95)
        line(20, 87, 80, 87)
    elif shape == "R":
        line(28, 5, 28, 95)
        draw.arc(scaled(20, 5, 80, 55), -90, 90, 255, max(1, round(unit * 16)))
        line(28, 13, 52, 13)
        line(28, 47, 52, 47)
        line(50, 50, 74, 95)
    elif shape == "electrode":
        draw.ellipse(scaled(25, 45, 75, 95), outline=255, width=max(1, round(unit * 9)))
        draw.ellipse(scaled(42, 62, 58, 78), 255)
        line(50, 45, 58, 20, 92, 4, width=5)
    else:
        draw.rounded_rectangle(scaled(28, 6, 94, 60), unit * 18, 255)
        line(50, 58, 34, 72, 26, 88, 4, 96, width=5)
    small = canvas.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)
