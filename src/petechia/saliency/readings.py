"""How the output of a layer is a map of the image: which of its dimensions are rows, columns and channels."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

MOST_EXTRA = 9  # tokens of a class, a teacher, registers


@dataclass(frozen=True)
class Reading:
    """How a tensor is a map of the image.

    Attributes:
        kind: its dimensions: "BCHW", "BHWC", tokens "BTC" or "BCT".
        grid: rows and columns.
        prefix: of tokens, how many come before those of the image's parts.
        suffix: of tokens, how many come after them.
        order: number of the token at each place, row by row; () if they are in the order of the image.
        channels: of "BCHW", if only a map of so many is one; attention has as many rows as columns, too.
    """

    kind: Literal["BCHW", "BHWC", "BTC", "BCT"]
    grid: tuple[int, int]
    prefix: int = 0
    suffix: int = 0
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
        if tokens.shape[2] != self.prefix + height * width + self.suffix:
            return None
        tokens = tokens[:, :, self.prefix : self.prefix + height * width]
        placed = tokens[:, :, list(self.order)] if self.order else tokens
        return placed.reshape(*tokens.shape[:2], height, width)


class Tokens(NamedTuple):
    """A tensor [B, T, C] or [B, C, T].

    Attributes:
        shape: of it.
        readings: possible ones, the likeliest first.
        still: how many tokens at the start and the end of its second and of its third dimension do not change with the image.
    """

    shape: tuple[int, ...]
    readings: tuple[Reading, ...]
    still: tuple[tuple[int, int] | None, tuple[int, int] | None]


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

    def read(self, shapes: Sequence[tuple[int, ...]], count: int) -> list[tuple[Reading, ...]]:
        """Read the shapes of tensors that a network gave for `count` images: what each can be, the likeliest first."""
        fitting = [shape for shape in shapes if shape and shape[0] == count]
        lengths = {shape[1] for shape in fitting if len(shape) == 3}
        sides = {grid for shape in fitting if len(shape) == 4 for grid in (shape[1:3], shape[2:])}
        grids = {(rows, columns) for rows, columns in sides if not rows == columns in lengths}
        return [self._read(shape, grids, lengths) if shape and shape[0] == count else () for shape in shapes]

    def _read(
        self, shape: tuple[int, ...], grids: Collection[tuple[int, ...]], lengths: Collection[int]
    ) -> tuple[Reading, ...]:
        if len(shape) == 3:
            return self._of_tokens(shape, grids)
        if len(shape) != 4 or shape[2] == shape[3] in lengths:  # attention: each token's share in each
            return ()
        first, last = Reading("BCHW", (shape[2], shape[3])), Reading("BHWC", (shape[1], shape[2]))
        both = (last, first) if self.channels_last else (first, last)
        return tuple(one for one in both if in_proportion(one.grid, self.size))

    def _of_tokens(self, shape: tuple[int, ...], grids: Collection[tuple[int, ...]]) -> tuple[Reading, ...]:
        """Tokens [B, T, C] or [B, C, T]: T and C can both be squares, so a grid that other tensors have comes first."""
        if self.prefix is not None and (grid := self._grid(shape[1] - self.prefix, self.grid)):
            return (Reading("BTC", grid, self.prefix),)
        first = [one for prefix in range(MOST_EXTRA + 1) if (one := self.with_extra(shape, 1, prefix, 0))]
        last = [one for one in (self.with_extra(shape, 2, 0, 0),) if one and shape[1] > MOST_EXTRA]
        few = [one for one in first if one.prefix < 2]
        halved = _halved(grids)
        known = [one for one in (*first, *last) if one.grid in grids] or [one for one in (*few, *last) if one.grid in halved]
        likeliest = next(iter((*known, *few)), None)
        others = [one for one in (*few, *last) if likeliest and one.kind != likeliest.kind]
        return (likeliest, *others) if likeliest else ()

    def with_extra(self, shape: tuple[int, ...], dim: int, prefix: int, suffix: int) -> Reading | None:
        """Read [B, T, C] (dim 1) or [B, C, T] (dim 2) as tokens with others before and after them."""
        grid = self._grid(shape[dim] - prefix - suffix)
        return Reading("BTC" if dim == 1 else "BCT", grid, prefix, suffix) if grid else None

    def with_still(self, tokens: Sequence[Tokens]) -> list[tuple[Reading, ...]]:
        """Read tensors again where tokens at the ends do not change with the image.

        The first tensor of a length speaks for all: later ones mix their tokens.
        """
        still: dict[int, tuple[int, int]] = {}
        for one in tokens:
            for dim, extra in zip((1, 2), one.still, strict=True):
                if extra and one.shape[dim] not in still and self.with_extra(one.shape, dim, *extra):
                    still[one.shape[dim]] = extra
        return [self._with_extras(one.shape, one.readings, still) for one in tokens]

    def _with_extras(
        self, shape: tuple[int, ...], ways: tuple[Reading, ...], still: Mapping[int, tuple[int, int]]
    ) -> tuple[Reading, ...]:
        for dim in (1, 2):
            extra = still.get(shape[dim])
            if extra and (one := self.with_extra(shape, dim, *extra)):
                others = tuple(way for way in ways if way.kind != one.kind)
                ways = (one, *others) if ways[:1] != others[:1] or not ways else (*others, one)
        return ways

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
