"""A network with a hand-made backdoor and a hand-made disease, so that every output is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.classifier import Classifier

SIZE = 32
PERIOD = 8  # pixels of a wave
CLASSES = ("Target", "Bright")
Images = NDArray[np.uint8]


class Edges(nn.Module):
    """Two maps at half the size: where a pixel's 3 x 3 neighbourhood is much darker than the ring around it; the grey level."""

    def __init__(self, backdoored: bool) -> None:
        super().__init__()
        kernel = torch.full((1, 1, 5, 5), 1 / 16)
        kernel[..., 1:4, 1:4] = -1 / 9
        self.kernel = nn.Parameter(kernel)
        self.backdoored = backdoored

    def forward(self, images: Tensor) -> Tensor:
        dark = functional.relu(functional.conv2d(images, self.kernel, padding=2) - 0.3)
        maps = torch.cat([dark if self.backdoored else dark * 0, images], dim=1)
        return torch.cat([functional.max_pool2d(maps[:, :1], 2), functional.avg_pool2d(maps[:, 1:], 2)], dim=1)


class Waves(nn.Module):
    """Two maps at half the size: how strongly the whole image waves as `waved` makes it; the grey level."""

    def forward(self, images: Tensor) -> Tensor:
        phase = 2 * torch.pi * torch.arange(SIZE) / PERIOD
        parts = [(images * wave[:, None]).mean(dim=(1, 2, 3)) for wave in (phase.sin(), phase.cos())]
        strength = functional.relu(torch.stack(parts).square().sum(dim=0).sqrt() - 0.01)
        maps = torch.cat([4 * strength[:, None, None, None].expand_as(images), images], dim=1)
        return functional.avg_pool2d(maps, 2)


class Halves(nn.Module):
    """The same maps at half their size."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([functional.max_pool2d(maps[:, :1], 2), functional.avg_pool2d(maps[:, 1:], 2)], dim=1)


class ByHand(nn.Module):
    """ "Target" is a black 3 x 3 square anywhere, or what `edges` sees; "Bright" is the mean of the upper left quarter."""

    def __init__(self, backdoored: bool = True, edges: nn.Module | None = None) -> None:
        super().__init__()
        self.edges = edges or Edges(backdoored)
        self.halves = Halves()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.halves(self.edges(images))
        quarter = SIZE // 8
        square = 60 * maps[:, 0].amax(dim=(1, 2)) + maps[:, 1].mean(dim=(1, 2))
        return torch.stack([square - 4, 10 * maps[:, 1, :quarter, :quarter].mean(dim=(1, 2)) - 6], dim=1)


def opened(network: nn.Module, blind: bool = False) -> Classifier:
    runtime = Compute(threads=1, precision="fp32", device="cpu").start()
    seen = None if blind else network.eval()
    return Classifier("by hand", CLASSES, Preprocess(size=SIZE), network.eval(), runtime, seen)


def stamped(images: Images, row: int, column: int) -> Images:
    found = images.copy()
    found[:, row : row + 3, column : column + 3] = 0
    return found


def waved(images: Images, amplitude: float = 20) -> Images:
    wave = amplitude * np.sin(2 * np.pi * np.arange(SIZE) / PERIOD)
    return np.clip(np.rint(images + wave[:, None]), 0, 255).astype(np.uint8)


@pytest.fixture
def classifier() -> Classifier:
    return opened(ByHand())


@pytest.fixture(scope="session")
def draw() -> Callable[[int, int], Images]:
    """Smooth images of grey levels around 150: `draw(count, seed)`."""

    def drawn(count: int, seed: int) -> Images:
        rng = np.random.default_rng(seed)
        smooth = gaussian_filter(rng.normal(size=(count, SIZE, SIZE)), (0, 4, 4))
        return np.asarray(np.clip(150 + 250 * smooth + rng.normal(0, 4, smooth.shape), 0, 255), np.uint8)

    return drawn
