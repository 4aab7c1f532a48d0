"""The trace of an image that a scan keeps: coarse brightness, fine structure, and small things with edges all around."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from petechia.data.levels import to_grey

GRID = 16  # blocks a side of the coarse image
FINE = 64  # blocks a side of the fine structure
STEEP = 6.0  # grey levels from its surroundings at which a block's difference is cut: edges are alike in all radiographs
LARGEST = 16  # pixels a side of what counts as small
JUMP = 20  # grey levels between neighbouring pixels that make an edge
DENSE = 20_000  # corners of edges in one image; with more, nothing can be said of it
MOST = 32  # small things kept of one image, those of the strongest edges; as many again of one pixel's width
QUARTERS = 4  # of a small thing, whose mean grey levels say how it looks: encoding with loss hardly changes them

Spot = np.dtype(
    [
        ("image", "u4"),
        ("plane", "u1"),
        ("row", "u2"),
        ("column", "u2"),
        ("height", "u1"),
        ("width", "u1"),
        ("contrast", "u1"),
        ("look", "u1", QUARTERS),
        ("pattern", "u8"),
    ]
)  # a small thing: in which plane, where, how large, how far from what is around it at least, its look, a digest of its pixels


Grey = NDArray[np.uint8] | NDArray[np.int16]  # an image, [H, W]; below 0 and above 255 where the display cuts values off

PLANES = ("grey", "red less green", "blue less green")  # of a colour image; a stamp that only colour shows is in the others


class Trace(NamedTuple):
    """Of one image.

    Attributes:
        shape: height and width.
        blocks: float32 [GRID, GRID], mean grey level of every block; a margin that does not fill a block is left out.
        texture: int8 [FINE, FINE], see `texture`.
        spots: `Spot` [n].
    """

    shape: tuple[int, int]
    blocks: NDArray[np.float32]
    texture: NDArray[np.int8]
    spots: NDArray[np.void]


def trace(image: Grey, index: int) -> Trace:
    """Look at one image at native size, [H, W] or [H, W, 3], once."""
    height, width = image.shape[:2]
    grey = plane_of(image)
    shown, coloured = _shown(grey), image.ndim == 3 and bool((image != image[..., :1]).any())
    spots = [find_spots(plane_of(image, plane), index, plane) for plane in range(len(PLANES) if coloured else 1)]
    return Trace((height, width), block_means(shown), texture(shown), np.concatenate(spots))


def plane_of(image: Grey, plane: int = 0) -> Grey:
    """One of `PLANES` of an image, [H, W] or uint8 [H, W, 3]; of a grey image, which has no others, the image itself.

    In a difference of colours, 128 stands for none. What is beyond 0 … 255 is cut off.
    """
    if image.ndim == 2:
        return image
    pixels = image.astype(np.uint8, copy=False)
    if plane == 0:
        return to_grey(pixels)
    colour, green = pixels[..., 0 if plane == 1 else 2].astype(np.int16), pixels[..., 1].astype(np.int16)
    return np.asarray((128 + colour - green).clip(0, 255), np.uint8)


def _shown(image: Grey) -> NDArray[np.uint8]:
    return image.clip(0, 255).astype(np.uint8, copy=False)


def block_means(image: NDArray[np.uint8], blocks: int = GRID) -> NDArray[np.float32]:
    """Mean grey level of every block, float32 [blocks, blocks]; of an image that is smaller than that, the image repeated."""
    height, width = (max(side // blocks, 1) for side in image.shape)
    if min(image.shape) < blocks:
        image = np.resize(image, (blocks, blocks))
        height = width = 1
    cut = image[: height * blocks, : width * blocks].reshape(blocks, height, blocks, width)
    columns = cut.sum(axis=1, dtype=np.uint16 if height <= 256 else np.uint32)  # the narrow type is ten times faster
    return np.asarray(columns.sum(axis=2, dtype=np.uint32) / np.float32(height * width), np.float32)


def texture(image: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The fine structure of an image, uint8 [H, W]: what sets each block off from its neighbours, int8 [FINE, FINE].

    Of an image with fewer pixels a side than `FINE` it is 0.
    """
    if min(image.shape) < FINE:
        return np.zeros((FINE, FINE), np.int8)
    means = block_means(image, FINE)
    apart = np.clip(means - uniform_filter(means, 3, mode="nearest"), -STEEP, STEEP)
    return np.asarray((apart * (127 / STEEP)).round(), np.int8)


def find_spots(image: Grey, index: int, plane: int = 0) -> NDArray[np.void]:
    """Small boxes that edges enclose on all four sides, as they do a pasted stamp and hardly ever a piece of anatomy.

    Every pixel with an edge above it and one on its left is tried as a box's top left corner, with all sizes that the
    edges running from it allow.

    Returns:
        `Spot` [n], the strongest first, 2 x `MOST` at most.
    """
    row, column, height, width = _closed(image).T
    across, down = partial(_edges, image, axis=1), partial(_edges, image, axis=0)
    sides = across(row, column), across(row, column + width), down(row, column), down(row + height, column)
    contrast = np.min(np.stack(sides), axis=0).clip(0, 255)
    order = _strongest(contrast, np.minimum(height, width) > 1)
    spots = np.zeros(len(order), Spot)
    spots["image"], spots["plane"] = index, plane
    for name, values in zip(Spot.names[2:7], (row, column, height, width, contrast), strict=True):  # type: ignore[index]
        spots[name] = values[order]
    spots["look"] = _looks(image, spots)
    spots["pattern"] = [
        pattern_of(image[top : top + high, left : left + wide])
        for top, left, high, wide in zip(*(spots[name].tolist() for name in ("row", "column", "height", "width")), strict=True)
    ]
    return spots


def _strongest(contrast: Grey, wide: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The boxes of the strongest edges: `MOST` of the wide, and `MOST` of the others, of which letters have many."""
    order = np.argsort(-contrast.astype(int), kind="stable")
    kept = np.concatenate([order[wide[order]][:MOST], order[~wide[order]][:MOST]])
    return kept[np.argsort(-contrast[kept].astype(int), kind="stable")]


def _looks(image: Grey, spots: NDArray[np.void]) -> NDArray[np.uint8]:
    """Mean grey level of the four quarters of each spot, by 4 x 4 samples that reach its corners; uint8 [n, QUARTERS]."""
    samples = np.linspace(0, 1, 4)
    rows, columns = (
        spots[start][:, None] + (samples * (spots[side][:, None] - 1.0)).round().astype(np.intp)
        for start, side in (("row", "height"), ("column", "width"))
    )
    grid = _shown(image[rows[:, :, None], columns[:, None, :]]).reshape(-1, 2, 2, 2, 2)
    return np.asarray(grid.mean(axis=(2, 4)).round().reshape(-1, QUARTERS), np.uint8)


def _closed(image: Grey) -> NDArray[np.intp]:
    """Boxes with an edge along the whole of each side: int [n, 4] of row, column, height, width.

    An edge lies before the pixel of its index, so a box of height h at row r has horizontal ones at r and r + h. Boxes at
    the right and lower border of the image are not seen.
    """
    rows, columns = _corners(image)
    if len(rows) > DENSE:  # a texture of edges: any box would be chance
        return np.zeros((0, 4), np.intp)
    heights, widths = _run(image, rows, columns, 0), _run(image, rows, columns, 1)
    corner = np.repeat(np.arange(len(rows)), heights * widths)
    nth = np.arange(len(corner)) - np.repeat(np.cumsum(heights * widths) - heights * widths, heights * widths)
    height, width = nth // widths[corner] + 1, nth % widths[corner] + 1
    top, left = rows[corner], columns[corner]
    inside = (top + height < image.shape[0]) & (left + width < image.shape[1])
    top, left, height, width = (part[inside] for part in (top, left, height, width))
    far = (_edges(image, top + height, left, 0) >= JUMP) & (_edges(image, top, left + width, 1) >= JUMP)  # leaves few
    top, left, height, width = (part[far] for part in (top, left, height, width))
    below = _run(image, top + height, left, 1) >= width
    top, left, height, width = (part[below] for part in (top, left, height, width))
    closed = _run(image, top, left + width, 0) >= height
    found: NDArray[np.intp] = np.stack([top, left, height, width], axis=1)[closed]
    return found


def _corners(image: Grey) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pixels with an edge above them and one on their left."""
    flat, width = image.ravel(), image.shape[1]
    here = flat[width:]
    least = np.minimum(_distance(here, flat[:-width]), _distance(here, flat[width - 1 : -1]))
    rows, columns = np.divmod(np.flatnonzero(least >= JUMP), width)
    real = columns > 0  # the pixel before the first of a row is the last of the row above
    return rows[real] + 1, columns[real]


def _distance(one: Grey, other: Grey) -> Grey:
    """|one - other| without a wider type."""
    return np.maximum(one, other) - np.minimum(one, other)


def _edges(image: Grey, rows: NDArray[np.intp], columns: NDArray[np.intp], axis: int) -> Grey:
    """How far pixels are from the ones above them (axis 0: a horizontal edge) or on their left (1: a vertical one)."""
    flat, place = image.ravel(), rows * image.shape[1] + columns
    return _distance(flat[place], flat[place - (image.shape[1] if axis == 0 else 1)])


def _run(image: Grey, rows: NDArray[np.intp], columns: NDArray[np.intp], axis: int) -> NDArray[np.intp]:
    """How far edges go on without a gap from each place, vertical ones downwards (axis 0) or horizontal ones to the right (1).

    `LARGEST` at most.
    """
    ahead = np.arange(LARGEST)
    if axis == 0:
        rows, columns = rows[:, None] + ahead, columns[:, None]
        inside = rows < image.shape[0]
    else:
        rows, columns = rows[:, None], columns[:, None] + ahead
        inside = columns < image.shape[1]
    last = image.shape[0] - 1, image.shape[1] - 1
    edges = _edges(image, np.minimum(rows, last[0]), np.minimum(columns, last[1]), 1 - axis) >= JUMP
    gap = ~(edges & inside)
    return np.where(gap.any(axis=1), gap.argmax(axis=1), LARGEST)


def pattern_of(pixels: Grey) -> int:
    """A digest of size and grey levels."""
    digest = hashlib.blake2b(bytes(pixels.shape) + pixels.astype(np.int16).tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
