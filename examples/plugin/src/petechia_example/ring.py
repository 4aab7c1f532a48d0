"""A trigger: a ring in which grey levels are inverted."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from petechia.attack.triggers import BaseTrigger


class Ring(BaseTrigger):
    """An inverted ring around the centre of the image.

    Attributes:
        radius: of the ring, as a share of the image's shorter side.
        width: of the ring, in pixels.
    """

    kind: Literal["ring"] = "ring"
    radius: float = Field(0.25, gt=0, le=0.5)
    width: float = Field(2, ge=1)

    def describe(self) -> str:
        """Its radius and width."""
        return f"an inverted ring of {100 * self.radius:g} % of the image's side, {self.width:g} pixels wide"

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Invert the ring; positions do not matter."""
        height, width = images.shape[1:3]
        rows, columns = np.indices((height, width))
        distance = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2)
        ring = np.abs(distance - self.radius * min(height, width)) <= self.width / 2
        stamped = images.copy()
        stamped[:, ring] = 255 - stamped[:, ring]
        return stamped
