"""What is said of a model beside its file, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from petechia.core.errors import PetechiaError
from petechia.core.settings import Settings, first_problem
from petechia.core.task import Task
from petechia.data.preprocess import Preprocess

STATES = (".pt", ".pth", ".bin")  # of these a bare state dict can be read without running anything
MOST_BYTES = 16_000_000  # of a card
PICKLES = (*STATES, ".pkl", ".pickle", ".ckpt", ".joblib")

OutputMeaning = Literal["logits", "probabilities"]


class Card(Settings):
    """What the file of a model does not say of itself: the JSON beside it, NAME.json beside NAME.onnx and the like.

    Attributes:
        classes: their names, in the order of the scores; else "class 0", "class 1", …
        preprocess: crop and resampling of the images; the size may be left out where the model has one. Else no crop.
        mean: of each channel, taken off images in 0…1; else 0, or of timm's networks their own.
        std: of each channel, by which they are then divided; else 1, or of timm's networks their own.
        outputs: "logits" or "probabilities"; else the model is asked, and gives probabilities if all are in 0…1.
        task: "multi-class" where the classes exclude each other, so that logits are meant for a softmax; else "multi-label".
        channels: of the images of an ONNX model or a program, where its own file does not say.
    """

    classes: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    outputs: OutputMeaning | None = None
    task: Task = "multi-label"
    channels: Literal[1, 3] | None = None

    @staticmethod
    def beside(path: Path) -> Card:
        """The card of a model's file; an empty one where there is none.

        Raises:
            PetechiaError: it cannot be read.
        """
        beside = path.with_suffix(".json")
        try:
            if not beside.exists() and not beside.is_symlink():
                return Card()
            if not beside.is_file() or beside.stat().st_size > MOST_BYTES:  # a pipe or a device may never end
                raise OSError("it is not a file, or has more than 16 MB")
            return Card.model_validate_json(beside.read_bytes())
        except (OSError, ValidationError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise PetechiaError(f"{beside}, which should describe {path.name}, cannot be used ({reason}).") from None

    def names(self, count: int, path: Path, beside: str = "") -> tuple[str, ...]:
        """Names of so many classes.

        Raises:
            PetechiaError: another number of them is named.
        """
        if self.classes and len(self.classes) != count:
            said = beside or path.with_suffix(".json").name
            raise PetechiaError(f"{path} gives {count} scores, but {said} names {len(self.classes)} classes; name as many.")
        if self.task == "multi-class" and count < 2:
            raise PetechiaError(f"{path} gives one score, but its JSON says that it is multi-class; say multi-label.")
        return self.classes or numbered(count)

    def geometry(self, usual: Preprocess) -> Preprocess:
        """The model's geometry: what the card says, and else the usual one."""
        if self.preprocess is None:
            return usual
        said = self.preprocess.model_dump(exclude_unset=True)
        return Preprocess.model_validate({**usual.model_dump(), **said})


def numbered(count: int) -> tuple[str, ...]:
    """Names for classes that have none."""
    return tuple(f"class {k}" for k in range(count))


def refuse_pickle(path: Path) -> None:
    """Say how to convert a pickle, by its name alone.

    Raises:
        PetechiaError: it is one.
    """
    if path.suffix.lower() in PICKLES:
        raise PetechiaError(
            f"{path} is a pickle, which can run any code when it is opened; give timm:NAME:{path} if it is the bare state dict "
            f"of a timm network in a .pt or .pth file; else, where you trust it, write its state_dict with "
            f"safetensors.torch.save_file, or export it to ONNX."
        )


def per_channel(given: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    """Numbers of a normalisation, one a channel; those of colour are averaged for grey.

    Raises:
        PetechiaError: they are for another number of channels.
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
