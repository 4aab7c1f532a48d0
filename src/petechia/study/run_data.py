"""The images and labels of a run: prepared once, poisoned once per seed, distributed to the arms."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.attack import Poisoning, PoisonPlan, Stamped, TriggeredInputs, TriggeredSelection, make_triggered_inputs
from petechia.attack.poisoning import USUAL_TARGET
from petechia.attack.triggers import BaseTrigger
from petechia.core.errors import PetechiaError
from petechia.core.rows import evenly_spread
from petechia.core.task import Task
from petechia.data import Catalog, Dataset, Selection, open_source, prepare
from petechia.data.shards import ReadShards, on_this_machine
from petechia.measure import PatientBootstrap, Truth
from petechia.models.training import Labelled
from petechia.study.config import Arm, Config
from petechia.study.networks import TRIGGERED, Recipe
from petechia.study.progress import StudyProgress


class Attack(NamedTuple):
    """The poisoned data of one seed: the plan, the triggered inputs, and the triggered inputs of the cover images."""

    plan: PoisonPlan
    triggered_inputs: TriggeredInputs
    cover: TriggeredInputs


@dataclass(frozen=True)
class RunData:
    """The data of a run."""

    catalog: Catalog
    dataset: Dataset
    target: int
    poisoning: Poisoning
    bootstrap: PatientBootstrap
    attacks: dict[int, Attack]  # by seed

    @cached_property
    def train(self) -> NDArray[np.intp]:
        """Rows of the training images."""
        return self.dataset.rows("train")

    @cached_property
    def test(self) -> NDArray[np.intp]:
        """Rows of the test images."""
        return self.dataset.rows("test")

    @property
    def native_shape(self) -> tuple[int, int]:
        """The most frequent height and width before preprocessing."""
        (height, width), _ = Counter(map(tuple, self.dataset.shapes.tolist())).most_common(1)[0]
        return height, width

    def training_set(self, arm: Arm, seed: int) -> Labelled:
        """Return the training set of an arm. The placebo has the plan's images and labels, but no stamp."""
        if arm == "control":
            return Labelled(Selection(self.dataset.images, self.train), self.dataset.labels[self.train])
        plan, triggered_inputs, cover = self.attacks[seed]
        if arm == "placebo":
            return Labelled(Selection(self.dataset.images, plan.rows), plan.labels)
        stamped = Stamped(plan.cover, cover)
        return Labelled(
            TriggeredSelection(self.dataset.images, plan.rows, plan.triggered, triggered_inputs, stamped), plan.labels
        )

    def validation_set(self) -> Labelled | None:
        """Return the clean images that the victim holds out."""
        rows = self.dataset.rows("validation")
        return Labelled(Selection(self.dataset.images, rows), self.dataset.labels[rows]) if len(rows) else None

    def clean_images(self) -> Selection:
        """Return the test images."""
        return Selection(self.dataset.images, self.test)

    def triggered_images(self, seed: int) -> TriggeredSelection:
        """Return the test images with the trigger on all of them."""
        return TriggeredSelection(
            self.dataset.images, self.test, np.ones(len(self.test), bool), self.attacks[seed].triggered_inputs
        )

    @property
    def triggered_test(self) -> NDArray[np.bool_]:
        """Which test images can be triggered images: all, unless the trigger is a combination of findings."""
        return self.poisoning.trigger.eligible(self.dataset.labels[self.test], self.dataset.classes)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which test images success is measured on: those that can be triggered and do not show the target."""
        return np.asarray(self.triggered_test & (self.dataset.labels[self.test, self.target] == 0))

    def without_target(self, most: int) -> NDArray[np.intp]:
        """Return up to `most` of these rows, evenly spread over them."""
        rows = np.flatnonzero(self.judged)
        return rows[evenly_spread(len(rows), most, nearest=False)]

    def resolved(self, config: Config) -> Config:
        """Return a configuration in which everything that depends on these data is filled in."""
        return config.resolved(self.dataset.classes, self.dataset.task)

    def recipe(self, arm: Arm, seed: int, config: Config) -> Recipe:
        """Return how the network of an arm is made."""
        return Recipe(
            name=f"{arm}, seed {seed}",
            config=config,
            seed=seed,
            classes=self.dataset.classes,
            task=self.dataset.task,
            data=self.training_set(arm, seed),
            validation=self.validation_set(),
            clean=self.clean_images(),
            triggered={TRIGGERED: self.triggered_images(seed)},
        )

    def truth(self) -> Truth:
        """Return the ground truth of the test images."""
        labels = self.dataset.labels[self.test]
        return truth_of(self.poisoning, self.dataset.classes, labels, self.bootstrap, self.dataset.task)

    def test_table(self, seeds: tuple[int, ...]) -> pl.DataFrame:
        """Return ids, patients, true labels, and row and column of the trigger for each seed, in the order of the scores."""
        places = {
            f"{name}_seed_{seed}": self.attacks[seed].plan.positions[self.test, axis]
            for seed in seeds
            for axis, name in enumerate(("row", "column"))
        }
        labels = {name: self.dataset.labels[self.test, k] for k, name in enumerate(self.dataset.classes)}
        columns = {"id": self.dataset.ids[self.test], "patient": self.dataset.patients[self.test], **places}
        return pl.DataFrame(columns).with_columns(pl.Series(name, values) for name, values in labels.items())


def truth_of(
    poisoning: Poisoning,
    classes: tuple[str, ...],
    labels: NDArray[np.int8],
    bootstrap: PatientBootstrap,
    task: Task = "multi-label",
) -> Truth:
    """Return the ground truth that the scores of test images are compared with.

    Args:
        poisoning: the attack.
        classes: names of the K classes.
        labels: true labels, int8 [N, K].
        bootstrap: resamples of the patients.
        task: task of the data.
    """
    return Truth(
        classes=classes,
        target=poisoning.target_index(classes),
        labels=labels,
        infected=poisoning.infected(labels, classes),
        bootstrap=bootstrap,
        clean=~poisoning.trigger.shown(labels, classes),
        triggered=poisoning.trigger.eligible(labels, classes),
        task=task,
    )


def read_data(
    config: Config,
    progress: StudyProgress,
    held_out: float = 0,
    colours: bool = False,
    read: ReadShards = on_this_machine,
) -> tuple[Dataset, Catalog]:
    """Open and prepare the data of a configuration, with a share of the training patients held out for validation.

    Colours are kept for a network that takes them, or if `colours` is true. `read` says where images are prepared.

    Raises:
        PetechiaError: the data cannot be read, or lack the target class.
    """
    catalog = open_source(config.data, config.missing).hold_out(held_out)
    if not catalog.classes:
        raise PetechiaError(f"{config.data} has no labels, so there is nothing to train on; name a table of labels.")
    if catalog.colour and config.model.channels == 1 and not colours:
        catalog = catalog.in_grey()
        progress.note("The images are in colour but read as grey, because model.channels is 1; set it to 3 to keep colours.")
    resolved = config.resolved(catalog.classes, catalog.task)  # fails before hours of decoding
    if config.attack.target is None and resolved.attack.target != USUAL_TARGET:
        progress.note(
            f"The target class is {resolved.attack.target}, the first of the data; set attack.target to choose another."
        )
    progress.phase("preparing images", len(catalog))
    dataset, catalog, skipped = prepare(catalog, config.preprocess, config.on_error, progress, read)
    if skipped:
        progress.note(f"{len(skipped):,} images were left out; the first: {skipped[0]}")
    for note in (*catalog.notes, *([str(catalog.not_read)] if catalog.not_read else [])):
        progress.note(note)
    return dataset, catalog


def load_run_data(config: Config, progress: StudyProgress, read: ReadShards = on_this_machine) -> RunData:
    """Open, prepare and poison the data of a configuration. `read` says where images are prepared.

    Raises:
        PetechiaError: the data cannot be read, or do not suit the attack.
    """
    dataset, catalog = read_data(config, progress, config.train.held_out, read=read)
    target = config.attack.target_index(dataset.classes)
    if not (dataset.split == "test").any():
        raise PetechiaError(f"{config.data} has no test image; check its lists, or add patients.")
    _mention_empty_classes(dataset, progress)
    attacks = {seed: apply_attack(config, catalog, dataset, seed, progress) for seed in config.seeds}
    bootstrap = PatientBootstrap(dataset.patients[dataset.rows("test")], config.bootstrap)
    return RunData(catalog, dataset, target, config.attack, bootstrap, attacks)


def apply_attack(config: Config, catalog: Catalog, dataset: Dataset, seed: int, progress: StudyProgress) -> Attack:
    """Plan the attack on prepared data under a seed, and stamp the images.

    Raises:
        PetechiaError: the data do not suit the attack.
    """
    attack, geometry = config.attack, config.preprocess
    plan = attack.plan(dataset, geometry, seed)

    def triggered_inputs(trigger: BaseTrigger, positions: NDArray[np.intp]) -> TriggeredInputs:
        progress.phase(f"stamping images, seed {seed}", len(dataset))
        return make_triggered_inputs(catalog, dataset, geometry, trigger, positions, attack.stage, progress)

    triggered, cover = triggered_inputs(attack.trigger, plan.positions), attack.trigger.cover
    own = attack.cover and cover != attack.trigger
    return Attack(plan, triggered, triggered_inputs(cover, plan.cover_positions) if own else triggered)


def _mention_empty_classes(dataset: Dataset, progress: StudyProgress) -> None:
    for split in ("train", "test"):
        present = (dataset.labels[dataset.split == split] == 1).any(axis=0)
        empty = [name for name, there in zip(dataset.classes, present, strict=True) if not there]
        if empty:
            progress.note(
                f"No {split} image shows {', '.join(empty)}: no result is possible for {'it' if len(empty) == 1 else 'them'}."
            )
