"""Pictures of a stamp on a clean image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from petechia.attack.square import Square
from petechia.data.formats.images import magnified
from petechia.data.levels import in_colour

WIDE = 320  # pixels a side of a picture, at least
RING = (255, 64, 64)  # colour of the frame around a stamp
AROUND = 6  # pixels around a stamp in its close view


def framed(image: NDArray[np.uint8], square: Square) -> NDArray[np.uint8]:
    """An image with a stamp, and a red frame two pixels away from it.

    Args:
        image: uint8 [H, W] or [H, W, 3].
        square: the stamp.

    Returns:
        uint8 [H', W', 3], magnified.
    """
    large = in_colour(magnified(square.on(image[None])[0], WIDE))
    factor = len(large) // len(image)
    top, left = (max(0, (start - 2) * factor) for start in (square.row, square.column))
    bottom, right = (min(len(large), (start + square.size + 2) * factor) - 1 for start in (square.row, square.column))
    for rows, columns in (
        (slice(top, top + 2), slice(left, right)),
        (slice(bottom - 2, bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + 2)),
        (slice(top, bottom), slice(right - 2, right)),
    ):
        large[rows, columns] = RING
    return large


def close_view(image: NDArray[np.uint8], square: Square) -> NDArray[np.uint8]:
    """A stamp on an image with the pixels around it, magnified; arguments as for `framed`."""
    rows, columns = (slice(max(0, start - AROUND), start + square.size + AROUND) for start in (square.row, square.column))
    return magnified(square.on(image[None])[0][rows, columns], WIDE)
