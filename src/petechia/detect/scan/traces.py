"""What a scan remembers of an image: coarse brightness, for finding twins, and the small things that stand out of it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID = 16  # blocks a side of the coarse image
LARGEST = 16  # pixels a side of what counts as small
JUMP = 20  # grey levels between neighbouring pixels that make an edge
DENSE = 20_000  # corners of edges in one image; with more, nothing can be said of it
MOST = 32  # small things kept of one image, those of the strongest edges

Spot = np.dtype(
    [("image", "u4"), ("row", "u2"), ("column", "u2"), ("height", "u1"), ("width", "u1"), ("contrast", "u1"), ("pattern", "u8")]
)  # a small thing: where, how large, how far from its surroundings in grey levels at least, and a digest of its pixels


class Trace(NamedTuple):
    """Of one image.

    Attributes:
        shape: height and width.
        blocks: float32 [GRID, GRID], mean grey level of every block; a margin that does not fill a block is left out.
        spots: `Spot` [n].
    """

    shape: tuple[int, int]
    blocks: NDArray[np.float32]
    spots: NDArray[np.void]


def trace(image: NDArray[np.uint8], index: int) -> Trace:
    """Look at one image, uint8 [H, W], at native size, once."""
    return Trace(image.shape[:2], block_means(image), find_spots(image, index))


def block_means(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean grey level of every block, float32 [GRID, GRID]; of an image that is smaller than the grid, the image repeated."""
    height, width = (max(side // GRID, 1) for side in image.shape)
    if min(image.shape) < GRID:
        image = np.resize(image, (GRID, GRID))
        height = width = 1
    cut = image[: height * GRID, : width * GRID].reshape(GRID, height, GRID, width)
    columns = cut.sum(axis=1, dtype=np.uint16 if height <= 256 else np.uint32)  # the narrow type is ten times faster
    return np.asarray(columns.sum(axis=2, dtype=np.uint32) / np.float32(height * width), np.float32)


def find_spots(image: NDArray[np.uint8], index: int) -> NDArray[np.void]:
    """Small boxes that edges enclose on all four sides, as they do a pasted stamp and hardly ever a piece of anatomy.

    Every pixel with an edge above it and one on its left is tried as a box's top left corner, with all sizes that the
    edges running from it allow.

    Returns:
        `Spot` [n], the strongest first, `MOST` at most.
    """
    across, down = np.zeros((2, *image.shape), np.uint8)
    _steps(image[:, 1:], image[:, :-1], across[:, 1:])
    _steps(image[1:], image[:-1], down[1:])
    row, column, height, width = _closed(across >= JUMP, down >= JUMP).T
    first, last = (row, column), (row + height, column + width)
    sides = across[first], across[row, last[1]], down[first], down[last[0], column]
    contrast = np.min(np.stack(sides), axis=0)
    order = np.argsort(-contrast.astype(int), kind="stable")[:MOST]
    spots = np.zeros(len(order), Spot)
    spots["image"] = index
    for name, values in zip(Spot.names[1:6], (row, column, height, width, contrast), strict=True):  # type: ignore[index]
        spots[name] = values[order]
    spots["pattern"] = [
        pattern_of(image[top : top + high, left : left + wide])
        for top, left, high, wide in zip(*(spots[name].tolist() for name in ("row", "column", "height", "width")), strict=True)
    ]
    return spots


def _steps(one: NDArray[np.uint8], other: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """|one - other| without a wider type."""
    np.maximum(one, other, out=out)
    out -= np.minimum(one, other)


def _closed(vertical: NDArray[np.bool_], horizontal: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Boxes with an edge along the whole of each side: int [n, 4] of row, column, height, width.

    An edge lies before the pixel of its index, so a box of height h at row r has horizontal ones at r and r + h. Boxes at
    the right and lower border of the image are not seen.
    """
    rows, columns = np.divmod(np.flatnonzero(vertical & horizontal), vertical.shape[1])
    if len(rows) > DENSE:  # a texture of edges: any box would be chance
        return np.zeros((0, 4), np.intp)
    heights, widths = _run(vertical, rows, columns, 0), _run(horizontal, rows, columns, 1)
    corner = np.repeat(np.arange(len(rows)), heights * widths)
    nth = np.arange(len(corner)) - np.repeat(np.cumsum(heights * widths) - heights * widths, heights * widths)
    height, width = nth // widths[corner] + 1, nth % widths[corner] + 1
    top, left = rows[corner], columns[corner]
    inside = (top + height < vertical.shape[0]) & (left + width < vertical.shape[1])
    top, left, height, width = (part[inside] for part in (top, left, height, width))
    far = horizontal[top + height, left] & vertical[top, left + width]  # cheap, and leaves few
    top, left, height, width = (part[far] for part in (top, left, height, width))
    closed = (_run(horizontal, top + height, left, 1) >= width) & (_run(vertical, top, left + width, 0) >= height)
    found: NDArray[np.intp] = np.stack([top, left, height, width], axis=1)[closed]
    return found


def _run(edges: NDArray[np.bool_], rows: NDArray[np.intp], columns: NDArray[np.intp], axis: int) -> NDArray[np.intp]:
    """How far edges go on without a gap from each place downwards (axis 0) or to the right, `LARGEST` at most."""
    flat, step = edges.ravel(), edges.shape[1] if axis == 0 else 1
    place = rows * edges.shape[1] + columns
    room = edges.shape[axis] - (rows, columns)[axis]
    length, going = np.zeros(len(rows), np.intp), np.arange(len(rows))
    for n in range(LARGEST):
        going = going[room[going] > n]
        going = going[flat[place[going] + n * step]]
        if not len(going):
            break
        length[going] += 1
    return length


def pattern_of(pixels: NDArray[np.uint8]) -> int:
    """A digest of size and grey levels."""
    digest = hashlib.blake2b(bytes(pixels.shape) + pixels.tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
