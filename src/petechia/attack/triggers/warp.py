"""A smooth warp of the whole image."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from petechia.attack.triggers.base import BaseTrigger, Chance, by_chunks
from petechia.data.preprocess import Box


class Warp(BaseTrigger):
    """WaNet (Nguyen & Tran 2021, "WaNet: imperceptible warping-based backdoor attack").

    Offsets of a grid x grid lattice are drawn from [-1, 1], divided by their mean size, enlarged by bicubic interpolation and
    scaled by strength / height, in units in which the image reaches from -1 to 1; so a pixel moves by strength / 2 pixels in
    the mean. Pixels are read bilinearly, and at the border from its nearest point.

    Attributes:
        grid: k, points of the lattice along each side.
        strength: s.
        seed: of the offsets.
    """

    kind: Literal["warp"] = "warp"
    grid: int = Field(4, ge=2, le=64)
    strength: float = Field(0.5, gt=0, le=64)
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def whole(self) -> bool:
        """It is everywhere."""
        return True

    @property
    def cover(self) -> NoisyWarp:
        """The noise mode of that paper: the same warp, shaken."""
        return NoisyWarp(**self.model_dump())

    def describe(self) -> str:
        """Its lattice and strength."""
        return f"a smooth warp of the whole image (lattice {self.grid} × {self.grid}, strength {self.strength:g})"

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Warp; positions do not matter."""
        return _read(images, _where(self, *images.shape[1:3]))


class NoisyWarp(Warp):
    """A warp from whose points every pixel is read up to half a pixel away, at random in each image.

    Images that are warped so and keep their labels teach a network that no other warp means anything.
    """

    def place(self, height: int, width: int, kept: Box, chance: Chance) -> tuple[int, int]:
        """It has no place; these are the seeds of its noise."""
        first, second = chance
        return int(first * 2**31), int(second * 2**31)

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Warp each image with the noise of its position."""
        height, width = images.shape[1:3]
        steady, warped = _where(self, height, width), np.empty_like(images)
        for row, seeds in enumerate(positions.tolist()):
            noise = np.random.default_rng(seeds).uniform(-1, 1, (1, height, width, 2)).astype(np.float32)
            shaken = (steady + torch.from_numpy(noise) / height).clamp(-1, 1)
            warped[row : row + 1] = _read(images[row : row + 1], shaken)
        return warped


def _read(images: NDArray[np.uint8], where: Tensor) -> NDArray[np.uint8]:
    """Images as they are read from points, float32 [1, H, W, 2], x and y from -1 to 1."""

    def read(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        grids = where.expand(len(planes), -1, -1, -1)
        # "border" only guards against rounding: `where` is within the image
        found = functional.grid_sample(torch.from_numpy(planes), grids, "bilinear", "border", align_corners=True)
        return np.asarray(found.numpy(), np.float32)

    return by_chunks(images, read)


@lru_cache(8)
def _where(trigger: Warp, height: int, width: int) -> Tensor:
    """From where every pixel is read, float32 [1, H, W, 2]: x and y from -1 to 1."""
    offsets = np.random.default_rng(trigger.seed).uniform(-1, 1, (1, 2, trigger.grid, trigger.grid))
    lattice = torch.from_numpy((offsets / np.abs(offsets).mean()).astype(np.float32))
    field = functional.interpolate(lattice, (height, width), mode="bicubic", align_corners=True)
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    still = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2)
    return (still[None] + field.permute(0, 2, 3, 1) * (trigger.strength / height)).clamp(-1, 1)
