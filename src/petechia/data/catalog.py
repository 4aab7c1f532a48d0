"""What is on disk, not decoded: ids, labels, patients, split, and how to read the images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.progress import Progress
from petechia.core.task import Task
from petechia.data.levels import to_grey

SPLITS = ("train", "validation", "test")
NONE = "No Finding"  # the class of images that show none of the others, as NIH calls it


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
class Written:
    """What is written: M images that are made from those of a catalog.

    Attributes:
        rows: int [M], which image of the catalog each is made from.
        ids: str [M].
        labels: int8 [M, K].
        content: for each of the M, the bytes of a PNG, or None to copy the file as it is.
    """

    rows: NDArray[np.intp]
    ids: NDArray[np.str_]
    labels: NDArray[np.int8]
    content: Callable[[int], bytes | None]


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
        task: "multi-class" where every image shows exactly one of the classes, so that a row of labels is one-hot, or all
            -1 where nobody knows which.
        colour: whether images are [H, W, 3].
        layout: writes images and labels as the source has them, see `petechia.data.export`; None where it has no own way.
    """

    name: str
    classes: tuple[str, ...]
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    split: NDArray[np.str_]
    labels: NDArray[np.int8]
    reader: Reader
    task: Task = "multi-label"
    colour: bool = False
    layout: Callable[[Path, Catalog, Written, Progress], None] | None = None

    def __post_init__(self) -> None:
        """Hold a multi-class collection to its word.

        Raises:
            PetechiaError: a row of its labels is neither one-hot nor unknown as a whole, or there is only one class.
        """
        if self.task == "multi-label":
            return
        if len(self.classes) < 2:
            raise PetechiaError(f"{self.name} is multi-class with one class; give two or more, or make it multi-label.")
        one_hot = (self.labels >= 0).all(axis=1) & (self.labels.sum(axis=1) == 1)
        wrong = self.ids[~one_hot & (self.labels >= 0).any(axis=1)]
        if len(wrong):
            raise PetechiaError(
                f"{self.name} is multi-class, but {wrong[0]} does not show exactly one class; correct its label, or make the "
                f"collection multi-label."
            )

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

    def with_classes(self, count: int, task: Task) -> Catalog:
        """The same with the first so many classes, and no label for what the others say.

        Args:
            count: of the classes.
            task: "multi-class" keeps the images that show at most one of these, and those that show none get a class of
                their own, the last.
        """
        fewer = replace(self, classes=self.classes[:count], labels=self.labels[:, :count])
        if task == self.task:
            return fewer
        one = fewer.take(np.flatnonzero((fewer.labels >= 0).all(axis=1) & (fewer.labels.sum(axis=1) <= 1)))
        none = 1 - one.labels.sum(axis=1, keepdims=True, dtype=np.int8)
        return replace(one, classes=(*one.classes, NONE), labels=np.hstack([one.labels, none]), task=task)

    def hold_out(self, fraction: float) -> Catalog:
        """Move a fraction of the training patients to the validation split."""
        moved = (self.split == "train") & (patient_fractions(self.patients, "validation") < fraction)
        return replace(self, split=np.where(moved, "validation", self.split))

    def in_grey(self) -> Catalog:
        """The same with images in grey, [H, W]."""
        return replace(self, reader=InGrey(self.reader), colour=False) if self.colour else self

    def class_index(self, name: str) -> int:
        """Position of a class.

        Raises:
            PetechiaError: there is no such class.
        """
        if name not in self.classes:
            raise PetechiaError(f"{self.name} has no class {name!r}; its classes are {', '.join(self.classes)}.")
        return self.classes.index(name)


class InGrey:
    """Reads images in colour as grey ones.

    Attributes:
        reader: of the images in colour.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Decode some of the images."""
        for image in self.reader.read(rows):
            yield image if isinstance(image, PetechiaError) else to_grey(image)

    def take(self, rows: NDArray[np.intp]) -> InGrey:
        """The same for some of the images."""
        return InGrey(self.reader.take(rows))

    def fingerprint(self) -> str:
        """That of the reader, marked."""
        return f"grey {self.reader.fingerprint()}"


def patient_fractions(patients: NDArray[np.str_], purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for every image that depends on its patient's name alone, so that splits survive added data."""
    names, inverse = np.unique(patients, return_inverse=True)
    digests = (hashlib.sha256(f"{purpose}:{name}".encode()).digest() for name in names)
    numbers = np.array([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests])
    return numbers[inverse]


def split_by_patient(patients: NDArray[np.str_], test: float) -> NDArray[np.str_]:
    """Put about a fraction `test` of the patients into "test", the others into "train"."""
    return np.where(patient_fractions(patients, "test") < test, "test", "train")
