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
    for square in squares:
        patch = Patch(size=square.size, value=square.value, opacity=opacity, location=(square.row, square.column))
        patch.place(height, width, Box(0, 0, height, width), (0, 0))
        painted = square.on(painted[None], opacity)[0]
    return painted
