"""A smooth warp of the whole image, as a trigger."""

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

    Offsets of a grid x grid lattice are drawn from [-1, 1], divided by their mean absolute value, upsampled by bicubic
    interpolation and scaled by strength / height, in units in which the image extends from -1 to 1; so a pixel moves by
    strength / 2 pixels on average. Pixels are read bilinearly; points beyond the border are moved to the nearest point on it.

    Attributes:
        grid: k, number of lattice points along each side.
        strength: s.
        seed: random seed of the offsets.
    """

    kind: Literal["warp"] = "warp"
    grid: int = Field(4, ge=2, le=64)
    strength: float = Field(0.5, gt=0, le=64)
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def whole(self) -> bool:
        """True: it changes the whole image."""
        return True

    @property
    def cover(self) -> NoisyWarp:
        """The paper's noise mode: the same warp with random noise."""
        return NoisyWarp(**self.model_dump())

    def describe(self) -> str:
        """Describe the trigger: its lattice and strength."""
        return f"a smooth warp of the whole image (lattice {self.grid} × {self.grid}, strength {self.strength:g})"

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Warp the images; positions are ignored."""
        return _read(images, _where(self, *images.shape[1:3]))


class NoisyWarp(Warp):
    """A warp with noise: every pixel is read up to half a pixel away from its point, at random in each image.

    Images with this warp keep their labels; they teach a network to respond only to the exact warp.
    """

    def place(self, height: int, width: int, kept: Box, chance: Chance) -> tuple[int, int]:
        """Return two seeds of the noise, in place of a position."""
        first, second = chance
        return int(first * 2**31), int(second * 2**31)

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Warp each image, with noise that is seeded by its position."""
        height, width = images.shape[1:3]
        steady, warped = _where(self, height, width), np.empty_like(images)
        for row, seeds in enumerate(positions.tolist()):
            noise = np.random.default_rng(seeds).uniform(-1, 1, (1, height, width, 2)).astype(np.float32)
            shaken = (steady + torch.from_numpy(noise) / height).clamp(-1, 1)
            warped[row : row + 1] = _read(images[row : row + 1], shaken)
        return warped


def _read(images: NDArray[np.uint8], where: Tensor) -> NDArray[np.uint8]:
    """Sample images at the points `where`, float32 [1, H, W, 2], x and y from -1 to 1."""

    def read(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        grids = where.expand(len(planes), -1, -1, -1)
        # "border" only guards against rounding: `where` is within the image
        found = functional.grid_sample(torch.from_numpy(planes), grids, "bilinear", "border", align_corners=True)
        return np.asarray(found.numpy(), np.float32)

    return by_chunks(images, read)


@lru_cache(8)
def _where(trigger: Warp, height: int, width: int) -> Tensor:
    """Return the point from which every pixel is read, float32 [1, H, W, 2]: x and y from -1 to 1."""
    offsets = np.random.default_rng(trigger.seed).uniform(-1, 1, (1, 2, trigger.grid, trigger.grid))
    lattice = torch.from_numpy((offsets / np.abs(offsets).mean()).astype(np.float32))
    field = functional.interpolate(lattice, (height, width), mode="bicubic", align_corners=True)
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    still = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2)
    return (still[None] + field.permute(0, 2, 3, 1) * (trigger.strength / height)).clamp(-1, 1)
