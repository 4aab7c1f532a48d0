"""Models, whoever made them: Petechia's own, ONNX files, programs of torch.export, timm's and torchxrayvision's."""

from __future__ import annotations

import logging
from pathlib import Path

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.model import Model
from petechia.models.openers.card import Card, refuse_pickle
from petechia.models.openers.exported import of_program
from petechia.models.openers.networks import of_imagenet, of_timm, of_torchxrayvision
from petechia.models.openers.onnx import of_onnx

__all__ = ["Card", "open_classifier"]

LOGGER = logging.getLogger(__name__)


def open_classifier(name: str, runtime: Runtime) -> Classifier:
    """Open a model for examination.

    Args:
        name: one of
            FILE.safetensors, which Petechia wrote;
            FILE.onnx, a black box, described by FILE.json if that is there, see `Card`;
            FILE.pt2, a program of torch.export, described likewise; nothing of it is unpickled or run as Python;
            timm:NAME, with timm's ImageNet weights;
            timm:NAME:FILE, with the weights in a .safetensors file, or in a .pt or .pth file that is a bare state dict,
            described by FILE.json if that is there;
            xrv:NAME, a model of torchxrayvision, as in xrv:densenet121-res224-all. That package fetches its own weights
            from its own releases, which are pickles; no other pickle is ever opened.
        runtime: where it computes.

    Raises:
        PetechiaError: there is no such model, or it is a pickle, or it does not fit its description.
    """
    LOGGER.info("opening model %s", name)
    kind, _, rest = name.partition(":")
    if kind == "timm":
        arch, _, file = rest.partition(":")
        return of_timm(arch, Path(file), runtime) if file else of_imagenet(arch, runtime)
    if kind == "xrv":
        return of_torchxrayvision(rest, runtime)
    path = Path(name)
    if path.is_dir():
        raise PetechiaError(f"{path} is a folder, not a model; give {_model_in(path)}.")
    refuse_pickle(path)
    if not path.is_file():
        raise PetechiaError(
            f"There is no model {name!r}; give a .safetensors, .onnx or .pt2 file, timm:NAME, timm:NAME:FILE or xrv:NAME."
        )
    if path.suffix == ".onnx":
        return of_onnx(path, runtime)
    if path.suffix == ".pt2":
        return of_program(path, runtime)
    if path.suffix == ".safetensors":
        return Classifier.of(Model.load(path), runtime, name)
    raise PetechiaError(f"{name} is neither a .safetensors nor an .onnx nor a .pt2 file; convert the model to one of them.")


def _model_in(folder: Path) -> str:
    """What to give in the place of a folder, which may be that of a run."""
    files = "checkpoints/*/epoch-*.safetensors"
    found = sorted(file for where in (files, f"runs/*/{files}", f"*/{files}") for file in folder.glob(where))
    return f"one of its models, such as {found[-1]}" if found else "a .safetensors, .onnx or .pt2 file"
