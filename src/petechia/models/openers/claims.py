"""What the description of a stranger's network claims, found out before memory is taken: it is built and run without data."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from petechia.core.budget import limit
from petechia.core.errors import PetechiaError, first_line
from petechia.models.openers.folder import Weights

SPARE = 1_000  # parts that a network may have beyond those that its weights suggest
SLACK = 1_000_000  # weights
PARTS = 20  # modules and parameters for every tensor in the files; networks have at most five


def without_memory(build: Callable[[], nn.Module], weights: Weights, described: str) -> nn.Module:
    """Build a network on the meta device, and make sure that it is not much larger than its files.

    Args:
        build: builds the network.
        weights: of its files.
        described: path of the description, for messages.

    Returns:
        The network, in evaluation mode; its tensors have no data.

    Raises:
        PetechiaError: the description cannot be used, or is that of a larger network.
    """
    try:
        with torch.device("meta"), _no_more_parts_than(PARTS * len(weights.shapes) + SPARE):
            network = build().eval()
    except PetechiaError:
        raise
    except Exception as error:  # networks raise many types for unsuitable settings
        raise PetechiaError(f"{described} describes no network that can be built ({first_line(error)}); restore it.") from None
    claimed = sum(one.numel() for one in network.parameters())
    if claimed > 2 * weights.elements + SLACK:  # what is missing of fewer is named when they are loaded
        raise PetechiaError(
            f"{described} describes a network of {claimed:,} weights, but its files hold {weights.elements:,}; restore them."
        )
    _refuse_large([*network.buffers()], described)
    return network


def run_without_data(network: nn.Module, images: Tensor, described: str) -> Any:
    """Run a network on the meta device, and make sure that no value that it computes is larger than `model_value` an image.

    Args:
        network: on the meta device.
        images: float32 [B, C, H, W], on the meta device.
        described: path of the description, for messages.

    Returns:
        What the network returns, without data.

    Raises:
        PetechiaError: the network does not take such images, or one of its values is too large.
    """
    try:
        with torch.no_grad(), _Weighing(len(images), described):
            return network(images)
    except PetechiaError:
        raise
    except Exception as error:  # the network's own code, with settings of a stranger
        shape = list(images.shape[1:])
        raise PetechiaError(
            f"{described} describes a network that does not take images of {shape} ({first_line(error)})."
        ) from None


class _Weighing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations whose results are too large, and too many operations."""

    def __init__(self, images: int, described: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.images, self.described, self.steps = images, described, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.steps += 1
        if self.steps > limit("model_steps"):
            raise PetechiaError(f"{self.described} describes a network of more than {limit('model_steps'):,} operations.")
        found = function(*args, **(kwargs or {}))
        _refuse_large([one for one in tree_leaves(found) if isinstance(one, Tensor)], self.described, self.images)
        return found


def _refuse_large(tensors: list[Tensor], described: str, images: int = 1) -> None:
    most = limit("model_value")
    size = max((one.numel() * one.element_size() for one in tensors), default=0) // images
    if size > most:
        raise PetechiaError(
            f"{described} describes a network that makes a value of {size:,} bytes an image, and the maximum is {most:,}; take "
            f"smaller images, or set PETECHIA_LIMITS=model_value={size} if you trust it."
        )


@contextmanager
def _no_more_parts_than(most: int) -> Iterator[None]:
    """Stop the building of a network that has more parts, such as a million layers."""
    parts, thread = 0, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal parts
        parts += threading.get_ident() == thread
        if parts > most:
            raise ValueError(f"it has more than {most:,} parts, far more than its weights")

    handles = [register_module_module_registration_hook(count), register_module_parameter_registration_hook(count)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
