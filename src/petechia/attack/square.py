"""Squares and rectangles, filled or as a checkerboard, and the function that paints them on images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

PIXELS = 1 << 20  # pixels converted to floating point at a time: bounds memory and fits into the CPU cache

Change = Callable[[NDArray[np.uint8], slice], NDArray[np.generic]]


class Square(NamedTuple):
    """A square on an image, filled or as a checkerboard of single pixels.

    Attributes:
        row: row of the top left corner, in pixels of the image.
        column: column of the top left corner, in pixels of the image.
        size: side, in pixels.
        value: grey level, 0 to 255.
        other: grey level of every other pixel, beginning with the second of the first row; None of a filled square.

    Example:
        >>> Square(1, 0, 2, 9).on(np.zeros((1, 3, 3), np.uint8))[0].tolist()
        [[0, 0, 0], [9, 9, 0], [9, 9, 0]]
        >>> Square(1, 0, 2, 9, 5).on(np.zeros((1, 3, 3), np.uint8))[0].tolist()
        [[0, 0, 0], [9, 5, 0], [5, 9, 0]]
    """

    row: int
    column: int
    size: int
    value: int
    other: int | None = None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Its grey levels, uint8 [size, size]."""
        return checkerboard(self.size, self.size, self.value, self.value if self.other is None else self.other)

    @property
    def area(self) -> tuple[slice, slice]:
        """The rows and columns of the square, as an index into an image."""
        return slice(self.row, self.row + self.size), slice(self.column, self.column + self.size)

    def on(self, images: NDArray[np.uint8], opacity: float | NDArray[np.float64] = 1.0) -> NDArray[np.uint8]:
        """Return copies of images with this square painted on each.

        Args:
            images: uint8 [N, H, W] or [N, H, W, C]; the square must lie within them.
            opacity: weight of the grey level in the result, one number or [N]; see `paint`.
        """
        positions = np.tile(np.array([self.row, self.column], np.intp), (len(images), 1))
        level = self.value if self.other is None else self.pixels
        return paint(images, positions, self.size, self.size, level, opacity)

    @property
    def levels(self) -> str:
        """Its grey levels in words."""
        return grey_words(self.value, self.other)

    def __str__(self) -> str:
        return f"{self.size} × {self.size} pixels of {self.levels} at row {self.row}, column {self.column}"


def grey_words(value: int, other: int | None) -> str:
    """The grey levels of a square in words."""
    return f"grey level {value}" if other is None else f"grey levels {value} and {other} in turn"


def checkerboard(height: int, width: int, value: int, other: int) -> NDArray[np.uint8]:
    """Pixels of two grey levels in turn, along rows and columns: uint8 [height, width]."""
    return np.where(np.indices((height, width)).sum(axis=0) % 2, other, value).astype(np.uint8)


def paint(
    images: NDArray[np.uint8],
    positions: NDArray[np.intp],
    height: int,
    width: int,
    value: int | NDArray[np.uint8],
    opacity: float | NDArray[np.float64] = 1.0,
) -> NDArray[np.uint8]:
    """Return copies of images with a rectangle on each, opaque or blended in (Blended, Chen et al. 2017).

    Args:
        images: uint8 [N, H, W] or [N, H, W, C]; not changed.
        positions: int [N, 2], row and column of the top left corners; the rectangles must lie within the images.
        height: height of the rectangle, in pixels.
        width: width of the rectangle, in pixels.
        value: grey level of the rectangle, 0 to 255, or those of its pixels, [height, width].
        opacity: weight of that level in the result, the rest being the image: one number, or [N], one per image.
    """
    share = np.asarray(opacity, np.float64)
    if share.ndim or isinstance(value, np.ndarray):
        each = np.broadcast_to(share, len(images))
        return changed_at(images, positions, height, width, lambda part, rows: _blend(value, _spread(each[rows], part), part))
    became = _blend(value, share, np.arange(256)).astype(np.uint8)
    level = became[0]  # level of an opaque rectangle, which does not depend on the image
    return changed_at(
        images, positions, height, width, lambda part, _: np.asarray(level) if share == 1 else np.asarray(became[part])
    )


def _blend(value: int | NDArray[np.uint8], share: NDArray[np.float64], below: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    return np.asarray(np.rint(share * value + (1 - share) * below))


def _spread(share: NDArray[np.float64], part: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Reshape one share per image so that it broadcasts over the images."""
    return share.reshape(-1, *(1,) * (part.ndim - 1))


def changed_at(
    images: NDArray[np.uint8], positions: NDArray[np.intp], height: int, width: int, change: Change
) -> NDArray[np.uint8]:
    """Return copies of images in which one rectangle per image is changed.

    Args:
        images: uint8 [N, H, W] or [N, H, W, C]; not changed.
        positions: int [N, 2], row and column of the top left corners.
        height: height of the rectangles, in pixels.
        width: width of the rectangles, in pixels.
        change: function that gets the rectangles of n images, uint8 [n, height, width] or [n, C, height, width], and the slice
            of the N images that they belong to; it returns their new content, of the same shape or one that broadcasts to it.
    """
    stamped = np.array(images)
    if len(stamped) == 0:
        return stamped
    step = max(1, PIXELS // (height * width))
    row, column = positions[0]
    if (positions == positions[0]).all():
        places = stamped[:, row : row + height, column : column + width]
        places = places if places.ndim == 3 else np.moveaxis(places, 3, 1)
        for start in range(0, len(stamped), step):
            part = places[start : start + step]
            part[:] = change(part, slice(start, start + step))
        return stamped
    windows = sliding_window_view(stamped, (height, width), axis=(1, 2), writeable=True)
    for start in range(0, len(stamped), step):
        here = np.arange(start, min(start + step, len(stamped)))
        where = (here, *positions[here].T)
        windows[where] = change(windows[where], slice(start, start + step))
    return stamped
