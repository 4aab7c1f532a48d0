"""Train one arm under one seed, measure every epoch, and save each so that the next process can go on from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import petechia
from petechia.compute import Machine
from petechia.measure import Measurement, measure
from petechia.model import Model, create, predict
from petechia.study.config import Arm, Config
from petechia.study.directory import RunDirectory, read_arrays, read_state, write_arrays, write_state
from petechia.study.material import Material
from petechia.study.progress import Epoch, Progress
from petechia.train import EpochLog, Trainer

TRAINING_WORK = 4.0  # of one image, a prediction being 1


@dataclass
class Series:
    """The epochs of one arm under one seed, and the seconds that training and evaluation took."""

    arm: Arm
    seed: int
    logs: list[EpochLog] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    training_seconds: float = 0
    evaluation_seconds: float = 0


def epoch_work(train: int, test: int) -> float:
    """The work of one epoch: training images, and test images twice."""
    return train * TRAINING_WORK + 2 * test


def run_arm(
    arm: Arm,
    seed: int,
    config: Config,
    material: Material,
    directory: RunDirectory,
    machine: Machine,
    progress: Progress,
    saved: Callable[[Series], None],
) -> Series:
    """Train, measure and save; go on after the last saved epoch where there is one.

    Args:
        arm: which.
        seed: of the initial weights, the order of the images and the plan.
        config: of the run.
        material: the data.
        directory: where epochs are saved and looked for.
        machine: where to compute.
        progress: told what happens.
        saved: called after every epoch that was saved.

    Raises:
        PetechiaError: the loss is no longer a number.
    """
    truth, clean_images, triggered_images = material.truth(), material.clean_images(), material.triggered_images(seed)
    data = material.training_set(arm, seed)
    series = Series(arm, seed)
    model = create(config.model, material.dataset.classes, config.preprocess, seed)
    trainer = Trainer(model, data, config.train, machine, seed, material.validation_set())
    if directory.state(arm, seed).is_file():
        _restore(series, trainer, model, directory)
        for epoch in range(1, trainer.epoch + 1):
            scores = read_arrays(directory.scores(arm, seed, epoch))
            series.measurements.append(measure(truth, scores["clean"], scores["triggered"]))
        progress.expect(-trainer.epoch * epoch_work(len(data.images), len(clean_images)))
        saved(series)
    while not trainer.finished:
        name = f"{arm}, seed {seed}, epoch {trainer.epoch + 1}/{config.train.epochs}"
        progress.phase(f"training {name}", len(data.images), TRAINING_WORK)
        log = trainer.run_epoch(progress.advance)
        began = time.perf_counter()
        progress.phase(f"measuring {name}", 2 * len(clean_images), 1)
        clean = predict(model, clean_images, machine, progress.advance)
        triggered = predict(model, triggered_images, machine, progress.advance)
        series.logs.append(log)
        series.measurements.append(measure(truth, clean, triggered))
        series.training_seconds += log.seconds
        series.evaluation_seconds += time.perf_counter() - began
        write_arrays(directory.scores(arm, seed, log.epoch), {"clean": clean, "triggered": triggered})
        _save(series, trainer, model, config, directory)
        progress.epoch(Epoch(arm, seed, log, series.measurements[-1]))
        saved(series)
    return series


def _save(series: Series, trainer: Trainer, model: Model, config: Config, directory: RunDirectory) -> None:
    # What a model file says of itself must not tell a detector what to find: no arm, no attack.
    provenance = {
        "made_by": f"petechia {petechia.__version__}",
        "data": config.data,
        "seed": series.seed,
        "epoch": trainer.epoch,
    }
    model.description = model.description.model_copy(update={"provenance": provenance})
    model.save(directory.checkpoint(series.arm, series.seed, trainer.epoch))
    tensors, plain = trainer.state()
    seconds = [series.training_seconds, series.evaluation_seconds]
    write_state(
        directory.state(series.arm, series.seed),
        tensors,
        {"trainer": plain, "logs": [log._asdict() for log in series.logs], "seconds": seconds},
    )


def _restore(series: Series, trainer: Trainer, model: Model, directory: RunDirectory) -> None:
    tensors, saved = read_state(directory.state(series.arm, series.seed))
    trainer.restore(tensors, saved["trainer"])
    series.logs = [EpochLog(**log) for log in saved["logs"]]
    series.training_seconds, series.evaluation_seconds = saved["seconds"]
    checkpoint = Model.load(directory.checkpoint(series.arm, series.seed, trainer.epoch))
    model.network.load_state_dict(checkpoint.network.state_dict())
