"""The layers "last" and "middle" of networks of all kinds, against Grad-CAM by hand."""

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from timm.layers import set_fused_attn
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.models.openers.exported import of_program
from petechia.saliency import cam, explain
from petechia.saliency.layers import names_of

SIZE = 64
CPU = Runtime(torch.device("cpu"), False)


class Family(NamedTuple):
    """A small network, its layers, and how these arrange what they give: prefix of tokens, or a place in a tuple."""

    arch: str
    last: str
    middle: str
    cells: tuple[int, int]  # rows of the last and the middle layer
    kind: str = "BTC"
    prefix: int = 0
    settings: dict[str, Any] = {}  # noqa: RUF012


FAMILIES = [
    Family("xcit_nano_12_p16_224", "cls_attn_blocks.1.norm1", "blocks.2", (4, 4), prefix=1, settings={"depth": 6}),
    Family("cait_xxs24_224", "blocks", "blocks.2", (4, 4), settings={"depth": 6}),
    Family("levit_128s", "stages", "stages.1", (4, 7), settings={"img_size": 224}),
]


def small(arch: str, **settings: Any) -> nn.Module:
    """A network with random weights; scales and norms differ between channels, so that maps are not 0."""
    torch.manual_seed(0)
    network = timm.create_model(arch, num_classes=3, **{"img_size": SIZE, **settings}).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.rand_like(weight))
    return network


def images(count: int = 1, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def by_hand(network: nn.Module, image: Tensor, target: int, module: str, kind: str, prefix: int) -> Tensor:
    """Grad-CAM in the whole graph."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Any) -> None:
        output = output if isinstance(output, Tensor) else output[0]
        output.retain_grad()
        kept.append(output)

    handle = network.get_submodule(module).register_forward_hook(keep)
    network(image)[0, target].backward()
    handle.remove()
    activation, slope = kept[-1].detach()[0], kept[-1].grad
    assert slope is not None
    slope = slope[0]
    if kind == "BTC":
        side = round((len(activation) - prefix) ** 0.5)
        activation, slope = (one[prefix:].reshape(side, side, -1) for one in (activation, slope))
    if kind != "BCHW":
        activation, slope = activation.permute(2, 0, 1), slope.permute(2, 0, 1)
    return (activation * slope.mean(dim=(1, 2))[:, None, None]).sum(dim=0).relu()
