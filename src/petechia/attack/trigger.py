"""Triggers: what is stamped on an image, p(x, r, m) in the paper."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from petechia.data.preprocess import Box
from petechia.errors import PetechiaError
from petechia.settings import Settings


class Patch(Settings):
    """A filled square (Nwadike et al. 2020, section "Backdoor Attack"; as in BadNets, Gu et al. 2017).

    Attributes:
        size: side of the square in pixels.
        value: its grey level.
        opacity: share of that level in what is written, the rest being the image's own (Blended, Chen et al. 2017).
        location: "center" puts its top left corner at `int(n / 2 - size / 2)` of height and width; "random" anywhere in
            the part of the image that the crop keeps; [row, column] is the top left corner itself.
    """

    kind: Literal["patch"] = "patch"
    size: int = Field(3, ge=1)
    value: int = Field(0, ge=0, le=255)
    opacity: float = Field(1.0, gt=0, le=1)
    location: Literal["center", "random"] | tuple[int, int] = "center"

    def place(self, height: int, width: int, kept: Box, chance: tuple[float, float]) -> tuple[int, int]:
        """The top left corner on one image.

        Args:
            height: of the image.
            width: of the image.
            kept: the part that the crop keeps, for random places.
            chance: two random numbers in [0, 1), for random places.

        Raises:
            PetechiaError: the square does not fit.
        """
        if self.location == "center":
            row, column = int(height / 2 - self.size / 2), int(width / 2 - self.size / 2)
        elif self.location == "random":
            if self.size > min(kept.height, kept.width):
                raise PetechiaError(
                    f"A trigger of {self.size} x {self.size} pixels does not fit into the {kept.height} x {kept.width} "
                    f"pixels that the crop keeps of an image; make attack.trigger.size smaller or preprocess.crop larger."
                )
            row = kept.top + int(chance[0] * (kept.height - self.size + 1))
            column = kept.left + int(chance[1] * (kept.width - self.size + 1))
        else:
            row, column = self.location
        if min(row, column) < 0 or row + self.size > height or column + self.size > width:
            raise PetechiaError(
                f"A trigger of {self.size} x {self.size} pixels at row {row}, column {column} does not fit on an image of "
                f"{height} x {width}; change attack.trigger.size or attack.trigger.location."
            )
        return row, column

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Stamp copies of the images; the input is left as it was.

        Args:
            images: uint8 [N, H, W] or [N, H, W, C].
            positions: int [N, 2], row and column of the top left corner on each image.

        Returns:
            Images of the same shape and type.
        """
        stamped = np.array(images)
        side = np.arange(self.size)
        rows = positions[:, 0, None, None] + side[:, None]
        columns = positions[:, 1, None, None] + side
        where = (np.arange(len(stamped))[:, None, None], rows, columns)
        stamped[where] = np.rint(self.opacity * self.value + (1 - self.opacity) * stamped[where])
        return stamped


Trigger = Patch  # becomes a union, told apart by `kind`, with the second kind of trigger
