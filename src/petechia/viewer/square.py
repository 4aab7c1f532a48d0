"""Paint the squares that a reader draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from petechia.attack import Patch
from petechia.attack.square import Square
from petechia.data.preprocess import Box


def paint_squares(image: NDArray[np.uint8], squares: Sequence[Square], opacity: float) -> NDArray[np.uint8]:
    """Paint squares on a copy of an image, uint8 [H, W] or [H, W, 3], in their order.

    Raises:
        PetechiaError: a square does not fit on the image.
    """
    painted = np.array(image)
    height, width = image.shape[:2]
    for row, column, size, value in squares:
        patch = Patch(size=size, value=value, opacity=opacity, location=(row, column))
        patch.place(height, width, Box(0, 0, height, width), (0, 0))
        place = painted[row : row + size, column : column + size]
        place[:] = patch.stamp(place[None], np.zeros((1, 2), np.intp))[0]
    return painted
