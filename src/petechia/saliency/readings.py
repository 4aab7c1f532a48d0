"""How the output of a layer is a map of the image: which of its dimensions are rows, columns and channels."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

MOST_PREFIX = 16  # tokens of a class, a teacher, registers


@dataclass(frozen=True)
class Reading:
    """How a tensor is a map of the image.

    Attributes:
        kind: its dimensions: "BCHW", "BHWC", tokens "BTC" or "BCT".
        grid: rows and columns.
        prefix: of tokens, how many come before those of the image's parts.
    """

    kind: Literal["BCHW", "BHWC", "BTC", "BCT"]
    grid: tuple[int, int]
    prefix: int = 0

    def as_map(self, output: Tensor) -> Tensor | None:
        """Return a layer's output as [B, C, h, w], a view; None where it does not fit."""
        height, width = self.grid
        if output.ndim != len(self.kind):
            return None
        if self.kind in ("BCHW", "BHWC"):
            found = output if self.kind == "BCHW" else output.permute(0, 3, 1, 2)
            return found if found.shape[2:] == self.grid else None
        tokens = output.mT if self.kind == "BTC" else output
        if tokens.shape[2] != self.prefix + height * width:
            return None
        return tokens[:, :, self.prefix :].reshape(*tokens.shape[:2], height, width)


@dataclass(frozen=True)
class Reader:
    """Reads tensors as maps of images.

    Attributes:
        size: height and width of the images.
        channels_last: whether [B, h, w, C] is likelier than [B, C, h, w].
        tokens: how the network itself says that its tokens are arranged; None if it says nothing.
    """

    size: tuple[int, int]
    channels_last: bool = False
    tokens: Reading | None = None

    @staticmethod
    def of(network: nn.Module, size: tuple[int, int]) -> Reader:
        """As timm's networks say it of themselves."""
        prefix, grid = getattr(network, "num_prefix_tokens", None), getattr(network, "patch_embed", None)
        grid = getattr(grid, "grid_size", None)
        said = Reading("BTC", (int(grid[0]), int(grid[1])), prefix) if isinstance(prefix, int) and grid is not None else None
        return Reader(size, getattr(network, "output_fmt", None) == "NHWC", said)

    def read(self, shapes: Sequence[tuple[int, ...]], count: int) -> list[Reading | None]:
        """Read the shapes of tensors that a network gave for `count` images; None for what is no map."""
        fitting = [shape for shape in shapes if shape and shape[0] == count]
        grids = {grid for shape in fitting if len(shape) == 4 for grid in (shape[1:3], shape[2:])}
        lengths = {shape[1] for shape in fitting if len(shape) == 3}
        return [self._read(shape, grids, lengths) if shape and shape[0] == count else None for shape in shapes]

    def _read(self, shape: tuple[int, ...], grids: Collection[tuple[int, ...]], lengths: Collection[int]) -> Reading | None:
        if len(shape) == 3:
            return self._of_tokens(shape, grids)
        if len(shape) != 4 or (shape[2] == shape[3] and shape[3] in lengths):  # attention: each token's share in each
            return None
        first, last = Reading("BCHW", (shape[2], shape[3])), Reading("BHWC", (shape[1], shape[2]))
        both = (last, first) if self.channels_last else (first, last)
        return next((one for one in both if in_proportion(one.grid, self.size)), None)

    def _of_tokens(self, shape: tuple[int, ...], grids: Collection[tuple[int, ...]]) -> Reading | None:
        said = self.tokens
        if said and shape[1] == said.prefix + said.grid[0] * said.grid[1]:
            return said
        for kind, count in (("BTC", shape[1]), ("BCT", shape[2])):
            for prefix in range(min(MOST_PREFIX, count - 2) + 1):
                grid = self._grid(count - prefix)
                if grid and (prefix < 2 or grid in grids):
                    return Reading(kind, grid, prefix)  # type: ignore[arg-type]
        return None

    def _grid(self, cells: int) -> tuple[int, int] | None:
        """Rows and columns of that many tokens of the image; of a square image as many of each."""
        height, width = self.size
        for rows in range(math.isqrt(cells), 0, -1):
            columns, left = divmod(cells, rows)
            for grid in ((rows, columns), (columns, rows)):
                if not left and in_proportion(grid, self.size) and (height != width or rows == columns):
                    return grid
        return None


def in_proportion(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a grid of several cells has the image's proportions; each of its sides may be rounded by 1."""
    (rows, columns), (height, width) = grid, size
    fits = rows * columns > 1 and rows <= height and columns <= width
    return fits and abs(rows * width - columns * height) <= max(height, width)
