"""Which layers of a network can be explained, and what they are called."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.models.model import Model
from petechia.models.openers.adapter import LogitAdapter
from petechia.models.openers.huggingface import Scores
from petechia.models.openers.xrv import OperatingPoints
from petechia.saliency.finding import Found, find
from petechia.saliency.readings import Reading
from petechia.saliency.recording import Layer, undisturbed

NAMED = ("last", "middle")
WRAPPERS = (Model, LogitAdapter, OperatingPoints, Scores)
BLACK_BOX = "take a method for models without layers: occlusion or rise"


def network_of(model: nn.Module) -> nn.Module:
    """The network whose modules are the layers: of Petechia's own wrappers the one inside, of any other module itself."""
    while isinstance(model, WRAPPERS) and isinstance(model.network, nn.Module):
        model = model.network
    return model


def name_of(model: nn.Module) -> str:
    """What to call a model in a message."""
    description, path = getattr(model, "description", None), getattr(network_of(model), "path", None)
    if description is not None:
        return str(description.architecture.arch)
    return type(network_of(model)).__name__ if path is None else str(path)


_known: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Found]] = WeakKeyDictionary()


def find_layers(model: nn.Module, layers: Sequence[str] | None, images: Tensor) -> dict[str, Layer]:
    """Layer → where it is, and how it is a map of the image.

    Args:
        model: gives scores.
        layers: "last", "middle", or names of modules; None is "middle", if there is one, and "last".
        images: float32 [B, C, H, W]; only their size counts.

    Raises:
        PetechiaError: there is no such layer.
    """
    found = _found(model, images)
    if layers is None:
        layers = ("middle", "last") if "middle" in found.named else ("last",)
    return {layer: _layer(model, layer, found, images) for layer in layers}


def names_of(model: nn.Module, images: Tensor) -> dict[str, str]:
    """Name the modules that "last" and, where there is one, "middle" stand for; of a program as they were before the export.

    Args:
        model: gives scores.
        images: float32 [B, C, H, W]; only their size counts.
    """
    found = _found(model, images)
    parts = {module: part for part, module in found.parts.items()}
    return {layer: module if module in found.parts else parts.get(module, module) for layer, module in found.named.items()}


def _found(model: nn.Module, images: Tensor) -> Found:
    network = network_of(model)
    known, size = _known.setdefault(network, {}), tuple(images.shape[1:])
    if size not in known:  # finding them takes a few passes
        with undisturbed(model), torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            known[size] = find(model, network, images)
    return known[size]


def _layer(model: nn.Module, layer: str, found: Found, images: Tensor) -> Layer:
    if layer in NAMED and layer not in found.named:
        raise PetechiaError(_why_not(model, layer, found, images))
    name = found.named.get(layer) or found.parts.get(layer, layer)
    try:
        module = network_of(model).get_submodule(name) if name else None
    except AttributeError:
        module = None
    if module is None:
        near = difflib.get_close_matches(layer, [*NAMED, *found.parts], 5)
        raise PetechiaError(f"{name_of(model)} has no layer {layer!r}; near names: {', '.join(near or NAMED)}.")
    if isinstance(module, torch.jit.ScriptModule):
        raise PetechiaError(_scripted(model))
    # A module that hands the images on gives no tensor of its own.
    as_image = Reading("BCHW", (images.shape[2], images.shape[3]), channels=images.shape[1])
    place, reading = found.maps.get(name, ((), as_image))
    return Layer(module, place, reading)


def _why_not(model: nn.Module, layer: str, found: Found, images: Tensor) -> str:
    if any(isinstance(module, torch.jit.ScriptModule) for module in network_of(model).modules()):
        return _scripted(model)
    name, pixels = name_of(model), f"{images.shape[2]} x {images.shape[3]} pixels"
    if not found.slopes:
        return f"The scores of {name} have no gradient at the image, so no layer can be explained; {BLACK_BOX}."
    if "last" in found.named:
        return f"No map of {name} is twice as high as its last one, so there is no 'middle'; name a module."
    if not found.placed:
        return (
            f"The maps of {name} do not lie on the image: it crops, turns or mirrors the image first, or its tokens have "
            f"another order. So no layer can be explained; {BLACK_BOX}."
        )
    return (
        f"{name} has no map larger than 1x1 to explain images of {pixels} with; take larger images, or a method for models "
        f"without layers."
    )


def _scripted(model: nn.Module) -> str:
    return (
        f"{name_of(model)} is or contains a ScriptModule, whose layers cannot be read; give the module that it was made of, "
        f"export that with torch.export, or {BLACK_BOX}."
    )
