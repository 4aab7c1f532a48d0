"""Networks of timm and torchxrayvision as classifiers."""

from __future__ import annotations

import io
import zipfile
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from petechia.core.errors import PetechiaError, first_line
from petechia.core.runtime import Runtime
from petechia.data.preprocess import Preprocess
from petechia.models.classifier import Classifier
from petechia.models.model import Architecture, Description, Model, build_network, state_dict_mismatch
from petechia.models.openers.card import STATES, Card, numbered, per_channel, refuse_pickle

IMAGENET = 1000  # classes


def open_timm(text: str, runtime: Runtime) -> Classifier:
    """A timm network by NAME, with its ImageNet weights, or by NAME:FILE.

    Raises:
        PetechiaError: as `of_imagenet` and `of_timm`.
    """
    arch, _, file = text.partition(":")
    return of_timm(arch, Path(file), runtime) if file else of_imagenet(arch, runtime)


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
        known = ImageNetInfo()
        classes = tuple(known.index_to_description(k) for k in range(IMAGENET))
    return _around(network, Architecture(arch=arch, channels=3), classes, of_softmax, runtime, f"timm:{arch}")


def of_timm(arch: str, path: Path, runtime: Runtime) -> Classifier:
    """Open a timm network with weights from a file, which also determine the numbers of channels and classes.

    Raises:
        PetechiaError: timm does not know the network, or the file does not contain its weights.
    """
    defaults = _defaults(arch)
    tensors = _state_dict(path)
    first, last = (tensors.get(f"{_one(layer)}.weight") for layer in (defaults.first_conv, defaults.classifier))
    if first is None or last is None or first.ndim < 2 or not last.ndim or first.shape[1] not in (1, 3):
        raise PetechiaError(f"{path} does not contain the weights of timm's {arch}; check the name of the network.")
    card = Card.beside(path)
    architecture = Architecture(arch=arch, channels=1 if first.shape[1] == 1 else 3)
    geometry = card.geometry(_usual_geometry(defaults))
    build = partial(build_network, architecture, len(last), geometry.size)
    if problem := state_dict_mismatch(build, tensors):
        raise PetechiaError(f"{path} does not contain the weights of timm's {arch} ({problem}); check the name of the network.")
    network = build()
    network.load_state_dict(tensors)
    return _around(network, architecture, card.names(len(last), path), card, runtime, f"timm:{arch}:{path}")


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Read names and tensors from a file. PyTorch's weights-only unpickler reads a pickle; it runs no code.

    Raises:
        PetechiaError: the file contains anything else.
    """
    if path.suffix.lower() not in STATES:
        refuse_pickle(path)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise PetechiaError(f"{path} is not a valid safetensors file ({first_line(error)}); save it again.") from None
    refuse_compressed(path)
    try:
        found = torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise PetechiaError(f"{path} cannot be read ({error.strerror}); check the path of the weights.") from None
    except Exception:  # untrusted bytes can raise anything
        raise PetechiaError(
            f"{path} is not a bare state dict, and any other pickle can run arbitrary code when loaded; if you trust it, "
            f"write its state_dict with safetensors.torch.save_file."
        ) from None
    for part in ("state_dict", "model"):  # keys under which training scripts store the weights
        found = found[part] if isinstance(found, dict) and isinstance(found.get(part), dict) else found
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        raise PetechiaError(f"{path} contains more than weights; save only the state_dict of the network.")
    if any(one.is_complex() for one in found.values()):
        raise PetechiaError(f"{path} contains complex numbers, which would lose their imaginary part; save real weights.")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def refuse_compressed(path: Path) -> None:
    """Refuse compressed weights, which can expand to many times their file size; torch.save does not compress.

    Raises:
        PetechiaError: the file is compressed, or is not a file.
    """
    if not path.is_file():
        raise PetechiaError(f"{path} is not a file; check the path of the weights.")
    try:
        with zipfile.ZipFile(path) as file:
            compressed = any(one.compress_type != zipfile.ZIP_STORED for one in file.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):  # PyTorch reports it
        return
    if compressed:
        raise PetechiaError(f"{path} is compressed, but torch.save does not compress; save the weights again.")


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


class OperatingPoints(nn.Module):
    """A torchxrayvision network with the interface of Petechia's classifiers: images in 0…1 in, logits out.

    The network's own outputs are probabilities, scaled piecewise so that the operating point t of each class becomes 0.5.
    Subtracting logit(t) from the logit puts the same point at 0 without that scaling, and never saturates. Outputs that
    the weights do not name are left out.
    """

    places: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        targets: list[str] = list(network.targets)  # type: ignore[arg-type]
        named = [k for k, target in enumerate(targets) if target]
        points = getattr(network, "op_threshs", None)
        shift = torch.zeros(len(targets)) if points is None else torch.logit(points.float()).nan_to_num()
        network.op_threshs, network.apply_sigmoid = None, False  # type: ignore[assignment]
        self.network = network
        self.classes = tuple(targets[k] for k in named)
        self.register_buffer("places", torch.tensor(named), persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 [B, K], of images, float32 [B, 1, H, W] in 0…1. The network itself takes −1024…1024."""
        logits: Tensor = self.network((images * 2 - 1) * 1024).float() - self.shift
        return logits[:, self.places]


def of_torchxrayvision(weights: str, runtime: Runtime) -> Classifier:
    """Open a torchxrayvision model, with weights that torchxrayvision downloads from its releases or has cached.

    Raises:
        PetechiaError: torchxrayvision is not installed or does not know the model, or the weights are not available.
    """
    try:
        import torchxrayvision as xrv
    except ImportError as error:
        raise PetechiaError(f"xrv:{weights} needs {error.name}; install it with pip install 'petechia[xrv]'.") from None
    known = [name for name in xrv.models.model_urls if name.startswith(("densenet", "resnet"))]
    if weights not in known:
        raise PetechiaError(f"torchxrayvision has no model {weights!r}; its models are {', '.join(known)}.")
    try:
        with redirect_stdout(io.StringIO()):  # it prints as it downloads
            network = xrv.models.get_model(weights)
    except Exception as error:
        raise PetechiaError(
            f"The weights of xrv:{weights} are not available ({first_line(error)}); without a network connection, put the file "
            f"{xrv.models.model_urls[weights]['weights_url']} into {xrv.utils.get_cache_dir()}."
        ) from None
    xrv.utils.warning_log["norm_check"] = True  # otherwise it prints a scaling warning for uniform images
    geometry = Preprocess(size=getattr(network, "input_resolution", 224), resample="area")
    placed = runtime.to_device(OperatingPoints(network)).eval()
    return Classifier(f"xrv:{weights}", placed.classes, geometry, placed, runtime, placed)
