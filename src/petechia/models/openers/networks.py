"""Networks of timm as classifiers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from petechia.core.errors import PetechiaError, first_line, listing, shown
from petechia.core.files import expand_home, sha256
from petechia.core.runtime import Runtime
from petechia.data.preprocess import Preprocess
from petechia.models.classifier import Classifier
from petechia.models.model import Architecture, Description, Model, build_network, state_dict_mismatch
from petechia.models.openers.card import CARD, Card, distinguished, numbered, per_channel
from petechia.models.openers.folder import ModelFolder, Weights
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
    return of_timm(arch, expand_home(file), runtime) if file else of_imagenet(arch, runtime)


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
    _defaults(arch)
    tensors, left = match_names(read_weights(path), _weight_names(arch), path)
    if left:
        LOGGER.warning("%s: %s is not part of timm's %s and was left out.", path, listing(left, 4), arch)
    classifier = _with_weights(arch, tensors, path, Card.beside(path), runtime, f"timm:{arch}:{path}")
    return replace(classifier, digest=sha256(path), title=f"timm:{arch}:{path.name}")


def of_timm_folder(folder: ModelFolder, config: Mapping[str, Any], weights: Weights, runtime: Runtime, name: str) -> Classifier:
    """Open a folder of the Hugging Face hub with a network of timm.

    Args:
        folder: the folder.
        config: content of its config.json, with the name of the network as "architecture", and timm's "pretrained_cfg".
        weights: its weights.
        runtime: device and precision.
        name: display name.

    Raises:
        PetechiaError: timm does not know the network, or the weights or the settings are not those of it.
    """
    arch = str(config["architecture"])
    _defaults(arch)
    tensors, _ = match_names(weights.read(), _weight_names(arch), folder.path)
    card = Card.beside(folder.path).over(_stated(config, folder.file("config.json")), folder.path)
    files = [folder.file(one) for one in ("config.json", CARD) if folder.has(one)]
    classifier = _with_weights(arch, tensors, folder.path, card, runtime, name)
    return replace(classifier, digest=weights.digest(*files))


def _stated(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what timm's config.json says, as keys of a card."""
    found = config.get("pretrained_cfg")
    found = found if isinstance(found, dict) else {}
    names = config.get("label_names") or found.get("label_names") or ()
    sizes: Any = found.get("input_size") or ()
    for key, given in (("label_names", names), ("input_size", sizes)):
        if not isinstance(given, (list, tuple)):
            raise PetechiaError(f"{path} has the {key} {shown(given)}, which is no list; restore it.")
    usual: dict[str, Any] = {key: found[key] for key in ("mean", "std") if found.get(key)}
    usual["task"] = "multi-label" if config.get("problem_type") == "multi_label_classification" else "multi-class"
    if len(sizes) == 3:
        crop = found.get("crop_pct") or 1
        usual["preprocess"] = {"size": sizes[-1], "crop": crop, "resample": found.get("interpolation") or "bilinear"}
    return usual | ({"classes": distinguished([str(one) for one in names])} if names else {})


def open_encoder(text: str, runtime: Runtime) -> Classifier:
    """A FOLDER with encoder.safetensors, of a timm network without its head, and head.safetensors, a linear layer on it.

    petechia.json in the folder names the network as "arch", and whatever else a `Card` says.

    Raises:
        PetechiaError: a file is missing, timm does not know the network, or the weights do not fit it or each other.
    """
    folder = ModelFolder(expand_home(text), "an encoder with a head")
    described = folder.file(CARD)
    card = Card.beside(folder.path)
    if card.arch is None:
        raise PetechiaError(
            f'{described} does not name the network of the encoder; add its name in timm, as in "arch": "resnet50".'
        )
    defaults = _defaults(card.arch)
    encoder, head = folder.weights("encoder.safetensors"), folder.weights("head.safetensors")
    tensors = _without_head(encoder, card.arch, defaults) | _as_head(head.read(), defaults, head.files[0])
    classifier = _with_weights(card.arch, tensors, folder.path, card, runtime, f"encoder:{text}")
    digest = encoder.digest(*head.files, described)
    return replace(classifier, digest=digest, title=f"encoder:{folder.path.resolve().name}")


def _without_head(encoder: Weights, arch: str, defaults: Any) -> dict[str, Tensor]:
    """Return the weights of an encoder under the network's own names; a head that it was trained with is left out."""
    path, last = encoder.files[0], f"{_one(defaults.classifier)}."
    stored = encoder.read()
    wanted = [name for name in _weight_names(arch) if not name.startswith(last)]
    heads = [name for name in stored if f".{name}".endswith((f".{last}weight", f".{last}bias"))]
    tensors, left = match_names({name: one for name, one in stored.items() if name not in heads}, wanted, path)
    if more := [*heads, *left]:
        LOGGER.warning("%s: %s is not part of the encoder and was left out.", path, listing(more, 4))
    if problem := unmatched(tensors, wanted):
        raise PetechiaError(f"{path} does not contain the weights of timm's {arch} without its head ({problem}).")
    return tensors


def _as_head(stored: Mapping[str, Tensor], defaults: Any, path: Path) -> dict[str, Tensor]:
    """Return the weights of a linear layer, whatever it is called, under the names of the network's last layer."""
    matrices = {name: one for name, one in stored.items() if one.ndim == 2}
    others = {name: one for name, one in stored.items() if name not in matrices}
    if len(matrices) != 1 or len(others) > 1 or any(one.ndim != 1 for one in others.values()):
        told = listing([f"{name} {list(one.shape)}" for name, one in stored.items()], 6)
        raise PetechiaError(
            f"{path} has {told or 'nothing'}, but a head is one linear layer, of a weight [classes, features] and a bias."
        )
    (weight,) = matrices.values()
    bias = next(iter(others.values()), torch.zeros(len(weight)))
    last = _one(defaults.classifier)
    return {f"{last}.weight": weight, f"{last}.bias": bias}


def _with_weights(arch: str, tensors: Mapping[str, Tensor], path: Path, card: Card, runtime: Runtime, name: str) -> Classifier:
    """Build a timm network for the tensors of a file, under its own names, and wrap it."""
    defaults = _defaults(arch)
    first, last = (tensors.get(f"{_one(layer)}.weight") for layer in (defaults.first_conv, defaults.classifier))
    if first is None or last is None or first.ndim < 2 or not last.ndim or first.shape[1] not in (1, 3):
        raise _other_weights(path, arch, unmatched(tensors, _weight_names(arch)))
    architecture = Architecture(arch=arch, channels=1 if first.shape[1] == 1 else 3)
    geometry = card.geometry(_usual_geometry(defaults))
    build = partial(build_network, architecture, len(last), geometry.size)
    if problem := state_dict_mismatch(build, tensors):
        raise _other_weights(path, arch, unmatched(tensors, _weight_names(arch)) or problem)
    network = build()
    network.load_state_dict(tensors)
    return _around(network, architecture, card.names(len(last), path), card, runtime, name)


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
    try:
        defaults = timm.models.get_pretrained_cfg(arch) if timm.is_model(name) else None
    except RuntimeError:  # it knows the network, but no such weights of it
        defaults = None
    if defaults is None:
        near = ", ".join(timm.list_models(f"*{arch[:6]}*")[:5])
        raise PetechiaError(f"timm does not know a network {arch!r}; similar names: {near or 'none'}.")
    return defaults


def _one(layer: str | tuple[str, ...]) -> str:
    return layer if isinstance(layer, str) else layer[0]
