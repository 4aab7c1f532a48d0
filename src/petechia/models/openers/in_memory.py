"""Models in memory: a PyTorch module, or any function that returns scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.model import Model
from petechia.models.openers.adapter import InputSpec, classifier_of
from petechia.models.openers.card import Card
from petechia.models.openers.outputs import Graph, Output

Network = nn.Module | Callable[[Tensor], Tensor]


class Several(nn.Module):
    """A network that returns a tuple, a dict or an object of several tensors. Called, it returns the scores among them.

    Attributes:
        network: the network.
        names: names of its outputs: keys, fields and positions.
        chosen: position of the output that contains the scores.
        graph: empty, because a module does not say how its outputs are computed.
    """

    graph = Graph({})

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names, self.chosen = network, names, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores."""
        found = dict(_leaves(self.network(images)))[self.names[self.chosen]]
        return found.reshape(len(found), -1)

    def every(self, images: Tensor) -> list[Tensor | None]:
        """Return all outputs; None for what is not a tensor of floating-point numbers."""
        found = dict(_leaves(self.network(images)))
        return [found[name] if found[name].is_floating_point() else None for name in self.names]

    def outputs(self, values: Sequence[Tensor | None]) -> list[Output]:
        """Describe what `every` returned."""
        return [
            Output(name, None if one is None else one.float().numpy(), name)
            for name, one in zip(self.names, values, strict=True)
        ]


def _leaves(found: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in what a network returns, with the keys, fields and positions that lead to them."""
    if isinstance(found, Tensor):
        yield name or "0", found
        return
    parts: list[tuple[Any, Any]] = []
    if isinstance(found, Mapping):
        parts = list(found.items())
    elif is_dataclass(found):
        parts = [(one.name, getattr(found, one.name)) for one in fields(found)]
    elif isinstance(found, (list, tuple)):
        parts = list(zip(getattr(found, "_fields", range(len(found))), found, strict=True))
    for key, part in parts:
        yield from _leaves(part, f"{name}.{key}" if name else str(key))


def of_module(network: Network, card: Card, runtime: Runtime, name: str = "model") -> Classifier:
    """Make a classifier from a module, or from a function, which becomes a black box. A module is copied, not changed.

    Args:
        network: float32 [B, C, H, W] in 0…1, normalised as the card states → scores [B, K].
        card: classes, geometry, normalisation and meaning of the scores; preprocess.size is required.
        runtime: device and precision.
        name: display name.

    Raises:
        PetechiaError: the card lacks the size or the channels, or the network does not return scores of classes.
    """
    if isinstance(network, Model):
        return Classifier.of(copy.deepcopy(network), runtime, name)
    channels = card.channels or (_channels(network) if isinstance(network, nn.Module) else None)
    if channels is None:
        raise PetechiaError(f"{name} does not state the number of channels of its images; give channels=1 or channels=3.")
    own = _copied(network) if isinstance(network, nn.Module) else network
    size = card.preprocess.size if card.preprocess and "size" in card.preprocess.model_fields_set else None
    if size is None:
        raise PetechiaError(f"{name} does not state the size of its images; give size=, the side in pixels.")
    try:
        if isinstance(own, nn.Module):
            own = _with_scores(own, torch.zeros(1, channels, size, size))
        return classifier_of(Path(name), own, InputSpec(None, channels, size), card, runtime, "classes=")
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:  # raised by the network's own code
        raise PetechiaError(
            f"{name} cannot be called with float32 [8, {channels}, {size}, {size}] ({str(error).splitlines()[0][:200]}); "
            f"check size and channels."
        ) from None


def _with_scores(network: nn.Module, image: Tensor) -> nn.Module:
    """Return the network, or, if it returns more than a tensor, one that returns the scores among its outputs."""
    one = next(network.parameters(), image)
    network.eval()
    with torch.no_grad():
        found = network(image.to(one.device))
    names = [name for name, _ in _leaves(found)]
    flat = isinstance(found, Tensor) and found.ndim <= 2  # not [B, K, 1, 1]
    return network if flat or not names else Several(network, names)


def _copied(network: nn.Module) -> nn.Module:
    """Return a copy, because an audit changes modes and gradients; the network itself if it cannot be copied."""
    try:
        with torch.no_grad():  # the parameters of a copied ScriptModule would hang on those of the original
            return copy.deepcopy(network)
    except RuntimeError:  # it contains tensors that are not leaves of the autograd graph
        return network


def _channels(network: nn.Module) -> int | None:
    """Return the number of input channels of the first convolution if it is 1 or 3, else None."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels if module.in_channels in (1, 3) else None
    return None
