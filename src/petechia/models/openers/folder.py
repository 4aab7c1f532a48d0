"""Models that are kept as a folder: a description in JSON beside weights in safetensors files.

Nothing is opened outside the folder, and what a file claims is bounded before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from petechia.core.budget import check, check_file, read_file
from petechia.core.errors import PetechiaError, first_line, listing, shown
from petechia.core.files import sha256
from petechia.models.openers.card import PICKLES
from petechia.models.openers.weights import read_weights

DEEPEST = 32  # levels of nesting in a description
LARGEST = 1_000_000  # of an integer in a description; the widest layers have some ten thousand channels
ALTOGETHER = 10_000_000  # of all of them
MOST_FILES = 1_000  # with weights
MOST_TENSORS = 50_000  # in a file; the largest models have some thousand
NAMES = ("id2label", "label2id", "label_names", "label_descriptions")  # of classes, with their numbers

Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by name


class ModelFolder:
    """The folder of a model.

    Args:
        path: path of the folder.
        kind: what it should contain, for messages: "a model of Hugging Face".

    Raises:
        PetechiaError: there is no such folder.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        if not path.is_dir():
            raise PetechiaError(f"{path} is not a folder; give the folder of {kind}.")
        real = path.resolve()
        # The snapshots of Hugging Face's cache link to blobs beside them.
        self._root = real.parents[1] if real.parent.name == "snapshots" else real

    def has(self, name: str) -> bool:
        """Return whether there is a file, or a link, of this name."""
        return os.path.lexists(self.path / name)

    def file(self, name: str) -> Path:
        """Return the path of a file of the folder. The name can come from a stranger.

        Raises:
            PetechiaError: there is no such file, or it lies outside the folder.
        """
        if not name or "\0" in name or Path(name).name != name:
            raise PetechiaError(f"{self.path} names a file {shown(name)}, which is not in that folder; restore it.")
        path = self.path / name
        if not self.has(name):
            raise PetechiaError(f"{self.path} has no {name}, so it is not {self.kind}; give the folder of one.")
        try:
            inside = path.resolve(strict=True).is_relative_to(self._root)
        except (OSError, RuntimeError):
            inside = False
        if not inside:
            raise PetechiaError(f"{path} leads out of its folder, or nowhere; copy the file into the folder.")
        return path

    def json(self, name: str, of_network: bool = True) -> dict[str, Any]:
        """Read a JSON file of the folder.

        Args:
            name: of the file.
            of_network: whether its numbers may become the sizes of a network.

        Raises:
            PetechiaError: it is not an object, is too large or nested too deeply, or contains absurd numbers.
        """
        path = self.file(name)
        content = read_file(path, "model_card", "restore it")
        try:
            found = json.loads(content)
            total = sum(_sizes(found)) if of_network else 0
        except (ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
            raise PetechiaError(f"{path} cannot be read ({why}); restore it.") from None
        if not isinstance(found, dict):
            raise PetechiaError(f"{path} is not a JSON object; restore it.")
        if total > ALTOGETHER:
            raise PetechiaError(f"{path} has numbers that add up to {total:,}, as no model has; restore it.")
        return found

    def weights(self, *names: str) -> Weights:
        """Return the weights in the file of the first of these names, or in those that its index lists.

        Raises:
            PetechiaError: there are none, or they are pickles.
        """
        for name in names:
            if self.has(f"{name}.index.json"):
                return Weights(self.path, [self.file(one) for one in self._listed(f"{name}.index.json")])
            if self.has(name):
                return Weights(self.path, [self.file(name)])
        raise self._without_weights(names)

    def _listed(self, index: str) -> list[str]:
        places = self.json(index).get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
            raise PetechiaError(f"{self.path / index} lists no files with weights; restore it.")
        found = sorted(set(places.values()))
        wrong = [one for one in found if not one.endswith(".safetensors")]
        if wrong or len(found) > MOST_FILES:
            what = f"names {shown(wrong[0])}" if wrong else f"names {len(found):,} files"
            raise PetechiaError(f"{self.path / index} {what}, not a few safetensors files; save the model again.")
        return found

    def _without_weights(self, names: tuple[str, ...]) -> PetechiaError:
        pickles = sorted(one.name for one in self.path.iterdir() if one.name.lower().endswith(PICKLES))
        if pickles:
            return PetechiaError(
                f"{self.path} has its weights in {listing(pickles, 2)}, a pickle, which can run arbitrary code when loaded; if "
                f"you trust it, load the model with its own library, and save it as {names[0]}, which save_pretrained writes."
            )
        return PetechiaError(f"{self.path} has no {names[0]}, so it is not {self.kind}; give the folder of one.")


class Weights:
    """Weights in one or several safetensors files.

    Args:
        folder: path of the folder, for messages.
        files: paths of the files.

    Raises:
        PetechiaError: a file is no safetensors file, two of them have a tensor of the same name, or there are too many weights.
    """

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.folder, self.files = folder, files
        size = sum(check_file(one, "model_bytes", "check the folder of the model") for one in files)
        check("model_bytes", size, f"{folder} has weights of {size:,} bytes", "check the folder of the model")
        shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            for name, shape in _shapes(file):
                if name in shapes:
                    raise PetechiaError(f"{folder} has {shown(name)} in two of its files; save the model again.")
                shapes[name] = shape
        self.shapes: Shapes = shapes
        check("model_elements", self.elements, f"{folder} has {self.elements:,} weights", "check the folder of the model")

    @cached_property
    def elements(self) -> int:
        """Number of all weights."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def read(self) -> dict[str, Tensor]:
        """Read all tensors.

        Raises:
            PetechiaError: as for `read_weights`.
        """
        found: dict[str, Tensor] = {}
        for file in self.files:
            found |= read_weights(file)
        return found

    def digest(self, *others: Path) -> str:
        """SHA-256 of the lines that `sha256sum` prints for these files, with their names alone, sorted by name."""
        files = sorted([*self.files, *others], key=lambda one: one.name)
        each = [f"{sha256(file)}  {file.name}\n" for file in files]
        return hashlib.sha256("".join(each).encode(errors="surrogateescape")).hexdigest()


def _shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    try:
        with safe_open(file, "pt") as opened:
            names = opened.keys()
            if len(names) > MOST_TENSORS:
                raise PetechiaError(f"{file} has {len(names):,} tensors, far more than any model; restore it.")
            for name in names:
                yield name, tuple(opened.get_slice(name).get_shape())
    except (OSError, SafetensorError) as error:
        raise PetechiaError(f"{file} is not a valid safetensors file ({first_line(error)}); save it again.") from None


def _sizes(value: Any, depth: int = 0) -> Iterator[int]:
    """Yield the integers in a description, those that number classes left out.

    Raises:
        ValueError: one is absurd.
        RecursionError: it is nested too deeply.
    """
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        for key, one in value.items():
            if key not in NAMES:
                yield from _sizes(one, depth + 1)
    elif isinstance(value, list):
        for one in value:
            yield from _sizes(one, depth + 1)
    elif isinstance(value, int):
        if abs(value) > LARGEST:
            raise ValueError(f"it contains the number {shown(value)}, larger than that of any model")
        yield abs(value)
