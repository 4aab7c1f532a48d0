"""Models, whoever made them: Petechia's own, ONNX files, programs, and those of timm, Hugging Face, open_clip and others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from petechia.core.errors import PetechiaError
from petechia.core.files import expand_home
from petechia.models.openers.card import Card, refuse_pickle
from petechia.models.registry import OPENERS, model_files, model_forms, model_suffixes

if TYPE_CHECKING:  # a worker process imports a module of this package, and must not wait for timm
    from petechia.core.runtime import Runtime
    from petechia.models.classifier import Classifier

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
            timm:NAME:FILE, with the weights in a .safetensors file, or in a .pt, .pth, .bin, .ckpt or .pth.tar file that
            contains them, described by FILE.json if that is there;
            xrv:NAME, a model of torchxrayvision, as in xrv:densenet121-res224-all. That package fetches its own weights
            from its own releases, which are pickles, and they are opened only if their SHA-256 is known, or given as in
            xrv:NAME:SHA256; no other pickle is ever opened;
            encoder:FOLDER, a timm network without its last layer, and a linear layer;
            hf:FOLDER or hf:ORG/NAME, an image classifier of Hugging Face, with weights as safetensors;
            clip:FOLDER, an open_clip model with prompts as its classes;
            mlflow:MODEL/VERSION, any of these in an MLflow registry;
            or what another package adds, see `petechia.models.registry`.
        runtime: where it computes.

    Raises:
        PetechiaError: there is no such model, or it is a pickle, or it does not fit its description.
    """
    LOGGER.info("opening model %s", name)
    prefix, _, rest = name.partition(":")
    if not prefix.startswith(".") and prefix in OPENERS:
        return OPENERS[prefix].open(rest, runtime)
    path = expand_home(name)
    if path.is_dir():
        raise PetechiaError(f"{path} is a folder, not a model; give {_model_in(path)}.")
    refuse_pickle(path)
    if not path.is_file():
        raise PetechiaError(f"There is no model {name!r}; give {model_forms()}.")
    if (suffix := path.suffix.lower()) in OPENERS:
        return OPENERS[suffix].open(str(path), runtime)
    known = " nor ".join(f"{_article(suffix)} {suffix}" for suffix in model_suffixes())
    raise PetechiaError(f"{name} is neither {known} file; convert the model to one of them.")


def _model_in(folder: Path) -> str:
    """What to give in the place of a folder, which may be that of a run."""
    files = "checkpoints/*/epoch-*.safetensors"
    every = (file for where in (files, f"runs/*/{files}", f"*/{files}") for file in folder.glob(where))
    found = sorted(every, key=lambda file: ("attacked" in file.parent.name, file))
    return f"one of its models, such as {found[-1]}" if found else model_files()


def _article(suffix: str) -> str:
    return "an" if suffix[1:2] in "aeiou" else "a"
