"""What detectors share that invert a trigger with a look at features: a network in two halves, and transforms of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.cleanse import anomaly
from petechia.core.errors import PetechiaError
from petechia.detect.protocol import Calibration, Finding, Findings
from petechia.models.classifier import Classifier
from petechia.saliency.layers import find_layers

WIDTH = 8  # channels of a transform
EMPTY = 1e-9  # added before a division
LEAST = 1e-3  # spread of a class's clean logits: some classes never change
MOST = 0.5  # share of images that must newly reach a class


@dataclass(frozen=True, eq=False)
class Halves:
    """A network, cut at its last map of the image.

    Attributes:
        classifier: whose network it is.
        layer: the module that gives the map.
        channels: dimension of the map that is its channels.
        one: float32 [1, C, H, W], any image.
    """

    classifier: Classifier
    layer: nn.Module
    channels: int
    one: Tensor

    @staticmethod
    def of(classifier: Classifier, images: Tensor) -> Halves:
        """Cut a network; its parameters take no gradients from then on.

        Args:
            classifier: the model.
            images: float32 [B, C, H, W] in 0…1.

        Raises:
            PetechiaError: the network has no map of the image.
        """
        network = classifier.require_network().requires_grad_(False)
        last = find_layers(network, ["last"], images[:1])["last"]
        if last.place or last.reading is None:
            raise PetechiaError(f"The last map of {classifier.name} is a part of what its module gives; it cannot be replaced.")
        return Halves(classifier, last.module, last.reading.kind.index("C"), images[:1])

    def maps(self, images: Tensor) -> Tensor:
        """The last map of images, float32 [B, C, H, W] → [B, …], with gradients."""
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _given: object, output: Tensor) -> None:
            kept.append(output.clone())  # what follows may change it in place

        handle = self.layer.register_forward_hook(keep)
        try:
            self._run(images)
        finally:
            handle.remove()
        return kept[-1].float()

    def logits(self, maps: Tensor) -> Tensor:
        """What the network says of last maps, [B, …] → float32 [B, K], with gradients; its first half sees one image only."""
        handle = self.layer.register_forward_hook(lambda _module, _given, output: maps.to(output.dtype).clone())
        try:
            return self._run(self.one).float()
        finally:
            handle.remove()

    def _run(self, images: Tensor) -> Tensor:
        with self.classifier.runtime.autocast():
            found: Tensor = self.classifier.require_network()(images)
        return found


class Transforms(nn.Module):
    """G transforms of images side by side, each a small U-Net that knows places, and a pattern of its own.

    Args:
        count: G.
        shape: [C, H, W] of an image.
        bound: largest root mean square of the change of an image.
        seed: of the first weights.
    """

    def __init__(self, count: int, shape: tuple[int, ...], bound: float, seed: int = 0) -> None:
        super().__init__()
        self.count, self.bound = count, bound
        channels, height, width = shape
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.places = nn.Buffer(torch.stack([rows, columns])[None])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = self._layer(channels + 2, WIDTH)
            self.down = self._layer(WIDTH, WIDTH, stride=2)
            self.deep = self._layer(WIDTH, WIDTH, stride=2)
            self.last = self._layer(WIDTH, channels)
        self.pattern = nn.Parameter(torch.zeros(count * channels, height, width))

    def forward(self, images: Tensor) -> Tensor:
        """Change images, float32 [B, C, H, W] in 0…1 → [G, B, C, H, W] in 0…1."""
        placed = torch.cat([images, self.places.expand(len(images), -1, -1, -1)], dim=1)
        fine = self.first(placed.repeat(1, self.count, 1, 1)).relu()
        middle = self.down(fine).relu()
        coarse = self.deep(middle).relu()
        middle = middle + functional.interpolate(coarse, size=middle.shape[2:], mode="nearest")
        fine = fine + functional.interpolate(middle, size=fine.shape[2:], mode="nearest")
        change = (self.last(fine) + self.pattern).tanh()
        change = change.unflatten(1, (self.count, -1)).transpose(0, 1)
        return (images + within(change, self.bound)).clamp(0, 1)

    def _layer(self, given: int, made: int, stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(self.count * given, self.count * made, 3, stride, padding=1, groups=self.count)


def within(change: Tensor, bound: float) -> Tensor:
    """Changes [..., C, H, W], those with a root mean square above a bound scaled down to it."""
    size = (change.square().mean(dim=(-3, -2, -1), keepdim=True) + EMPTY).sqrt()
    return change * (bound / size).clamp(max=1)


def verdict(classifier: Classifier, rises: Tensor, reached: Tensor, calibration: Calibration) -> Findings:
    """The classes that rise beyond the others: an inverted trigger must also bring most images there, or it is none.

    Args:
        classifier: the model.
        rises: float32 [K], of each class's logit, in standard deviations over clean images.
        reached: float32 [K], the share of images that newly reach each class.
        calibration: gives the anomaly index from which a class is flagged.
    """
    outlier = calibration.values["outlier"]
    index = np.where(reached.numpy() >= MOST, anomaly(-rises.double().numpy()), 0.0)
    found = tuple(
        Finding(
            about=name,
            kind="class",
            score=value,
            flagged=value > outlier,
            threshold=outlier,
            evidence={"rise": float(rises[k]), "reached": float(reached[k])},
        )
        for k, (name, value) in enumerate(zip(classifier.classes, index.tolist(), strict=True))
    )
    return Findings(detector=calibration.detector, measured_on=calibration.measured_on, found=found)
