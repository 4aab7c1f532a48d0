"""A classifier with everything needed to use it: classes, geometry, normalisation, provenance. Stored as safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import timm
import torch
from pydantic import Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from petechia.core.budget import check_file
from petechia.core.errors import PetechiaError, first_line, printable, shown
from petechia.core.files import write_bytes
from petechia.core.settings import Settings, distinct, first_problem
from petechia.core.task import Task
from petechia.data.preprocess import Preprocess

AT_ONCE = {"cpu": (2**21, 256), "cuda": (2**24, 4096)}  # pixels, and images, that are scored at a time; at least:
FEWEST = 16


def images_at_once(device: torch.device, pixels: int) -> int:
    """How many images to score at a time.

    Args:
        device: of the network.
        pixels: of an image.
    """
    most, images = AT_ONCE.get(device.type, AT_ONCE["cuda"])
    return min(max(FEWEST, most // pixels), images)


class Architecture(Settings):
    """The network and its pretrained weights.

    Attributes:
        arch: a timm model name.
        pretrained: true downloads timm's ImageNet weights; a path names a safetensors file that contains them.
        channels: 1 or 3; grey images are repeated to fill 3 channels.
    """

    arch: str = "densenet121"
    pretrained: bool | Path = False
    channels: Literal[1, 3] = 1


class Description(Settings):
    """The description of a model that its file contains, in the safetensors header.

    Attributes:
        task: "multi-class" if the classes exclude each other, that is, if the outputs are meant for a softmax. A file
            without this key is multi-label.
    """

    format: Literal["petechia-model-1"] = "petechia-model-1"
    architecture: Architecture
    classes: tuple[str, ...] = Field(min_length=1)
    preprocess: Preprocess
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    task: Task = "multi-label"
    provenance: dict[str, Any] = Field(default_factory=dict)

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(value)

    @model_validator(mode="after")
    def _several_classes(self) -> Description:
        if self.task == "multi-class" and len(self.classes) < 2:
            raise ValueError("a multi-class model has two classes or more")
        return self

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> Description:
        if not len(self.mean) == len(self.std) == self.architecture.channels:
            raise ValueError(f"mean and std need {self.architecture.channels} numbers each")
        return self


def log_odds(outputs: Tensor) -> Tensor:
    """Convert outputs meant for a softmax to the log-odds of each class against all others, z_c - log Σ_{j≠c} exp(z_j).

    The sigmoid of the result is exactly the softmax, so code that applies a sigmoid to logits also works for multi-class
    models.

    Args:
        outputs: float [..., K] with K ≥ 2.

    Returns:
        float, the same shape as `outputs`.
    """
    every = outputs.logsumexp(dim=-1, keepdim=True)
    top = torch.zeros_like(outputs, dtype=torch.bool).scatter(-1, outputs.argmax(dim=-1, keepdim=True), True)
    # For the top class, sum the other terms directly: subtracting the top term from the total would lose all digits. Every
    # other class has a share of at most 1/2, so the subtraction is safe. Neither branch is infinite where the other one is
    # used, because the gradient would then be NaN.
    beside_top = outputs.masked_fill(top, -torch.inf).logsumexp(dim=-1, keepdim=True)
    beside_rest = every + torch.log1p(-(outputs - every).masked_fill(top, -torch.inf).exp())
    return outputs - torch.where(top, beside_top, beside_rest)


def _in_float32(features: Any) -> Any:
    """What a network's `forward_features` gives: a tensor or, of several branches, a list, tuple or dict of them."""
    if isinstance(features, dict):
        return {name: _in_float32(one) for name, one in features.items()}
    if isinstance(features, list | tuple):
        return type(features)(_in_float32(one) for one in features)
    return features.float() if isinstance(features, Tensor) and features.is_floating_point() else features


class Model(nn.Module):
    """A classifier. Takes float images [B, C, H, W] in 0…1, grey or RGB; returns logits, float32 [B, K].

    The sigmoid of a logit is the probability of the class. In a multi-class model, each logit is the log-odds of the class
    against all others (see `log_odds`), so the probabilities of an image sum to 1.

    Attributes:
        network: a timm network.
        description: classes, geometry, normalisation and provenance.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        self.network = network
        self.description = description
        self.register_buffer("mean", torch.tensor(description.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(description.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise and classify. The last layer runs in float32 even under autocast: bf16 has too few digits for scores."""
        features = self.network.forward_features((images - self.mean) / self.std)  # type: ignore[operator]
        with torch.autocast(images.device.type, enabled=False):
            outputs: Tensor = self.network.forward_head(_in_float32(features))  # type: ignore[operator]
            return self.logits_of(outputs)

    def logits_of(self, outputs: Tensor) -> Tensor:
        """Convert the network's raw outputs, float [B, K], to logits."""
        return log_odds(outputs) if self.description.task == "multi-class" else outputs

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file with the weights, and the description in its header."""
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        content: bytes = save(tensors, {"petechia": self.description.model_dump_json()})
        return content

    def save(self, path: Path) -> None:
        """Write the model to a file, atomically."""
        write_bytes(path, self.to_bytes())

    @staticmethod
    def load(path: Path) -> Model:
        """Load a model written by `save`. Nothing is unpickled.

        Raises:
            PetechiaError: the file is not a model file, or its weights do not match its description.
        """
        if path.is_file():
            check_file(path, "model_bytes", "check the path of the model")
        try:
            with safe_open(path, "pt") as file:
                header = (file.metadata() or {}).get("petechia")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        except (OSError, SafetensorError) as error:
            raise PetechiaError(f"{path} is not a safetensors file that can be read ({printable(str(error), 200)}).") from None
        if header is None:
            raise PetechiaError(
                f"{path} holds tensors but no description of a Petechia model; if they are the weights of a timm network, give "
                f"timm:NAME:{path} with its name."
            )
        try:
            description = Description.model_validate_json(header)
        except ValidationError as error:
            raise PetechiaError(f"{path} does not fit its own description ({first_problem(error)}).") from None
        build = partial(build_network, description.architecture, len(description.classes), description.preprocess.size)
        if problem := state_dict_mismatch(build, tensors):
            raise PetechiaError(f"{path} does not fit its own description ({problem}).")
        network = build()
        network.load_state_dict(tensors)
        return Model(network, description)


def state_dict_mismatch(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> str:
    """Return why the tensors of a file do not match a network, or an empty string if they match.

    The network is first built on the meta device: a small file can describe a network larger than the memory.

    Args:
        build: function that builds the network.
        tensors: name → tensor.
    """
    try:
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    except PetechiaError:
        raise
    except Exception as error:  # timm raises many types for unsuitable options
        return f"the network cannot be built: {printable(str(error), 200)}"
    for name in sorted({*wanted, *tensors}):
        if name not in wanted or name not in tensors:
            return f"{printable(name)} is {'unexpected' if name in tensors else 'missing'}"
        if tuple(tensors[name].shape) != wanted[name]:
            return f"{printable(name)} is {list(tensors[name].shape)} instead of {list(wanted[name])}"
    return ""


def create(
    architecture: Architecture, classes: tuple[str, ...], preprocess: Preprocess, seed: int, task: Task = "multi-label"
) -> Model:
    """Create a new model. Its initial weights depend only on the seed.

    Raises:
        PetechiaError: timm does not know the architecture, or the pretrained weights are not available.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(architecture, len(classes), preprocess.size, architecture.pretrained)
    config: Any = network.pretrained_cfg
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if architecture.channels == 1:
        mean, std = (float(np.mean(mean)),), (float(np.mean(std)),)
    description = Description(architecture=architecture, classes=classes, preprocess=preprocess, mean=mean, std=std, task=task)
    return Model(network, description)


def build_network(architecture: Architecture, classes: int, size: int, pretrained: bool | Path = False) -> nn.Module:
    """Build a timm network for images of the given size.

    Raises:
        PetechiaError: timm does not know the architecture, or the pretrained weights are not available.
    """
    if not timm.is_model(architecture.arch.split(".")[0]):
        near = ", ".join(timm.list_models(f"*{architecture.arch[:6]}*")[:5])
        raise PetechiaError(
            f"model.arch is {shown(architecture.arch)}, which timm does not know; similar names: {near or 'none'}."
        )
    options: dict[str, Any] = {"num_classes": classes, "in_chans": architecture.channels}
    defaults = timm.models.get_pretrained_cfg(architecture.arch)
    if defaults is not None and defaults.fixed_input_size:
        options["img_size"] = size
    if isinstance(pretrained, Path):
        if not pretrained.is_file() or pretrained.suffix != ".safetensors":
            raise PetechiaError(
                f"model.pretrained is {str(pretrained)!r}, which is not a .safetensors file; convert the weights."
            )
        options["pretrained_cfg_overlay"] = {"file": str(pretrained)}
    try:
        network: nn.Module = timm.create_model(architecture.arch, pretrained=bool(pretrained), **options)
    except Exception as error:
        if not pretrained:
            raise
        raise PetechiaError(
            f"The pretrained weights of {architecture.arch} are not available ({first_line(error)}); offline, set "
            f"model.pretrained to a safetensors file that contains them, or to false."
        ) from None
    return network
