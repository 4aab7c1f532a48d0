"""Which layers of a network can be explained, what they are called, and how their outputs become maps."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from timm.models import DenseNet
from torch import Tensor, nn

from petechia.core.errors import PetechiaError

# The paper's middle layer is Keras' pool4_relu: norm and ReLU before the last transition's convolution.
OF_DENSENET = {"middle": "features.transition3.norm", "last": "features.norm5"}
NAMED = ("last", "middle")


@dataclass(frozen=True)
class Layout:
    """How a network arranges what its layers give.

    Attributes:
        prefix: of a transformer's tokens [B, T, D], how many come before those of the image's parts; None: no tokens.
        grid: rows and columns of these.
        channels_last: whether maps are [B, h, w, C].
    """

    prefix: int | None = None
    grid: tuple[int, int] = (0, 0)
    channels_last: bool = False

    @staticmethod
    def of(network: nn.Module) -> Layout:
        """As timm's networks say it of themselves."""
        prefix, embed = getattr(network, "num_prefix_tokens", None), getattr(network, "patch_embed", None)
        if isinstance(prefix, int) and getattr(embed, "grid_size", None) is not None:
            return Layout(prefix, tuple(cast(Any, embed).grid_size))
        return Layout(channels_last=getattr(network, "output_fmt", None) == "NHWC")

    def as_map(self, output: Tensor) -> Tensor | None:
        """A layer's output as [B, C, h, w], a view; None where it has no spatial extent."""
        if output.ndim == 3 and self.prefix is not None and output.shape[1] == self.prefix + self.grid[0] * self.grid[1]:
            return output[:, self.prefix :].mT.reshape(len(output), output.shape[2], *self.grid)
        if output.ndim != 4:
            return None
        found = output.permute(0, 3, 1, 2) if self.channels_last else output
        return found if found.shape[2] * found.shape[3] > 1 else None


def network_of(model: nn.Module) -> nn.Module:
    """The network whose modules are the layers: of a `petechia.models.model.Model` its own, of any other module itself."""
    network = getattr(model, "network", model)
    return network if isinstance(network, nn.Module) else model


def name_of(model: nn.Module) -> str:
    """What to call a model in a message."""
    description = getattr(model, "description", None)
    return str(description.architecture.arch) if description is not None else type(network_of(model)).__name__


def find_layers(model: nn.Module, layers: Sequence[str], images: Tensor) -> dict[str, nn.Module]:
    """Layer → module.

    Raises:
        PetechiaError: there is no such layer.
    """
    modules = {name: module for name, module in network_of(model).named_modules() if name}
    names = _last_and_middle(model, images) if set(NAMED) & set(layers) else {}
    if "middle" in layers and "middle" not in names:
        raise PetechiaError(
            f"No map of {name_of(model)} is twice as high as its last one, so there is no 'middle'; name a module."
        )
    found = {}
    for layer in layers:
        name = names.get(layer, layer)
        if name not in modules:
            near = difflib.get_close_matches(layer, [*NAMED, *modules], 5)
            raise PetechiaError(f"{name_of(model)} has no layer {layer!r}; near names: {', '.join(near or NAMED)}.")
        found[layer] = modules[name]
    return found


_known: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], dict[str, str]]] = WeakKeyDictionary()


def _last_and_middle(model: nn.Module, images: Tensor) -> dict[str, str]:
    """The names of the modules that "last" and, where there is one, "middle" stand for.

    Raises:
        PetechiaError: the network has no map.
    """
    network = network_of(model)
    if isinstance(network, DenseNet):
        return OF_DENSENET
    known, size = _known.setdefault(network, {}), tuple(images.shape[1:])
    if size not in known:  # finding them takes a forward pass
        known[size] = _of_tokens(network) or _of_maps(model, images)
    return known[size]


def _of_tokens(network: nn.Module) -> dict[str, str]:
    """A transformer's last block and the one halfway, after the norm with which a block begins.

    What the last block gives for the image's parts may be thrown away when there is a class token; what it gets is not.
    """
    blocks = getattr(network, "blocks", None)
    if Layout.of(network).prefix is None or not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return {}
    return {name: f"blocks.{index}.norm1" for name, index in (("middle", (len(blocks) - 1) // 2), ("last", len(blocks) - 1))}


def _of_maps(model: nn.Module, images: Tensor) -> dict[str, str]:
    heights = _heights(model, images)
    if not heights:
        raise PetechiaError(
            f"{name_of(model)} has no map larger than 1x1 to explain images of {images.shape[2]} x {images.shape[3]} pixels "
            f"with; take larger images, or a method for models without layers."
        )
    last, height = heights[-1]
    higher = [name for name, other in heights if other > height and (other + 1) // 2 >= height]
    return {"last": last} | ({"middle": higher[-1]} if higher else {})


def _heights(model: nn.Module, images: Tensor) -> list[tuple[str, int]]:
    """Parts of the trunk that give a map larger than 1x1, each with its height, in the order in which they end."""
    height, width = images.shape[2:]
    layout = Layout.of(network_of(model))
    heights: list[tuple[str, int]] = []

    def keep(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        found = layout.as_map(output) if isinstance(output, Tensor) else None
        if found is not None and _in_proportion(found, height, width):
            heights.append((name, found.shape[2]))

    with ExitStack() as hooks, torch.no_grad():
        for name, module in _trunk(network_of(model)):
            hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        model(torch.zeros_like(images[:1]) if len(images) else images.new_zeros(1, *images.shape[1:]))
    return heights


def _trunk(parent: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in parent.named_children():
        yield prefix + name, module
        if isinstance(module, nn.Sequential | nn.ModuleList):
            yield from _trunk(module, f"{prefix}{name}.")


def _in_proportion(found: Tensor, height: int, width: int) -> bool:
    """Whether a map has the image's proportions; each of its sides may be rounded by 1."""
    return bool(abs(found.shape[2] * width - found.shape[3] * height) <= max(height, width))
