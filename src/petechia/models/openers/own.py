"""Petechia's own models, as classifiers."""

from __future__ import annotations

from pathlib import Path

from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.model import Model


def of_safetensors(file: str, runtime: Runtime) -> Classifier:
    """A model that Petechia wrote.

    Raises:
        PetechiaError: it is not such a file.
    """
    return Classifier.of(Model.load(Path(file)), runtime, file)
