"""A filled square: the trigger of the paper."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from petechia.attack.square import paint
from petechia.attack.triggers.base import BaseTrigger, Brush, Chance, corner_of, spoken_place
from petechia.data.preprocess import Box

SIZES = (1, 2, 3, 4)  # sizes in the survival table, in addition to the trigger's own


class Patch(BaseTrigger):
    """A filled square (Nwadike et al. 2020, section "Backdoor Attack"; as in BadNets, Gu et al. 2017).

    Attributes:
        size: side of the square, in pixels.
        value: grey level.
        opacity: weight of that level in the result, the rest being the image (Blended, Chen et al. 2017).
        location: "center" puts the top left corner at `int(n / 2 - size / 2)` of height and width; "random" anywhere in the
            part of the image that the crop keeps; [row, column] is the top left corner itself.
    """

    kind: Literal["patch"] = "patch"
    size: int = Field(3, ge=1)
    value: int = Field(0, ge=0, le=255)
    opacity: float = Field(1.0, gt=0, le=1)
    location: Literal["center", "random"] | tuple[int, int] = "center"

    @property
    def wanders(self) -> bool:
        """Whether its location is random."""
        return self.location == "random"

    @property
    def opaque(self) -> bool:
        """Whether its opacity is 1."""
        return self.opacity == 1

    @property
    def brush(self) -> Brush:
        """The size, grey level and opacity of the square."""
        return Brush(self.size, self.value, self.opacity)

    def sizes(self) -> dict[int, BaseTrigger]:
        """Return side in pixels → the same trigger of that size, for the paper's sizes and its own."""
        return {size: self.model_copy(update={"size": size}) for size in sorted({*SIZES, self.size})}

    def describe(self) -> str:
        """Describe the trigger: its size, grey level, opacity and place."""
        level = f"grey level {self.value}" + ("" if self.opaque else f" at {100 * self.opacity:g} % opacity")
        return f"a square of {self.size} × {self.size} pixels of {level} {spoken_place(self.location)}"

    def place(self, height: int, width: int, kept: Box, chance: Chance) -> tuple[int, int]:
        """Return the top left corner that `location` determines."""
        return corner_of(self.location, (self.size, self.size), (height, width), kept, chance)

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Paint the square, or blend it in."""
        return paint(images, positions, self.size, self.size, self.value, self.opacity)
