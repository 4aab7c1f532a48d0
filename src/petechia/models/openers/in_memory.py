"""Models that a caller has in memory: a PyTorch module, or any function that gives scores."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.model import Model
from petechia.models.openers.adapter import InputSpec, classifier_of
from petechia.models.openers.card import Card

Network = nn.Module | Callable[[Tensor], Tensor]


def of_module(network: Network, card: Card, runtime: Runtime, name: str = "model") -> Classifier:
    """A classifier of a module, or of a function, which is a black box. A module is copied and left as it is.

    Args:
        network: float32 [B, C, H, W] in 0…1, normalised as the card says → scores [B, K].
        card: classes, geometry, normalisation, meaning of the scores; preprocess.size is needed.
        runtime: where it computes.
        name: to call it by.

    Raises:
        PetechiaError: the card lacks the size or the channels, or the network gives no scores of classes.
    """
    if isinstance(network, Model):
        return Classifier.of(copy.deepcopy(network), runtime, name)
    channels = card.channels or (_channels(network) if isinstance(network, nn.Module) else None)
    if channels is None:
        raise PetechiaError(f"{name} does not say how many channels its images have; give channels=1 or channels=3.")
    own = _copied(network) if isinstance(network, nn.Module) else network
    size = card.preprocess.size if card.preprocess and "size" in card.preprocess.model_fields_set else None
    if size is None:
        raise PetechiaError(f"{name} does not say how large its images are; give size=, in pixels a side.")
    try:
        return classifier_of(Path(name), own, InputSpec(None, channels, size), card, runtime, "classes=")
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # whatever the code of the network says of its input
        raise PetechiaError(
            f"{name} cannot be called with float32 [8, {channels}, {size}, {size}] ({str(error).splitlines()[0][:200]}); "
            f"check size and channels."
        ) from None


def _copied(network: nn.Module) -> nn.Module:
    """A copy, for an audit switches modes and gradients off; itself where it cannot be copied."""
    try:
        return copy.deepcopy(network)
    except RuntimeError:  # it holds tensors of a graph
        return network


def _channels(network: nn.Module) -> int | None:
    """Of the first convolution, if they are 1 or 3."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels if module.in_channels in (1, 3) else None
    return None
