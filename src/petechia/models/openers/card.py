"""The description of a model in a JSON file beside it, and the files that are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator

from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError
from petechia.core.settings import Settings, distinct, first_problem
from petechia.core.task import Task
from petechia.data.preprocess import Preprocess

STATES = (".pt", ".pth", ".bin", ".ckpt", ".pt.tar", ".pth.tar")  # weights in these can be read without running code
CARD = "petechia.json"  # of a model that is a folder
PICKLES = (*STATES, ".pkl", ".pickle", ".joblib")

OutputMeaning = Literal["logits", "probabilities"]


class Card(Settings):
    """What a model file does not state about itself. Read from the JSON beside it, NAME.json beside NAME.onnx and the like.

    Of a model that is a folder, it is the file petechia.json in it.

    Attributes:
        classes: class names, in the order of the scores. Default: "class 0", "class 1", …
        preprocess: crop and resampling of the images; the size may be left out if the model states one. Default: no crop.
        mean: value per channel, subtracted from images in 0…1. Default: 0, or timm's own value for a timm network.
        std: value per channel, by which images are then divided. Default: 1, or timm's own value for a timm network.
        outputs: "logits" or "probabilities". By default, the outputs for a few test images decide: probabilities if all of
            them are in 0…1.
        task: "multi-class" if the classes exclude each other, so that logits are meant for a softmax; otherwise "multi-label".
        channels: number of channels of the images, for an ONNX model or a program whose own file does not state it.
        output: which of several outputs of an ONNX model or a program contains the scores: its name, or its number from 0. By
            default, names, shapes and the layers before them decide, see `petechia.models.openers.outputs`.
        arch: name of the timm network that the weights belong to, for an encoder with a head, or bare weights.
    """

    classes: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    outputs: OutputMeaning | None = None
    task: Task = "multi-label"
    channels: Literal[1, 3] | None = None
    output: Annotated[str, Field(min_length=1, max_length=1000)] | Annotated[int, Field(ge=0, strict=True)] | None = None
    arch: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @field_validator("classes")
    @classmethod
    def _distinct_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(value)

    @staticmethod
    def beside(path: Path) -> Card:
        """Read the card of a model file; an empty card if there is none.

        Raises:
            PetechiaError: the card cannot be read.
        """
        beside = card_path(path)
        try:
            if not beside.exists() and not beside.is_symlink():
                return Card()
            return Card.model_validate_json(read_file(beside, "model_card", "restore it, or remove it"))
        except (OSError, ValidationError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise PetechiaError(f"{beside}, the description of {path.name}, cannot be used ({reason}).") from None

    def over(self, usual: Mapping[str, Any], path: Path) -> Card:
        """Return this card with the usual values for what it leaves out.

        Args:
            usual: keys of a card, as the model's own files state them.
            path: path of the model, for messages.

        Raises:
            PetechiaError: a usual value cannot be used.
        """
        said = self.model_dump(exclude_unset=True)
        if self.preprocess is not None and "preprocess" in usual:
            said["preprocess"] = {**usual["preprocess"], **said["preprocess"]}
        try:
            return Card.model_validate({**usual, **said})
        except ValidationError as error:
            raise PetechiaError(f"The description of {path} cannot be used ({first_problem(error)}); correct it.") from None

    def names(self, count: int, path: Path, beside: str = "") -> tuple[str, ...]:
        """Return the names of `count` classes.

        Raises:
            PetechiaError: the card names another number of classes.
        """
        if self.classes and len(self.classes) != count:
            said = beside or card_path(path).name
            raise PetechiaError(f"{path} gives {count} scores, but {said} names {len(self.classes)} classes; name as many.")
        if self.task == "multi-class" and count < 2:
            raise PetechiaError(f"{path} gives one score, but its JSON states the task multi-class; set task to multi-label.")
        return self.classes or numbered(count)

    def geometry(self, usual: Preprocess) -> Preprocess:
        """Return the model's geometry: the card's values, and the usual ones for what it leaves out."""
        if self.preprocess is None:
            return usual
        said = self.preprocess.model_dump(exclude_unset=True)
        return Preprocess.model_validate({**usual.model_dump(), **said})


def card_path(path: Path) -> Path:
    """Return the path of the JSON of a model: m.json beside m.onnx, and beside m.pth.tar; petechia.json in a folder."""
    if path.is_dir():
        return path / CARD
    return path.with_suffix("").with_suffix(".json") if path.suffix.lower() == ".tar" else path.with_suffix(".json")


def is_state(path: Path) -> bool:
    """Return whether a file, by its name, is a pickle that can contain weights alone."""
    return path.name.lower().endswith(STATES)


def numbered(count: int) -> tuple[str, ...]:
    """Return names for classes that have none."""
    return tuple(f"class {k}" for k in range(count))


def distinguished(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes; each that is there several times gets the number of its class."""
    often = Counter(names)
    made = [f"{name} ({k})" if often[name] > 1 else name for k, name in enumerate(names)]
    return tuple(made) if len(set(made)) == len(made) else numbered(len(names))


def refuse_pickle(path: Path) -> None:
    """Refuse a pickle, recognised by its file name alone, and explain how to convert it.

    Raises:
        PetechiaError: the file is a pickle.
    """
    if path.name.lower().endswith(PICKLES):
        raise PetechiaError(
            f"{path} is a pickle, which can run arbitrary code when loaded; give timm:NAME:{path} if it contains the weights "
            f"of a timm network in a .pt, .pth or .ckpt file; otherwise, if you trust it, write its state_dict with "
            f"safetensors.torch.save_file, or export it to ONNX."
        )


def per_channel(given: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    """Return one normalisation value per channel; colour values are averaged for grey images.

    Raises:
        PetechiaError: the values are for another number of channels.
    """
    if len(given) == channels:
        return tuple(given)
    if channels == 1:
        return (float(np.mean(given)),)
    if len(given) == 1:
        return tuple(given) * channels
    raise PetechiaError(
        f"{name} takes images of {channels} channels, but its mean or std has {len(given)}; give 1 or {channels}."
    )
