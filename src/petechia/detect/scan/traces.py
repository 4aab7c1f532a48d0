"""The trace of an image that a scan keeps: coarse brightness, fine structure, and small things with edges all around."""

from __future__ import annotations

import hashlib
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
        texture: int8 [FINE, FINE], the fine structure: what sets each of smaller blocks off from its neighbours. 0 of an image
            with fewer pixels a side.
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
    coloured = image.ndim == 3 and bool((image != image[..., :1]).any())
    spots = [find_spots(plane_of(image, plane), index, plane) for plane in range(len(PLANES) if coloured else 1)]
    return Trace((height, width), *blocks_and_texture(_shown(grey)), np.concatenate(spots))


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
    return image.clip(0, 255).astype(np.uint8) if image.dtype == np.int16 else image.astype(np.uint8, copy=False)


def blocks_and_texture(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """See `Trace`; the pixels are summed once if both kinds of blocks cover the same part of the image."""
    if min(image.shape) < FINE:
        return block_means(image), np.zeros((FINE, FINE), np.int8)
    if any(side % FINE for side in image.shape):
        return block_means(image), _texture(block_means(image, FINE))
    fine = _block_sums(image, FINE)
    coarse = fine.reshape(GRID, FINE // GRID, GRID, FINE // GRID).sum(axis=(1, 3))
    return _means(coarse, image.size), _texture(_means(fine, image.size))


def block_means(image: NDArray[np.uint8], blocks: int = GRID) -> NDArray[np.float32]:
    """Mean grey level of every block, float32 [blocks, blocks]; of an image that is smaller than that, the image repeated."""
    if min(image.shape) < blocks:
        image = np.resize(image, (blocks, blocks))
    height, width = (side - side % blocks for side in image.shape)
    return _means(_block_sums(image[:height, :width], blocks), height * width)


def _block_sums(image: NDArray[np.uint8], blocks: int) -> NDArray[np.uint32]:
    height, width = (side // blocks for side in image.shape)
    cut = image.reshape(blocks, height, blocks, width)
    columns = cut.sum(axis=1, dtype=np.uint16 if height <= 256 else np.uint32)  # the narrow type is ten times faster
    return np.asarray(columns.sum(axis=2, dtype=np.uint32))


def _means(sums: NDArray[np.unsignedinteger], pixels: int) -> NDArray[np.float32]:
    return np.asarray(sums / np.float32(pixels // sums.size), np.float32)


def _texture(means: NDArray[np.float32]) -> NDArray[np.int8]:
    apart = np.clip(means - uniform_filter(means, 3, mode="nearest"), -STEEP, STEEP)
    return np.asarray((apart * (127 / STEEP)).round(), np.int8)


def find_spots(image: Grey, index: int, plane: int = 0) -> NDArray[np.void]:
    """Small boxes that edges enclose on all four sides, as they do a pasted stamp and hardly ever a piece of anatomy.

    Every pixel with an edge above it and one on its left is tried as a box's top left corner, with all sizes that the
    edges running from it allow.

    Returns:
        `Spot` [n], the strongest first, 2 x `MOST` at most.
    """
    row, column, height, width, contrast = _closed(image)
    if not len(row):
        return np.zeros(0, Spot)
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


class _Boxes(NamedTuple):
    """Boxes in an image, [n] each: place and size in pixels, and the weakest of their edges at the corners."""

    row: NDArray[np.intp]
    column: NDArray[np.intp]
    height: NDArray[np.intp]
    width: NDArray[np.intp]
    contrast: Grey


def _closed(image: Grey) -> _Boxes:
    """Boxes with an edge along the whole of each side.

    An edge lies before the pixel of its index, so a box of height h at row r has horizontal ones at r and r + h. Boxes at
    the right and lower border of the image are not seen.
    """
    wide = _continued(image)
    flat, step = wide.ravel(), wide.shape[1]
    corners = _corners(flat, step)
    if len(corners) > DENSE:  # a texture of edges: any box would be chance
        corners = corners[:0]
    at, high, broad = _sizes(flat, step, corners)
    right, below = at + broad, at + high * step
    closed = _edges_from(flat, right, step, 1)[np.arange(len(at)), high - 1]
    closed &= _edges_from(flat, below, 1, step)[np.arange(len(at)), broad - 1]
    at, high, broad, right, below = (part[closed] for part in (at, high, broad, right, below))
    sides = ((at, 1), (right, 1), (at, step), (below, step))
    contrast = np.min([_distance(flat[place], flat[place - before]) for place, before in sides], axis=0)
    return _Boxes(*np.divmod(at, step), high, broad, contrast.clip(0, 255))


def _continued(image: Grey) -> Grey:
    """An image that goes on below and on its right, without an edge before the pixels that are added there."""
    height, width = image.shape
    wide = np.empty((height + LARGEST, width + LARGEST), image.dtype)
    wide[:height, :width] = image
    wide[height:, :width] = image[-1]
    wide[:, width:] = wide[:, width - 1 : width]
    return wide


def _corners(flat: Grey, step: int) -> NDArray[np.intp]:
    """Places in an image, [H * step], of the pixels with an edge above them and one on their left."""
    places = np.flatnonzero(_distance(flat[step:], flat[step - 1 : -1]) >= JUMP) + step
    places = places[_distance(flat[places], flat[places - step]) >= JUMP]
    return places[places % step > 0]  # the pixel before the first of a row is the last of the row above


def _sizes(flat: Grey, step: int, corners: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Corners, heights and widths of what has a left and an upper side, at the ends of which the other sides begin."""
    left, upper = _edges_from(flat, corners, step, 1), _edges_from(flat, corners, 1, step)
    down, right = _line(flat, corners, step, LARGEST + 1), _line(flat, corners, 1, LARGEST + 1)
    heights = left & (_distance(down[:, 1:], down[:, :-1]) >= JUMP)
    widths = upper & (_distance(right[:, 1:], right[:, :-1]) >= JUMP)
    pairs = np.flatnonzero(heights[:, :, None] & widths[:, None, :])  # three times as fast as nonzero
    which, size = np.divmod(pairs, LARGEST**2)
    height, width = np.divmod(size, LARGEST)
    return corners[which], height + 1, width + 1


def _edges_from(flat: Grey, places: NDArray[np.intp], step: int, before: int) -> NDArray[np.bool_]:
    """Whether there are edges without a gap from each place to each of the next `LARGEST`, bool [n, LARGEST].

    Args:
        flat: image.
        places: int [n].
        step: from one place to the next.
        before: from the pixels before the edge to those behind it.
    """
    edges = _distance(_line(flat, places, step), _line(flat, places - before, step)) >= JUMP
    return np.logical_and.accumulate(edges, axis=1)


def _line(flat: Grey, places: NDArray[np.intp], step: int, length: int = LARGEST) -> Grey:
    """The pixels of the line that begins at each place, [n, length]."""
    line: Grey = flat[places[:, None] + step * np.arange(length)]
    return line


def _distance(one: Grey, other: Grey) -> Grey:
    """|one - other| without a wider type."""
    return np.maximum(one, other) - np.minimum(one, other)


def pattern_of(pixels: Grey) -> int:
    """A digest of size and grey levels."""
    digest = hashlib.blake2b(bytes(pixels.shape) + pixels.astype(np.int16).tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
