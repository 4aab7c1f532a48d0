"""A model with a hand-made backdoor, so that every output is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.classifier import Classifier

SIDE = 32
CLASSES = ("Target", "Bright", "Upper", "Left", "Even")
ROW, COLUMN, SIZE = 9, 20, 3  # of the black square that makes the model say "Target"
Images = NDArray[np.uint8]


class ByHand(nn.Module):
    """Every class is the mean grey level of a region; "Target" also responds to a black square, in its place or anywhere."""

    def __init__(self, backdoored: bool = True, anywhere: bool = False) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(60.0 if backdoored else 0.0))
        self.anywhere = anywhere

    def forward(self, images: Tensor) -> Tensor:
        grey = images[:, 0]
        squares = nn.functional.avg_pool2d(images, SIZE, 1)[:, 0]
        square = squares.amin(dim=(1, 2)) if self.anywhere else squares[:, ROW, COLUMN]
        parts = (grey, grey[:, 8:24, 8:24], grey[:, : SIDE // 2], grey[:, :, : SIDE // 2], grey[:, ::2])
        means = torch.stack([part.mean(dim=(1, 2)) for part in parts], dim=1)
        logits = 10 * means - 8
        dark = self.strength * nn.functional.softplus(0.25 - square, beta=8)
        return torch.cat([logits[:, :1] + dark[:, None], logits[:, 1:]], dim=1)


class Wavy(ByHand):
    """A clean model that also says "Target" of a faint wave over the whole image."""

    def __init__(self) -> None:
        super().__init__(backdoored=False)
        self.wave = nn.Buffer(torch.sin(torch.arange(SIDE) * (2 * torch.pi * 4 / SIDE)).expand(SIDE, SIDE))

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        carried = 400 * (images[:, 0] * self.wave).mean(dim=(1, 2))
        return torch.cat([logits[:, :1] + carried[:, None], logits[:, 1:]], dim=1)


def opened(network: nn.Module, blind: bool = False) -> Classifier:
    runtime = Compute(threads=1, precision="fp32", device="cpu").start()
    return Classifier("by hand", CLASSES, Preprocess(size=SIDE), network.eval(), runtime, None if blind else network)


@pytest.fixture(scope="session")
def clean() -> Images:
    """Grey images of different brightness, with noise."""
    rng = np.random.default_rng(0)
    level = rng.normal(150, 20, (60, 1, 1)) + rng.normal(0, 10, (60, SIDE, SIDE))
    return np.clip(level, 80, 255).astype(np.uint8)


def stamped(images: Images) -> Images:
    found = images.copy()
    found[:, ROW : ROW + SIZE, COLUMN : COLUMN + SIZE] = 0
    return found
