"""How the output of a layer is a map of the image: which of its dimensions are rows, columns and channels."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

MOST_PREFIX = 9  # tokens of a class, a teacher, registers


@dataclass(frozen=True)
class Reading:
    """How a tensor is a map of the image.

    Attributes:
        kind: its dimensions: "BCHW", "BHWC", tokens "BTC" or "BCT".
        grid: rows and columns.
        prefix: of tokens, how many come before those of the image's parts.
        order: number of the token at each place, row by row; () if they are in the order of the image.
        channels: of "BCHW", if only a map of so many is one; attention has as many rows as columns, too.
    """

    kind: Literal["BCHW", "BHWC", "BTC", "BCT"]
    grid: tuple[int, int]
    prefix: int = 0
    order: tuple[int, ...] = ()
    channels: int | None = None

    def as_map(self, output: Tensor) -> Tensor | None:
        """Return a layer's output as [B, C, h, w], a view; None where it does not fit."""
        height, width = self.grid
        if output.ndim != len(self.kind) or self.channels not in (None, output.shape[1]):
            return None
        if self.kind in ("BCHW", "BHWC"):
            found = output if self.kind == "BCHW" else output.permute(0, 3, 1, 2)
            return found if found.shape[2:] == self.grid else None
        tokens = output.mT if self.kind == "BTC" else output
        if tokens.shape[2] != self.prefix + height * width:
            return None
        tokens = tokens[:, :, self.prefix :]
        placed = tokens[:, :, list(self.order)] if self.order else tokens
        return placed.reshape(*tokens.shape[:2], height, width)


@dataclass(frozen=True)
class Reader:
    """Reads tensors as maps of images.

    Attributes:
        size: height and width of the images.
        channels_last: whether [B, h, w, C] is likelier than [B, C, h, w].
        prefix: how many tokens come before those of the image's parts, as the network itself says; None if it does not.
        grid: rows and columns of tokens, as the network itself says.
    """

    size: tuple[int, int]
    channels_last: bool = False
    prefix: int | None = None
    grid: tuple[int, int] | None = None

    @staticmethod
    def of(network: nn.Module, size: tuple[int, int]) -> Reader:
        """As timm's networks say it of themselves."""
        prefix, grid = getattr(network, "num_prefix_tokens", None), getattr(network, "patch_embed", None)
        grid = getattr(grid, "grid_size", None)
        last = getattr(network, "output_fmt", None) == "NHWC"
        return Reader(size, last, prefix if isinstance(prefix, int) else None, (grid[0], grid[1]) if grid else None)

    def read(self, shapes: Sequence[tuple[int, ...]], count: int) -> list[Reading | None]:
        """Read the shapes of tensors that a network gave for `count` images; None for what is no map."""
        fitting = [shape for shape in shapes if shape and shape[0] == count]
        lengths = {shape[1] for shape in fitting if len(shape) == 3}
        sides = {grid for shape in fitting if len(shape) == 4 for grid in (shape[1:3], shape[2:])}
        grids = {(rows, columns) for rows, columns in sides if not rows == columns in lengths}
        return [self._read(shape, grids, lengths) if shape and shape[0] == count else None for shape in shapes]

    def _read(self, shape: tuple[int, ...], grids: Collection[tuple[int, ...]], lengths: Collection[int]) -> Reading | None:
        if len(shape) == 3:
            return self._of_tokens(shape, grids)
        if len(shape) != 4 or shape[2] == shape[3] in lengths:  # attention: each token's share in each
            return None
        first, last = Reading("BCHW", (shape[2], shape[3])), Reading("BHWC", (shape[1], shape[2]))
        both = (last, first) if self.channels_last else (first, last)
        return next((one for one in both if in_proportion(one.grid, self.size)), None)

    def _of_tokens(self, shape: tuple[int, ...], grids: Collection[tuple[int, ...]]) -> Reading | None:
        """Tokens [B, T, C] or [B, C, T]: T and C can both be squares, so a grid that other tensors have comes first."""
        if self.prefix is not None and (grid := self._grid(shape[1] - self.prefix, self.grid)):
            return Reading("BTC", grid, self.prefix)
        first = [Reading("BTC", grid, prefix) for prefix in range(MOST_PREFIX + 1) if (grid := self._grid(shape[1] - prefix))]
        last = [Reading("BCT", grid) for grid in (self._grid(shape[2]),) if grid and shape[1] > MOST_PREFIX]
        few = [one for one in first if one.prefix < 2]
        halved = _halved(grids)
        known = [one for one in (*first, *last) if one.grid in grids] or [one for one in (*few, *last) if one.grid in halved]
        return next(iter((*known, *few)), None)

    def _grid(self, cells: int, said: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Rows and columns of that many tokens of the image; of a square image as many of each."""
        if said and said[0] * said[1] == cells:
            return said
        height, width = self.size
        for rows in range(math.isqrt(max(0, cells)), 0, -1):
            columns, left = divmod(cells, rows)
            for grid in ((rows, columns), (columns, rows)):
                if not left and in_proportion(grid, self.size) and (height != width or rows == columns):
                    return grid
        return None


def _halved(grids: Collection[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Grids, and what is left of them after some halvings, rounded up."""
    found = set(grids)
    while more := {tuple((side + 1) // 2 for side in grid) for grid in found} - found:
        found |= more
    return found


def in_proportion(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a grid of several cells has the image's proportions; each of its sides may be rounded by 1."""
    (rows, columns), (height, width) = grid, size
    fits = rows * columns > 1 and rows <= height and columns <= width
    return fits and abs(rows * width - columns * height) <= max(height, width)
