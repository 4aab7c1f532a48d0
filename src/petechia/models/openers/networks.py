"""Networks of timm as classifiers."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.imagenet_info import ImageNetInfo

from petechia.core.errors import PetechiaError, first_line, listing
from petechia.core.runtime import Runtime
from petechia.data.preprocess import Preprocess
from petechia.models.classifier import Classifier
from petechia.models.model import Architecture, Description, Model, build_network, state_dict_mismatch
from petechia.models.openers.card import Card, numbered, per_channel
from petechia.models.openers.weights import match_names, read_weights, unmatched

LOGGER = logging.getLogger(__name__)
IMAGENET = 1000  # classes


def imagenet_classes() -> tuple[str, ...]:
    """Return ImageNet's classes in words; of the few that share a name, as the two cranes do, with what they are."""
    known = ImageNetInfo()
    names = [known.index_to_description(k) for k in range(IMAGENET)]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return tuple(known.index_to_description(k, detailed=name in shared) for k, name in enumerate(names))


def open_timm(text: str, runtime: Runtime) -> Classifier:
    """A timm network by NAME, with its ImageNet weights, or by NAME:FILE.

    Raises:
        PetechiaError: as `of_imagenet` and `of_timm`.
    """
    arch, _, file = text.partition(":")
    return of_timm(arch, Path(file).expanduser(), runtime) if file else of_imagenet(arch, runtime)


def of_imagenet(arch: str, runtime: Runtime) -> Classifier:
    """Open a timm network with its ImageNet weights, which timm downloads or has cached. Its classes exclude each other.

    Raises:
        PetechiaError: timm does not know the network, or the weights are not available.
    """
    _defaults(arch)
    try:
        network: Any = timm.create_model(arch, pretrained=True)
    except Exception as error:
        raise PetechiaError(
            f"The ImageNet weights of {arch} are not available ({first_line(error)}); without a network connection, "
            f"give timm:{arch}:FILE.safetensors."
        ) from None
    classes, of_softmax = numbered(network.num_classes), Card(task="multi-class")
    if network.num_classes == IMAGENET:
        classes = imagenet_classes()
    return _around(network, Architecture(arch=arch, channels=3), classes, of_softmax, runtime, f"timm:{arch}")


def of_timm(arch: str, path: Path, runtime: Runtime) -> Classifier:
    """Open a timm network with weights from a file, which also determine the numbers of channels and classes.

    Raises:
        PetechiaError: timm does not know the network, or the file does not contain its weights.
    """
    defaults = _defaults(arch)
    stored = read_weights(path)
    wanted = _weight_names(arch)
    tensors, left = match_names(stored, wanted, path)
    first, last = (tensors.get(f"{_one(layer)}.weight") for layer in (defaults.first_conv, defaults.classifier))
    if first is None or last is None or first.ndim < 2 or not last.ndim or first.shape[1] not in (1, 3):
        raise _other_weights(path, arch, unmatched(tensors, wanted))
    card = Card.beside(path)
    architecture = Architecture(arch=arch, channels=1 if first.shape[1] == 1 else 3)
    geometry = card.geometry(_usual_geometry(defaults))
    build = partial(build_network, architecture, len(last), geometry.size)
    if problem := state_dict_mismatch(build, tensors):
        raise _other_weights(path, arch, unmatched(tensors, wanted) or problem)
    network = build()
    network.load_state_dict(tensors)
    if left:
        LOGGER.warning("%s: %s is not part of timm's %s and was left out.", path, listing(left, 4), arch)
    return _around(network, architecture, card.names(len(last), path), card, runtime, f"timm:{arch}:{path}")


def _weight_names(arch: str) -> list[str]:
    """Return the names of the weights of a timm network, which is built without memory.

    Raises:
        PetechiaError: it cannot be built.
    """
    try:
        with torch.device("meta"):
            return list(timm.create_model(arch).state_dict())
    except Exception as error:  # timm raises many types
        raise PetechiaError(f"timm's {arch} cannot be built without its weights ({first_line(error)}); use ONNX.") from None


def _other_weights(path: Path, arch: str, problem: str) -> PetechiaError:
    told = f" ({problem})" if problem else ""
    return PetechiaError(f"{path} does not contain the weights of timm's {arch}{told}; check the name of the network.")


def _around(
    network: Any, architecture: Architecture, classes: tuple[str, ...], card: Card, runtime: Runtime, name: str
) -> Classifier:
    """Wrap a timm network, with timm's own input settings for whatever the card leaves out."""
    defaults, channels = network.pretrained_cfg, architecture.channels
    usual = _usual_geometry(_defaults(architecture.arch))
    mean, std = (per_channel(given, channels, name) for given in (card.mean or defaults["mean"], card.std or defaults["std"]))
    description = Description(
        architecture=architecture, classes=classes, preprocess=card.geometry(usual), mean=mean, std=std, task=card.task
    )
    placed = runtime.to_device(Model(network, description)).eval()
    return Classifier(name, classes, description.preprocess, placed, runtime, placed, colour=channels == 3)


def _usual_geometry(defaults: Any) -> Preprocess:
    """Return the geometry of a timm network: images are made square; the crop comes before the resize, not after."""
    return Preprocess(crop=min(1, defaults.crop_pct or 1), size=defaults.input_size[-1], resample="bilinear")


def _defaults(arch: str) -> Any:
    """Return timm's description of a network: geometry, normalisation, names of the first and the last layer.

    Raises:
        PetechiaError: timm does not know the network.
    """
    name, _, _ = arch.partition(".")
    defaults = timm.models.get_pretrained_cfg(arch) if timm.is_model(name) else None
    if defaults is None:
        near = ", ".join(timm.list_models(f"*{arch[:6]}*")[:5])
        raise PetechiaError(f"timm does not know a network {arch!r}; similar names: {near or 'none'}.")
    return defaults


def _one(layer: str | tuple[str, ...]) -> str:
    return layer if isinstance(layer, str) else layer[0]
