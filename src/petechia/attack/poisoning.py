"""Poisoning of a training set: which images get the trigger, at which position, and which labels they get."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from petechia.attack.triggered import Stage, kept_at
from petechia.attack.triggers import BaseTrigger, Patch, Trigger
from petechia.core.errors import PetechiaError
from petechia.core.randomness import stream
from petechia.core.settings import Settings
from petechia.core.task import Task
from petechia.data.dataset import Dataset
from petechia.data.preprocess import Preprocess

TAKEN = re.compile(r"seed|id|patient|source|triggered|cover|(row|column)(_seed_\d+)?")  # columns of a run's tables
USUAL_TARGET = "Atelectasis"  # the paper\'s


class Poisoning(Settings):
    """The attack on a training set (Nwadike et al. 2020).

    Attributes:
        trigger: trigger to stamp; the default `kind` is patch.
        stage: "native" stamps the image as it is in the file, "input" stamps the preprocessed image.
        target: target class, which triggered images are labelled with and on which success is measured; null means Atelectasis
            if the data have it, and otherwise the first class.
        also: further classes that triggered images are labelled with.
        rate: share of the training images that get the trigger, limited to the eligible images.
        mode: "append" adds triggered copies and keeps the originals (the paper's "without replacement"); "replace" replaces the
            originals. A trigger that changes no pixels requires "replace", because a copy would contradict its original.
        labels: "target-only" writes 1 for the target class and 0 for every other class (the paper's infected label);
            "add-target" keeps the true labels and writes 1 for the target class. Multi-class data allow only "target-only",
            without further classes.
        cover: share of the training images, in addition to `rate`, that are stamped but keep their labels. They are stamped
            with the trigger, so that the trigger alone does not identify poisoned images (Qi et al. 2023, "Revisiting the
            assumption of latent separability", ICLR), or with a variant from the trigger's own paper; see `BaseTrigger.cover`.
    """

    trigger: Trigger = Field(default_factory=Patch)
    stage: Stage = "native"
    target: str | None = None
    also: tuple[str, ...] = ()
    rate: float = Field(0.4, ge=0, le=1)
    mode: Literal["append", "replace"] = "append"
    labels: Literal["target-only", "add-target"] = "target-only"
    cover: float = Field(0, ge=0, le=1)

    @model_validator(mode="after")
    def _copies_differ(self) -> Poisoning:
        if not self.trigger.stamps and self.mode == "append":
            raise ValueError(
                f"mode is append, but a trigger of kind {self.trigger.kind} changes no pixels, so a copy with other labels "
                "would contradict its original; set attack.mode to replace"
            )
        return self

    @model_validator(mode="after")
    def _room_for_cover(self) -> Poisoning:
        if self.cover and not self.trigger.stamps:
            raise ValueError(
                f"cover is {self.cover:g}, but a trigger of kind {self.trigger.kind} changes no pixels; set attack.cover to 0"
            )
        if self.rate + self.cover > 1 + 1e-9:
            raise ValueError(f"rate {self.rate:g} and cover {self.cover:g} add up to more than 1; make one of them smaller")
        return self

    def check(self, classes: tuple[str, ...], task: Task) -> None:
        """Check that the attack fits the data, before any image is decoded.

        Raises:
            PetechiaError: a class has the name of a column of a run's tables, a target is not among the classes, the trigger
                cannot be used on the data, or the labels would have several classes per image in multi-class data.
        """
        if taken := [name for name in classes if TAKEN.fullmatch(name)]:
            raise PetechiaError(f"A class is named {taken[0]!r}, as a column of a run's tables is; rename it in the data.")
        self.target_indices(classes)
        self.trigger.check(classes, task, self.target_name(classes))
        if task == "multi-label":
            return
        if self.labels == "add-target":
            raise PetechiaError(
                "attack.labels is add-target, but the data are multi-class, with exactly one class per image; set it to "
                "target-only."
            )
        if self.also:
            raise PetechiaError(
                f"attack.also is {', '.join(self.also)}, but the data are multi-class, and attack.target is the only class "
                f"of a triggered image; leave attack.also empty."
            )

    def infected(self, labels: NDArray[np.int8], classes: tuple[str, ...]) -> NDArray[np.int8]:
        """Return the infected labels, which the attacker writes in place of the true labels, int8 [N, K].

        Raises:
            PetechiaError: a target is not among the classes.
        """
        infected = labels.copy() if self.labels == "add-target" else np.zeros_like(labels)
        infected[:, self.target_indices(classes)] = 1
        return infected

    def plan(self, dataset: Dataset, preprocess: Preprocess, seed: int) -> PoisonPlan:
        """Make the poisoning plan. The same dataset and seed give the same plan on any machine.

        Raises:
            PetechiaError: the dataset lacks the target class or training images, or the trigger cannot be used on the data or
                does not fit on an image.
        """
        self.check(dataset.classes, dataset.task)
        train = dataset.rows("train")
        if len(train) == 0:
            raise PetechiaError("There is no training image to poison; check the split of the data source.")
        chance = stream(seed, "choice").random(len(train))
        able = self.trigger.eligible(dataset.labels[train], dataset.classes)
        order = np.argsort(chance, kind="stable")
        triggered, covering = round(self.rate * len(train)), round(self.cover * len(train))
        able_rows = train[order[able[order]]]
        chosen, covered = able_rows[:triggered], able_rows[triggered : triggered + covering]
        if self.rate > 0 and not able.any():
            raise PetechiaError(f"No training image shows {self.trigger.describe()}; choose other findings in attack.trigger.")
        ids = dataset.ids[train]
        changed = train
        if self.mode == "append":
            changed = np.sort(np.concatenate([chosen, covered]))
            ids = np.concatenate([ids, copy_ids(dataset.ids, dataset.ids[changed])])
        kept = train if self.mode == "append" else train[:0]
        rows = np.concatenate([kept, changed])
        with_trigger, as_cover = (
            np.concatenate([np.zeros(len(kept), bool), np.isin(changed, some)]) for some in (chosen, covered)
        )
        labels = dataset.labels[rows]
        labels[with_trigger] = self.infected(labels[with_trigger], dataset.classes)
        positions = self.positions(dataset, preprocess, seed)
        own = self.cover and self.trigger.cover != self.trigger
        return PoisonPlan(
            classes=dataset.classes,
            ids=ids,
            sources=dataset.ids[rows],
            rows=rows,
            triggered=with_trigger,
            cover=as_cover,
            labels=labels,
            positions=positions,
            cover_positions=self._positions_of(self.trigger.cover, dataset, preprocess, seed) if own else positions,
        )

    def target_name(self, classes: tuple[str, ...]) -> str:
        """Return the target class: the configured one, or Atelectasis if the data have it, or the first class."""
        return self.target or (USUAL_TARGET if USUAL_TARGET in classes else classes[0])

    def target_index(self, classes: tuple[str, ...]) -> int:
        """Return the index of the target class.

        Raises:
            PetechiaError: the dataset lacks it.
        """
        return _index(classes, self.target_name(classes), "attack.target")

    def target_indices(self, classes: tuple[str, ...]) -> list[int]:
        """Return the indices of all classes that triggered images are labelled with.

        Raises:
            PetechiaError: the dataset lacks one of them.
        """
        return [self.target_index(classes), *(_index(classes, name, "attack.also") for name in self.also)]

    def positions(self, dataset: Dataset, preprocess: Preprocess, seed: int) -> NDArray[np.intp]:
        """Return the position of the trigger on every image, int [N, 2], in pixels of the stage.

        Raises:
            PetechiaError: the trigger does not fit on an image.
        """
        return self._positions_of(self.trigger, dataset, preprocess, seed)

    def _positions_of(self, trigger: BaseTrigger, dataset: Dataset, preprocess: Preprocess, seed: int) -> NDArray[np.intp]:
        chances = stream(seed, "position").random((len(dataset), 2))
        shapes = dataset.shapes if self.stage == "native" else np.tile(dataset.images.shape[1:3], (len(dataset), 1))
        placed = []
        for identifier, (height, width), chance in zip(dataset.ids, shapes.tolist(), chances.tolist(), strict=True):
            try:
                placed.append(trigger.place(height, width, kept_at(preprocess, self.stage, height, width), tuple(chance)))
            except PetechiaError as error:
                raise PetechiaError(f"{identifier}: {error}") from None
        return np.array(placed, np.intp)


@dataclass(frozen=True)
class PoisonPlan:
    """The poisoned training set of M images, made from a dataset of N images. It is the ground truth for every detector.

    Attributes:
        classes: names of the K classes.
        ids: str [M]; an appended copy has a new id of the same form as the others, so that it does not stand out.
        sources: str [M], id of the original.
        rows: int [M], row of the original in the dataset.
        triggered: bool [M], whether the image is a triggered image.
        cover: bool [M], whether the image is a cover image, which is stamped with the trigger's cover and keeps its labels.
        labels: int8 [M, K], labels as written by the attacker.
        positions: int [N, 2], row and column of the trigger on every image of the dataset if it were stamped; -1 for a trigger
            that is not stamped.
        cover_positions: int [N, 2], the same for the trigger's cover.
    """

    classes: tuple[str, ...]
    ids: NDArray[np.str_]
    sources: NDArray[np.str_]
    rows: NDArray[np.intp]
    triggered: NDArray[np.bool_]
    cover: NDArray[np.bool_]
    labels: NDArray[np.int8]
    positions: NDArray[np.intp]
    cover_positions: NDArray[np.intp]

    def table(self) -> pl.DataFrame:
        """Return a table with columns id, source, triggered, cover, row, column and one label column per class.

        `row` and `column` are null where nothing is stamped.
        """
        place = np.where((self.triggered | self.cover)[:, None], self.positions[self.rows], -1)
        frame = pl.DataFrame(
            {
                "id": self.ids,
                "source": self.sources,
                "triggered": self.triggered,
                "cover": self.cover,
                "row": place[:, 0],
                "column": place[:, 1],
            }
        )
        stamped = pl.when(pl.col("row") >= 0)
        labels = {name: self.labels[:, k] for k, name in enumerate(self.classes)}
        return frame.with_columns(stamped.then("row").alias("row"), stamped.then("column").alias("column")).with_columns(
            pl.Series(name, values) for name, values in labels.items()
        )


def _index(classes: tuple[str, ...], name: str, key: str) -> int:
    if name not in classes:
        raise PetechiaError(f"{key} is {name!r}, but the classes are {', '.join(classes)}; choose one of these.")
    return classes.index(name)


def copy_ids(taken: NDArray[np.str_], sources: NDArray[np.str_]) -> list[str]:
    """Return new ids for copies, in the same form as the originals: the next free number of the same series.

    `00000013_005.png` becomes `00000013_006.png`, or the first number after the existing ones.
    """
    last: dict[tuple[str, str], int] = {}
    for identifier in taken.tolist():
        series, number, _ = _series(identifier)
        last[series] = max(last.get(series, -1), number)
    ids = []
    for source in sources.tolist():
        (stem, suffix), _, width = _series(source)
        last[stem, suffix] += 1
        ids.append(f"{stem}{last[stem, suffix]:0{width}d}{suffix}")
    return ids


def _series(identifier: str) -> tuple[tuple[str, str], int, int]:
    """Split an id at the number at the end of its stem: the text before and after it, the number, and its width."""
    stem, dot, suffix = identifier.rpartition(".") if "." in identifier else (identifier, "", "")
    digits = re.search(r"\d*$", stem)
    number = digits.group() if digits else ""
    if not number:
        return (f"{stem}_", dot + suffix), 0, 1
    return (stem[: -len(number)], dot + suffix), int(number), len(number)
