"""Run the main job: poison, train every arm, measure every epoch, summarise."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import timm
import torch

from petechia.attack import Survival, probe_survival, survival_of
from petechia.core.errors import PetechiaError
from petechia.core.files import refuse_links, refuse_unwritable, write_text
from petechia.core.runtime import Runtime
from petechia.core.version import __version__
from petechia.data.shards import ReadShards, on_this_machine
from petechia.measure import Measurement, measure, summarize
from petechia.models.model import create
from petechia.models.training import EpochLog
from petechia.study.config import Arm, Config
from petechia.study.directory import RunDirectory, read_arrays, read_table, write_arrays, write_table
from petechia.study.heat import measure_heat
from petechia.study.networks import CLEAN, TRIGGERED, Recipe, Seconds, train_network
from petechia.study.progress import Epoch, StudyProgress
from petechia.study.result import ImageCounts, Metric, Run, RunSurvival, SizeSurvival, TrainSurvival
from petechia.study.run_data import RunData, load_run_data

EXAMPLES = 4  # number of images saved for the report
METRICS_SCHEMA = pl.Schema(
    {
        "seed": pl.Int64,
        "arm": pl.String,
        "epoch": pl.Int64,
        "metric": pl.String,
        "class": pl.String,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
    }
)


def run(
    wanted: Config | None,
    directory: RunDirectory,
    resume: bool,
    progress: StudyProgress,
    read: ReadShards = on_this_machine,
) -> Run:
    """Run everything except the report.

    Under torchrun, every process trains its share of each batch; the first one prepares, measures, writes and reports.

    Args:
        wanted: configuration; None for the one in the directory or, if there is none, the defaults.
        directory: directory of the run.
        resume: whether to resume a run in the directory.
        progress: receives all events.
        read: where images are prepared.

    Raises:
        PetechiaError: as for `petechia.run`.
    """
    settings = _settings(directory, wanted, resume)
    if directory.summary.is_file():
        return Run.read(directory)

    began = time.perf_counter()
    runtime = settings.compute.start()
    if not runtime.is_main:
        progress = StudyProgress()
    create(settings.model, ("any",), settings.preprocess, seed=0)  # an invalid model fails before hours of decoding
    with runtime.main_first():
        run_data = load_run_data(settings, progress, read)
    settings = run_data.resolved(settings)
    prepare_seconds = time.perf_counter() - began
    survival = _survival(settings, run_data)
    progress.note(survival_words(survival))
    with directory.locked() if runtime.is_main else nullcontext():
        if runtime.is_main:
            if directory.exists and not resume:  # another process was quicker
                raise PetechiaError(f"{directory.path} already holds a run; choose another --out.")
            _open(directory, settings, run_data, runtime)
        series = _train_all(directory, settings, run_data, runtime, progress)
        if runtime.is_main:
            trained = time.perf_counter()
            measure_heat(directory, settings, run_data, runtime, progress)
            seconds = _seconds(prepare_seconds, series, time.perf_counter() - trained)
            write_text(directory.summary, _summarize(settings, run_data, series, survival, seconds).to_json())
        runtime.barrier()
    return Run.read(directory)


def free_directory(config: Config) -> RunDirectory:
    """Return the first of runs/KIND-1, runs/KIND-2 … that does not exist; KIND is the kind of the data source."""
    kind = config.data.partition(":")[0]
    paths = (Path("runs") / f"{kind}-{n}" for n in count(1))
    return RunDirectory(next(path for path in paths if not os.path.lexists(path)))


def _settings(directory: RunDirectory, wanted: Config | None, resume: bool) -> Config:
    """Return the configuration, from the caller or from the run that is resumed."""
    if not directory.summary.is_file():  # a finished run is only read
        refuse_unwritable(directory.path)
    refuse_links(directory.path)
    if not directory.exists:
        if resume and wanted is None:
            raise PetechiaError(f"{directory.path} holds no run to resume; give the --out folder of an existing one.")
        return wanted or Config()
    if not resume:
        raise PetechiaError(f"{directory.path} already holds a run; add --resume to continue it, or choose another --out.")
    found = directory.config()
    if wanted is not None and (wanted := wanted.with_defaults_from(found)) != found:
        differs = [key for key in Config.model_fields if getattr(wanted, key) != getattr(found, key)]
        raise PetechiaError(
            f"The run in {directory.path} was started with another {' and '.join(differs)}; "
            f"resume it without settings, or choose another --out."
        )
    return found


def _open(directory: RunDirectory, settings: Config, run_data: RunData, runtime: Runtime) -> None:
    """Write the files that exist before training; if they exist already, check them.

    Raises:
        PetechiaError: the data differ from those that the run was started with.
    """
    plan = pl.concat(
        run_data.attacks[seed].plan.table().insert_column(0, pl.lit(seed, pl.Int64).alias("seed")) for seed in settings.seeds
    )
    if directory.exists:
        if not plan.equals(read_table(directory.plan)):
            raise PetechiaError(f"{settings.data} has changed since the run in {directory.path} began; start a new run.")
        return
    write_table(directory.plan, plan)
    write_table(directory.test, run_data.test_table(settings.seeds))
    write_arrays(directory.examples, _examples(run_data, settings.seeds[0]))
    directory.start(settings, _environment(runtime))


def _examples(run_data: RunData, seed: int) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return clean and triggered inputs of a few test images without the target class, spread over the test set."""
    rows = run_data.without_target(EXAMPLES)
    return {"clean": run_data.clean_images()[rows], "triggered": run_data.triggered_images(seed)[rows]}


def _environment(runtime: Runtime) -> dict[str, Any]:
    versions = {
        "petechia": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }
    return {"machine": str(runtime), "platform": platform.platform(), "python": platform.python_version(), **versions}


@dataclass
class Series:
    """The measured epochs of one arm under one seed."""

    arm: Arm
    seed: int
    logs: list[EpochLog] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    seconds: Seconds = field(default_factory=Seconds)
    measuring_seconds: float = 0


def _train_all(
    directory: RunDirectory, settings: Config, run_data: RunData, runtime: Runtime, progress: StudyProgress
) -> list[Series]:
    recipes = {(arm, seed): run_data.recipe(arm, seed, settings) for seed in settings.seeds for arm in settings.arms}
    progress.expect(settings.train.epochs * sum(recipe.work for recipe in recipes.values()))
    series: list[Series] = []
    for (arm, seed), recipe in recipes.items():
        series.append(Series(arm, seed))
        _train_one(recipe, series, directory, run_data, runtime, progress)
    if runtime.is_main:
        write_table(directory.metrics, _metrics(run_data.dataset.classes, series))
    return series


def _train_one(
    recipe: Recipe, series: list[Series], directory: RunDirectory, run_data: RunData, runtime: Runtime, progress: StudyProgress
) -> None:
    """Train and measure the last arm and seed in `series`."""
    one, truth = series[-1], run_data.truth()
    files = directory.network(one.arm, one.seed)

    def after(log: EpochLog, new: bool) -> None:
        if not runtime.is_main:
            return
        began = time.perf_counter()
        scores = read_arrays(files.scores_of(log.epoch))
        one.logs.append(log)
        one.measurements.append(measure(truth, scores[CLEAN], scores[TRIGGERED]))
        if new:
            write_table(directory.metrics, _metrics(run_data.dataset.classes, series))
            progress.epoch(Epoch(one.arm, one.seed, log, one.measurements[-1].values))
        one.measuring_seconds += time.perf_counter() - began

    one.seconds = train_network(recipe, files, runtime, progress, after).seconds


def _metrics(classes: tuple[str, ...], series: Sequence[Series]) -> pl.DataFrame:
    """Return the metrics as a tidy table: seed, arm, epoch, metric, class (null for all together), value, low, high."""
    rows: list[tuple[Any, ...]] = []
    for one in series:
        for log, measurement in zip(one.logs, one.measurements, strict=True):
            where = (one.seed, one.arm, log.epoch)
            rows.append((*where, "loss", None, log.loss, None, None))
            if log.validation_loss is not None:
                rows.append((*where, "validation_loss", None, log.validation_loss, None, None))
            rows += [(*where, name, None, value, *measurement.interval(name)) for name, value in measurement.values.items()]
            for name, values in measurement.per_class.items():
                rows += [(*where, name, label, *map(float, value)) for label, value in zip(classes, values, strict=True)]
    return pl.DataFrame(rows, METRICS_SCHEMA, orient="row").with_columns(pl.col(pl.Float64).fill_nan(None))


def _summarize(
    settings: Config, run_data: RunData, series: Sequence[Series], survival: RunSurvival, seconds: dict[str, float]
) -> Run:
    arms = {arm: summarize([one.measurements for one in series if one.arm == arm]) for arm in settings.arms}
    plans = [run_data.attacks[seed].plan for seed in settings.seeds]
    images = ImageCounts(
        train=len(run_data.train),
        poisoned_train=len(plans[0].rows),
        triggered_train=int(plans[0].triggered.sum()),
        cover_train=int(plans[0].cover.sum()),
        validation=int((run_data.dataset.split == "validation").sum()),
        test=len(run_data.test),
        triggered_test=int(run_data.triggered_test.sum()),
        test_without_target=int(run_data.judged.sum()),
        native_shape=run_data.native_shape,
        test_patients=len(np.unique(run_data.dataset.patients[run_data.test])),
    )
    return Run(
        petechia=__version__,
        data=settings.data,
        target=run_data.dataset.classes[run_data.target],
        trigger=settings.attack.trigger.describe(),
        seeds=settings.seeds,
        images=images,
        arms={arm: {name: Metric.model_validate(values) for name, values in metrics.items()} for arm, metrics in arms.items()},
        survival=survival,
        seconds=seconds,
        not_read=run_data.catalog.not_read,
    )


def _survival(settings: Config, run_data: RunData) -> RunSurvival:
    """Measure survival on the triggered test images of all seeds and on the triggered training images; by size, from geometry.

    Nothing is measured if the trigger changes no pixel: preprocessing cannot remove findings.
    """
    attacks = run_data.attacks.values() if settings.attack.trigger.stamps else ()
    test = [survival_of(attack.triggered_inputs, run_data.test) for attack in attacks]
    train = [survival_of(attack.triggered_inputs, attack.plan.rows[attack.plan.triggered]) for attack in attacks]
    by_size = _survival_by_size(settings, run_data)
    fraction, pixels = _mean(test)
    left = TrainSurvival(fraction=_mean(train).fraction, pixels=_mean(train).pixels)
    return RunSurvival(fraction=fraction, pixels=pixels, train=left, by_size=by_size, applies=bool(attacks))


def survival_words(survival: RunSurvival) -> str:
    """Return survival as a sentence."""
    if not survival.applies:
        return "Trigger survival does not apply: the trigger is a combination of findings, and no pixel is changed."
    if np.isnan(survival.fraction):
        return "Trigger survival is undefined: there is no triggered image."
    return (
        f"Trigger survival: {100 * survival.fraction:.1f} % of the triggered test images differ from their clean version, "
        f"in {survival.pixels:.2f} pixels on average."
    )


def _mean(survivals: list[Survival]) -> Survival:
    fraction, pixels = np.mean(survivals, axis=0) if survivals else (np.nan, np.nan)
    return Survival(float(fraction), float(pixels) if np.isfinite(fraction) else np.nan)


def _survival_by_size(settings: Config, run_data: RunData) -> tuple[SizeSurvival, ...]:
    table = []
    for size, trigger in settings.attack.trigger.sizes().items():
        try:
            survival = probe_survival(trigger, settings.preprocess, *run_data.native_shape, settings.attack.stage)
        except PetechiaError:  # the trigger is larger than the image
            continue
        table.append(SizeSurvival(size=size, **survival._asdict()))
    return tuple(table)


def _seconds(prepare: float, series: Sequence[Series], explain: float) -> dict[str, float]:
    seconds = {
        "prepare": prepare,
        "train": sum(one.seconds.train for one in series),
        "evaluate": sum(one.seconds.score + one.measuring_seconds for one in series),
        "save": sum(one.seconds.save for one in series),
        "explain": explain,
    }
    return seconds | {"total": sum(seconds.values())}
