"""Catalogs of images that are not decoded yet: ids, labels, patients, split, and a reader of the images."""

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
from petechia.core.settings import distinct
from petechia.core.task import Task
from petechia.data.levels import to_grey
from petechia.data.not_read import EVERYTHING_READ, NotRead

SPLITS = ("train", "validation", "test")
NONE = "No Finding"  # the class of images that show none of the others, as NIH calls it


class Reader(Protocol):
    """Reads the images of a catalog, in its order."""

    def __len__(self) -> int: ...

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Decode some of the images at native size.

        Yields:
            For each row, uint8 [H, W] or [H, W, 3], or the error if the image cannot be decoded.
        """

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return a reader for some of the images."""

    def fingerprint(self) -> str:
        """Return a text that changes whenever an image may have changed; cheap enough to be computed at every start."""


@dataclass(frozen=True)
class Written:
    """M images to write, made from the images of a catalog.

    Attributes:
        rows: int [M], row in the catalog of the original of each image.
        ids: str [M], ids of the written images.
        labels: int8 [M, K], labels of the written images.
        content: function that returns, for an index from 0 to M - 1, the bytes of a PNG, or None to copy the original file.
    """

    rows: NDArray[np.intp]
    ids: NDArray[np.str_]
    labels: NDArray[np.int8]
    content: Callable[[int], bytes | None]


@dataclass(frozen=True)
class Catalog:
    """A collection of labelled images. Arrays have one entry per image.

    Attributes:
        name: name of the dataset, for display.
        classes: names of the K classes.
        ids: str [N], unique id of each image.
        patients: str [N], patient of each image.
        split: str [N], one of "train", "validation", "test"; no patient is in two of them.
        labels: int8 [N, K]: 1 present, 0 absent, -1 unknown.
        reader: reader that decodes the images.
        task: "multi-class" if every image shows exactly one of the classes; a row of labels is then one-hot, or all -1 if the
            class is unknown.
        colour: whether images are [H, W, 3].
        layout: function that writes images and labels in the layout of the source, see `petechia.data.export`; None if the
            source has no layout of its own.
        relabelled: function that returns the ids, str [N], under which images with these ids and labels, int8 [N, K], are
            written; None if ids do not depend on labels.
        not_read: images that lie beside these and were not read.
        notes: sentences about how the source was read that its user should know.
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
    relabelled: Callable[[NDArray[np.str_], NDArray[np.int8]], NDArray[np.str_]] | None = None
    not_read: NotRead = EVERYTHING_READ
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names of the classes, and the labels of a multi-class collection.

        Raises:
            PetechiaError: two classes have one name, a row of labels is neither one-hot nor entirely unknown, or there is only
                one class.
        """
        try:
            distinct(self.classes)
        except ValueError as error:
            raise PetechiaError(f"In {self.name}, {error}.") from None
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
        """Return a catalog of some of the images, in the given order."""
        return replace(
            self,
            ids=self.ids[rows],
            patients=self.patients[rows],
            split=self.split[rows],
            labels=self.labels[rows],
            reader=self.reader.take(rows),
        )

    def with_classes(self, count: int, task: Task) -> Catalog:
        """Return a catalog with only the first classes.

        Args:
            count: number of classes to keep.
            task: "multi-class" keeps only the images that show at most one of these classes, and adds a last class for the
                images that show none of them.
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
        """Return the catalog with grey images, [H, W]."""
        return replace(self, reader=InGrey(self.reader), colour=False) if self.colour else self

    def class_index(self, name: str) -> int:
        """Return the index of a class.

        Raises:
            PetechiaError: there is no such class.
        """
        if name not in self.classes:
            raise PetechiaError(f"{self.name} has no class {name!r}; its classes are {', '.join(self.classes)}.")
        return self.classes.index(name)


class InGrey:
    """Reads colour images and converts them to grey.

    Attributes:
        reader: reader of the colour images.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Decode some of the images to grey levels, uint8 [H, W]."""
        for image in self.reader.read(rows):
            yield image if isinstance(image, PetechiaError) else to_grey(image)

    def take(self, rows: NDArray[np.intp]) -> InGrey:
        """Return a reader for some of the images."""
        return InGrey(self.reader.take(rows))

    def fingerprint(self) -> str:
        """Return the fingerprint of the colour reader, with a prefix."""
        return f"grey {self.reader.fingerprint()}"


def patient_fractions(patients: NDArray[np.str_], purpose: str) -> NDArray[np.float64]:
    """Return a number in [0, 1) per image that depends only on the patient's name, so that added data do not change splits."""
    names, inverse = np.unique(patients, return_inverse=True)
    digests = (hashlib.sha256(f"{purpose}:{name}".encode()).digest() for name in names)
    numbers = np.array([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests])
    return numbers[inverse]


def split_by_patient(patients: NDArray[np.str_], test: float) -> NDArray[np.str_]:
    """Assign about a fraction `test` of the patients to "test" and the others to "train"; returns str [N]."""
    return np.where(patient_fractions(patients, "test") < test, "test", "train")
