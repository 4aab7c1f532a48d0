"""Noise on a network's normalizations that raises a class: a test for backdoors that needs no trigger (BAN, Xu et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from petechia.detect.audit.hosts import answers
from petechia.detect.audit.transforms import Family
from petechia.models.classifier import Classifier

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class Noise(Family):
    """Noise on the scales and shifts of the network's normalizations: no trigger at all (BAN, Xu et al. 2024)."""

    name, limit = "neuron noise", 0.02  # of a scale and of a shift

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
