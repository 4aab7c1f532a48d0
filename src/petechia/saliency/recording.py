"""Keeps what layers give while a model runs, and lets the graph of gradients begin there."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.saliency.readings import Reading
from petechia.saliency.tracing import Place, tensors


@dataclass(frozen=True)
class Layer:
    """A tensor in a network that is a map of the image.

    Attributes:
        module: gives it.
        place: where it is in what the module gives.
        reading: how it is a map; None: the module gives none.
    """

    module: nn.Module
    place: Place = ()
    reading: Reading | None = None

    def of(self, output: object) -> Tensor | None:
        """Return the tensor in what the module gave; None if that is no map of several cells."""
        found = self.tensor(output)
        fits = found is not None and self.reading is not None and self.reading.as_map(found) is not None
        return found if fits else None

    def tensor(self, output: object) -> Tensor | None:
        """Return the tensor in what the module gave, whatever it is."""
        return dict(tensors(output)).get(self.place)


@contextmanager
def recording(layers: Mapping[str, Layer]) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of layers. Entered without gradients, it lets the graph begin at the first of these outputs.

    Raises:
        PetechiaError: what a layer gives is no map.
    """
    outputs: dict[str, Tensor] = {}
    others: dict[str, object] = {}  # what else a layer gives, in runs whose output is no such map

    def keep(name: str, layer: Layer, _module: nn.Module, _inputs: object, output: object) -> object:
        found = layer.of(output)
        if found is None:
            others[name] = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            return output
        torch.set_grad_enabled(True)  # until the caller's no_grad ends
        outputs[name] = found.clone().requires_grad_()  # not itself: a shortcut may use it, past this layer
        return _replaced(
            output, layer.place, outputs[name].clone()
        )  # an in-place ReLU that follows must not change what is kept

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.module.register_forward_hook(partial(keep, name, layer)))
        yield outputs
    for name, given in others.items():
        if name not in outputs:
            raise PetechiaError(f"Layer {name!r} gives {given}, not a map [B, C, h, w] of several cells; name another module.")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients of parameters; both are as they were afterwards.

    Some networks keep what they have computed of their parameters, and with it the graph of whoever came first.
    """
    # Each in one pass: for a small batch on a GPU, going through the modules takes as long as the network does.
    training = [module for module in model.modules() if module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if training:
        model.eval()
    try:
        for parameter in trained:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True
        for module in training:
            module.training = True


def _replaced(given: Any, place: Place, new: Tensor) -> Any:
    """What a module gave, with another tensor at a place."""
    if not place:
        return new
    first, *rest = place
    if isinstance(given, dict):
        changed = copy.copy(given)
        changed[first] = _replaced(given[first], tuple(rest), new)
        return changed
    parts = [_replaced(one, tuple(rest), new) if index == first else one for index, one in enumerate(given)]
    if hasattr(given, "_make"):  # a named tuple
        return given._make(parts)
    return type(given)(parts)
