"""What is on disk, not decoded: ids, labels, patients, split, and how to read the images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from petechia.errors import PetechiaError, printable

SPLITS = ("train", "validation", "test")
Task = Literal["multi-label", "multi-class"]


class Reader(Protocol):
    """Reads the images of a catalog, in its order."""

    def __len__(self) -> int: ...

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Decode some of the images at native size, each uint8 [H, W] or [H, W, 3]; for a bad one, what is wrong with it."""

    def take(self, rows: NDArray[np.intp]) -> Self:
        """The same for some of the images."""

    def fingerprint(self) -> str:
        """Changes whenever an image may have changed; cheap enough to be computed at every start."""


@dataclass(frozen=True)
class Catalog:
    """A collection of labelled images. Arrays have one entry an image.

    Attributes:
        name: of the dataset, for people.
        classes: names of the K classes.
        ids: str [N], unique.
        patients: str [N].
        split: str [N], one of "train", "validation", "test"; no patient is in two of them.
        labels: int8 [N, K]: 1 present, 0 absent, -1 unknown.
        reader: decodes the images.
        task: "multi-class" where every image shows exactly one of the classes, so that a row of labels is one-hot.
    """

    name: str
    classes: tuple[str, ...]
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    split: NDArray[np.str_]
    labels: NDArray[np.int8]
    reader: Reader
    task: Task = "multi-label"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.intp]) -> Catalog:
        """The same for some of the images, in the given order."""
        return replace(
            self,
            ids=self.ids[rows],
            patients=self.patients[rows],
            split=self.split[rows],
            labels=self.labels[rows],
            reader=self.reader.take(rows),
        )

    def hold_out(self, fraction: float) -> Catalog:
        """Move a fraction of the training patients to the validation split."""
        moved = (self.split == "train") & (patient_fractions(self.patients, "validation") < fraction)
        return replace(self, split=np.where(moved, "validation", self.split))

    def class_index(self, name: str) -> int:
        """Position of a class.

        Raises:
            PetechiaError: there is no such class.
        """
        if name not in self.classes:
            raise PetechiaError(f"{self.name} has no class {name!r}; its classes are {', '.join(self.classes)}.")
        return self.classes.index(name)


def patient_fractions(patients: NDArray[np.str_], purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for every image that depends on its patient's name alone, so that splits survive added data."""
    names, inverse = np.unique(patients, return_inverse=True)
    digests = (hashlib.sha256(f"{purpose}:{name}".encode()).digest() for name in names)
    numbers = np.array([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests])
    return numbers[inverse]


def split_by_patient(patients: NDArray[np.str_], test: float) -> NDArray[np.str_]:
    """Put about a fraction `test` of the patients into "test", the others into "train"."""
    return np.where(patient_fractions(patients, "test") < test, "test", "train")


def listing(names: Sequence[str], most: int = 5) -> str:
    """The first few names of a list, for a message: a file can name anything, so they are cut and made printable."""
    shown = ", ".join(printable(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
