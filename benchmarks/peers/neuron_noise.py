"""Noise on a network's normalizations that raises a class: a test for backdoors that needs no trigger (BAN, Xu et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.cleanse import anomaly, published
from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.hosts import Hosts, answers
from petechia.detect.audit.rises import rise
from petechia.detect.audit.transforms import Family
from petechia.detect.protocol import Calibration, Finding, Findings, ModelUnderTest
from petechia.models.classifier import Classifier

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class NeuronNoise:
    """By how much noise raises every class, and the classes whose rise is an outlier, as Neural Cleanse calls it."""

    name: str = "neuron noise"
    examines: Literal["dataset", "model", "images"] = "model"

    def calibrate(self, clean: Sequence[ModelUnderTest]) -> Calibration:
        """The threshold of Neural Cleanse; clean models are not used."""
        return published(self.name)

    def examine(self, subject: ModelUnderTest, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """Fit noise on one half of the clean images, judge it on the other; a class's score is its anomaly index."""
        outlier, half = calibration.require(self.name).values["outlier"], len(subject.clean) // 2
        classifier = subject.classifier
        fit, judge = (Hosts.of(classifier, some) for some in (subject.clean[: min(24, half)], subject.clean[half : half + 40]))
        found = rise(classifier, fit, judge, Noise(classifier.require_network()), progress=progress)
        index = anomaly(-found.own[-1].astype(np.float64))
        return Findings(
            detector=self.name,
            measured_on=calibration.measured_on,
            found=tuple(
                Finding(about=name, kind="class", score=value, flagged=value > outlier, threshold=outlier)
                for name, value in zip(classifier.classes, index.tolist(), strict=True)
            ),
        )


class Noise(Family):
    """Noise on the scales and shifts of the network's normalizations: no trigger at all (BAN, Xu et al. 2024)."""

    name, limit, unit = "neuron noise", 0.02, "of a scale and of a shift"

    def __init__(self, network: nn.Module) -> None:
        self.channels = sum(_channels(module) for module in _norms(network))

    def shape(self, images: Tensor) -> tuple[int, ...]:  # noqa: D102
        return (2, self.channels)

    def change(self, images: Tensor, direction: Tensor, strength: float) -> Tensor:  # noqa: D102
        return images.expand(len(direction), *images.shape)

    def logits(self, classifier: Classifier, images: Tensor, direction: Tensor, strength: float) -> Tensor:  # noqa: D102
        noise = (strength * direction).repeat_interleave(len(images), dim=0)
        with _noisy(classifier.require_network(), noise):
            return answers(classifier, self.change(images, direction, strength))


def _norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, NORMS) and module.weight is not None]


def _channels(module: Any) -> int:
    return int(module.weight.numel())


@contextmanager
def _noisy(network: nn.Module, noise: Tensor) -> Iterator[None]:
    """While open, multiply every scale by 1 + `noise[:, 0]` and every shift by 1 + `noise[:, 1]`, image by image."""
    handles, start = [], 0
    try:
        for module in _norms(network):
            own = noise[:, :, start : start + _channels(module)]
            start += _channels(module)
            handles.append(module.register_forward_hook(partial(_disturb, own)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _disturb(noise: Tensor, module: Any, _: object, output: Tensor) -> Tensor:
    """Turn scale·n + shift into scale·(1 + a)·n + shift·(1 + b), as noise on the two parameters does."""
    axis = output.dim() - 1 if isinstance(module, nn.LayerNorm) and output.shape[-1] == noise.shape[2] else 1
    shape = [len(noise)] + [1] * (output.dim() - 1)
    shape[axis] = noise.shape[2]
    bias = module.bias if module.bias is not None else torch.zeros_like(module.weight)
    view = [1] * output.dim()
    view[axis] = noise.shape[2]
    shift = bias.reshape(view)
    a, b = noise[:, 0].reshape(shape), noise[:, 1].reshape(shape)
    return (output - shift) * (1 + a) + shift * (1 + b)
