"""How models are opened, ours and those of other packages: by a prefix such as `timm:`, or by a file's suffix.

Nothing heavy is imported here, so that the command line's help can say which models are opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from petechia.core.errors import alternatives
from petechia.core.registry import Registry, deferred

if TYPE_CHECKING:
    from petechia.core.runtime import Runtime
    from petechia.models.classifier import Classifier


@dataclass(frozen=True)
class ModelOpener:
    """Opens the models of one kind. It is registered under a prefix, as in "timm", or under a suffix, as in ".onnx".

    Attributes:
        form: how such a model is named, for help and messages: "timm:NAME".
        help: what it is, in one line.
        open: gets what follows the prefix and its colon, or the path of a file with the suffix, which exists; returns the
            classifier; raises PetechiaError where it cannot.
    """

    form: str
    help: str
    open: Callable[[str, Runtime], Classifier]


def _fitting(name: str, found: object) -> ModelOpener:
    if not isinstance(found, ModelOpener):
        raise TypeError(f"{found!r} is not a petechia.models.registry.ModelOpener")
    if not re.fullmatch(r"\.?[A-Za-z0-9_-]+", name):
        raise ValueError(f"{name!r} is neither a prefix, of letters and digits, nor a suffix, with a point before it")
    return found


def _of_file(function: str) -> Callable[[str, Runtime], Classifier]:
    opened = deferred(function)

    def open_file(file: str, runtime: Runtime) -> Classifier:
        classifier: Classifier = opened(Path(file), runtime)
        return classifier

    return open_file


OPENERS: Registry[ModelOpener] = Registry("kind of model", "petechia.models", _fitting)
_HERE = "petechia.models.openers"
for _name, _opener in {
    ".safetensors": ModelOpener("FILE.safetensors", "A model of Petechia", deferred(f"{_HERE}.own:of_safetensors")),
    ".onnx": ModelOpener("FILE.onnx", "An ONNX model, as a black box", _of_file(f"{_HERE}.onnx:of_onnx")),
    ".pt2": ModelOpener("FILE.pt2", "A program of torch.export", _of_file(f"{_HERE}.exported:of_program")),
    "timm": ModelOpener("timm:NAME, timm:NAME:FILE", "A network of timm", deferred(f"{_HERE}.networks:open_timm")),
    "encoder": ModelOpener(
        "encoder:FOLDER", "An encoder of timm with a linear head", deferred(f"{_HERE}.networks:open_encoder")
    ),
    "hf": ModelOpener("hf:FOLDER, hf:ORG/NAME", "A model of Hugging Face", deferred(f"{_HERE}.huggingface:open_huggingface")),
    "clip": ModelOpener("clip:FOLDER", "An open_clip model with prompts", deferred(f"{_HERE}.clip:open_clip_model")),
    "mlflow": ModelOpener(
        "mlflow:MODEL/VERSION", "A model of an MLflow registry", deferred(f"{_HERE}.registered:open_registered")
    ),
    "xrv": ModelOpener("xrv:NAME", "A model of torchxrayvision", deferred(f"{_HERE}.xrv:of_torchxrayvision")),
}.items():
    OPENERS.add(_name, _opener)


def model_suffixes() -> list[str]:
    """The suffixes of files that are opened."""
    return [name for name in OPENERS if name.startswith(".")]


def model_files() -> str:
    """Which files are opened, in words: "a .safetensors, .onnx or .pt2 file"."""
    return f"a {alternatives(model_suffixes())} file"


def model_forms() -> str:
    """How models are named, in words. Nothing is imported for it, so a plugin's may be "KIND:…"."""
    prefixes = [name for name in OPENERS if not name.startswith(".")]
    known = ((name, OPENERS.if_loaded(name)) for name in prefixes)
    return alternatives([model_files(), *(opener.form if opener else f"{name}:…" for name, opener in known)])


def short_model_forms() -> str:
    """The same in short: "FILE.onnx or timm:…"."""
    return alternatives([f"FILE{name}" if name.startswith(".") else f"{name}:…" for name in OPENERS])
