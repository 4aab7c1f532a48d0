"""Train one network, score the test set after every epoch, and save each epoch so that another process can resume from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from petechia.core.runtime import Runtime
from petechia.core.task import Task
from petechia.core.version import __version__
from petechia.data.dataset import Images
from petechia.models.feeding import Feed
from petechia.models.model import Model, create
from petechia.models.scoring import Predictor, predict
from petechia.models.training import EpochLog, Labelled, Trainer
from petechia.study.config import Config
from petechia.study.directory import NetworkFiles, read_arrays, read_state, write_arrays, write_state
from petechia.study.progress import StudyProgress

LOGGER = logging.getLogger(__name__)
TRAINING_WORK = 4.0  # cost of training on one image, relative to a prediction
CLEAN, TRIGGERED = "clean", "triggered"  # names of the score arrays


@dataclass(frozen=True)
class Recipe:
    """How a network is made, and which images it is tested on.

    Attributes:
        name: display name.
        config: architecture, geometry and training.
        seed: seed of the initial weights and of the order of the images.
        classes: names of the K classes.
        task: whether the classes exclude each other.
        data: training images with their labels.
        validation: images that the victim holds out.
        clean: test images.
        triggered: name → the same test images with a trigger.
    """

    name: str
    config: Config
    seed: int
    classes: tuple[str, ...]
    task: Task
    data: Labelled
    validation: Labelled | None
    clean: Images
    triggered: Mapping[str, Images]

    @property
    def work(self) -> float:
        """Cost of one epoch, in predictions."""
        return epoch_work(len(self.data.images), len(self.clean), len(self.triggered))


def epoch_work(train: int, test: int, triggered: int) -> float:
    """Return the cost of one epoch: training images, and test images once clean and once for every trigger."""
    return train * TRAINING_WORK + (1 + triggered) * test


class Seconds(NamedTuple):
    """Time spent on a network: training, scoring the test images, and writing files."""

    train: float = 0
    score: float = 0
    save: float = 0


class History(NamedTuple):
    """The finished epochs of a network."""

    logs: tuple[EpochLog, ...] = ()
    seconds: Seconds = Seconds()
    finished: bool = False


def read_history(files: NetworkFiles) -> History:
    """Read the saved epochs of a network; empty if nothing was saved.

    Raises:
        PetechiaError: the saved state is damaged.
    """
    if not files.state.is_file():
        return History()
    _, saved = read_state(files.state)
    return History(tuple(EpochLog(**log) for log in saved["logs"]), Seconds(*saved["seconds"]), saved["finished"])


def train_network(
    recipe: Recipe, files: NetworkFiles, runtime: Runtime, progress: StudyProgress, after: Callable[[EpochLog, bool], None]
) -> History:
    """Train, score and save; resume after the last saved epoch. Under several processes, only the first one saves.

    Args:
        recipe: what to train.
        files: where epochs are saved and resumed from.
        runtime: device, precision and processes.
        progress: receives all events.
        after: called with the log of every saved epoch, and whether the epoch is new.

    Raises:
        PetechiaError: the loss is not finite, or a file is damaged.
    """
    history = read_history(files)
    LOGGER.info("network %s: %d of %d epochs are saved", recipe.name, len(history.logs), recipe.config.train.epochs)
    for log in history.logs:
        _score_what_is_missing(recipe, files, log.epoch, runtime, progress)
        after(log, False)
    progress.expect(-len(history.logs) * recipe.work)
    if history.finished:
        progress.expect(-(recipe.config.train.epochs - len(history.logs)) * recipe.work)
        return history
    trainer = _trainer(recipe, files, runtime)
    predictor = Predictor(trainer.model, runtime)
    images = {CLEAN: recipe.clean, **recipe.triggered}
    sets = {kind: Feed(some, runtime, among=len(images)) for kind, some in images.items()}
    while not trainer.finished:
        name = f"{recipe.name}, epoch {trainer.epoch + 1}/{recipe.config.train.epochs}"
        progress.phase(f"training {name}", len(recipe.data.images), TRAINING_WORK)
        log = trainer.run_epoch(progress)
        began = time.perf_counter()
        progress.phase(f"scoring {name}", (1 + len(recipe.triggered)) * len(recipe.clean), 1)
        scores = {kind: predictor(feed, progress) for kind, feed in sets.items()}
        scored = time.perf_counter()
        if runtime.is_main:
            write_arrays(files.scores_of(log.epoch), scores)
            _save_model(recipe, trainer, files)
        train, score, save = history.seconds
        seconds = Seconds(train + log.seconds, score + scored - began, save + time.perf_counter() - scored)
        history = History((*history.logs, log), seconds, trainer.finished)
        if runtime.is_main:
            _save_state(trainer, history, files)
        after(log, True)
    return history


def _trainer(recipe: Recipe, files: NetworkFiles, runtime: Runtime) -> Trainer:
    config = recipe.config
    model = create(config.model, recipe.classes, config.preprocess, recipe.seed, recipe.task)
    trainer = Trainer(model, recipe.data, config.train, runtime, recipe.seed, recipe.validation)
    if files.state.is_file():
        tensors, saved = read_state(files.state)
        trainer.restore(tensors, saved["trainer"])
        model.network.load_state_dict(Model.load(files.checkpoint(trainer.epoch)).network.state_dict())
    return trainer


def _score_what_is_missing(recipe: Recipe, files: NetworkFiles, epoch: int, runtime: Runtime, progress: StudyProgress) -> None:
    """Score a finished network on triggers that it has not been scored on yet."""
    scores = read_arrays(files.scores_of(epoch))
    missing = {name: images for name, images in recipe.triggered.items() if name not in scores}
    if not missing:
        return
    progress.phase(f"scoring {recipe.name}, epoch {epoch}", len(missing) * len(recipe.clean))
    model = runtime.to_device(Model.load(files.checkpoint(epoch)))
    scores |= {name: predict(model, images, runtime, progress) for name, images in missing.items()}
    if runtime.is_main:
        write_arrays(files.scores_of(epoch), scores)


def _save_model(recipe: Recipe, trainer: Trainer, files: NetworkFiles) -> None:
    # The description in a model file must not help a detector, so it states neither the arm nor the attack.
    provenance = {
        "made_by": f"petechia {__version__}",
        "data": recipe.config.data,
        "seed": recipe.seed,
        "epoch": trainer.epoch,
    }
    trainer.model.description = trainer.model.description.model_copy(update={"provenance": provenance})
    trainer.model.save(files.checkpoint(trainer.epoch))


def _save_state(trainer: Trainer, history: History, files: NetworkFiles) -> None:
    tensors, plain = trainer.state()
    logs = [log._asdict() for log in history.logs]
    state = {"trainer": plain, "logs": logs, "seconds": history.seconds, "finished": history.finished}
    write_state(files.state, {} if history.finished else tensors, state)  # no epoch follows, so the optimiser is not needed
