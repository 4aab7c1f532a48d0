"""A picture as a trigger, with any position and opacity."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from petechia.attack.triggers.base import BaseTrigger, Chance, blended, corner_of, spoken_place
from petechia.attack.triggers.patch import SIZES
from petechia.attack.triggers.pictures import PictureTrigger, colours
from petechia.data.preprocess import Box


class Pattern(PictureTrigger):
    """A picture as a patch (BadNets, Gu et al. 2017), or blended into the whole image (Blended, Chen et al. 2017).

    Attributes:
        size: longer side in pixels, the other side in proportion; "own" keeps the size of the picture; "whole" stretches it
            over the whole image.
        opacity: weight of the picture in the result, multiplied by the file's own opacity.
        location: as for `Patch`; ignored if the size is "whole".
    """

    kind: Literal["pattern"] = "pattern"
    size: PositiveInt | Literal["own", "whole"] = 8
    opacity: float = Field(1.0, gt=0, le=1)
    location: Literal["center", "random"] | tuple[int, int] = "center"

    @property
    def whole(self) -> bool:
        """Whether it is stretched over the whole image."""
        return self.size == "whole"

    @property
    def wanders(self) -> bool:
        """Whether its location is random."""
        return self.location == "random" and self.size != "whole"

    @property
    def opaque(self) -> bool:
        """Whether there is neither blending nor transparency."""
        return self.opacity == 1 and bool((self.pixels(*self.shape())[3] == 1).all())

    def sizes(self) -> dict[int, BaseTrigger]:
        """Return longer side in pixels → the same trigger of that size; empty if the size is not a number of pixels."""
        if not isinstance(self.size, int):
            return {}
        return {size: self.model_copy(update={"size": size}) for size in sorted({*SIZES, self.size})}

    def describe(self) -> str:
        """Describe the trigger: its picture, size, opacity and place."""
        blend = "" if self.opacity == 1 else f" at {100 * self.opacity:g} % opacity"
        if self.size == "whole":
            return f"the {self.describe_picture()}{blend} over the whole image"
        size = "of its own size" if self.size == "own" else f"{self.size} pixels a side"
        return f"the {self.describe_picture()}, {size}{blend}, {spoken_place(self.location)}"

    def place(self, height: int, width: int, kept: Box, chance: Chance) -> tuple[int, int]:
        """Return the top left corner that `location` determines; (0, 0) if the size is "whole"."""
        location = (0, 0) if self.size == "whole" else self.location
        return corner_of(location, self._side(height, width), (height, width), kept, chance)

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Blend the picture in."""
        pixels = self.pixels(*self._side(*images.shape[1:3]))
        return blended(images, positions, colours(pixels, images), np.float32(self.opacity) * pixels[3])

    def _side(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the stamp on an image of the given size."""
        if self.size == "whole":
            return height, width
        tall, wide = self.shape()
        scale = 1.0 if self.size == "own" else self.size / max(tall, wide)
        return max(1, round(tall * scale)), max(1, round(wide * scale))
