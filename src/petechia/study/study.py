"""A study: many runs that share networks and can be resumed one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import polars as pl
from pydantic import PrivateAttr

from petechia.attack import TriggeredSelection
from petechia.core.errors import PetechiaError, printable, shown
from petechia.core.files import link_file, locked, refuse_links, refuse_unwritable, write_bytes
from petechia.core.results import Result
from petechia.core.spreadsheets import to_csv
from petechia.data.shards import ReadShards, on_this_machine
from petechia.measure import measure
from petechia.models.training import EpochLog
from petechia.study.config import Config, make_config
from petechia.study.directory import (
    NetworkFiles,
    RunDirectory,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
    write_table,
)
from petechia.study.grid import NetworkTask, Runs, add_tasks
from petechia.study.networks import CLEAN, TRIGGERED, read_history, train_network
from petechia.study.progress import Epoch, StudyProgress
from petechia.study.result import Run
from petechia.study.run_data import apply_attack, load_run_data
from petechia.study.runner import run


@dataclass(frozen=True)
class StudyDirectory:
    """The files of a study."""

    path: Path

    @property
    def study(self) -> Path:
        """Name and configuration of every run."""
        return self.path / "study.json"

    @property
    def results(self) -> Path:
        """The summaries of all finished runs as a tidy table; a CSV copy lies beside it."""
        return self.path / "results.parquet"

    @property
    def failures(self) -> Path:
        """Name of a run → reason why it failed."""
        return self.path / "failures.json"

    def run(self, name: str) -> RunDirectory:
        """Return the directory of a run."""
        return RunDirectory(self.path / "runs" / name)

    def network(self, key: str) -> NetworkFiles:
        """Return the files of a network, which several runs can share."""
        folder = self.path / "networks" / key
        return NetworkFiles(folder, folder / "scores")

    @property
    def exists(self) -> bool:
        """Whether the folder contains a study."""
        return self.study.is_file()

    @property
    def run_is_here(self) -> bool:
        """Whether the folder itself is that of a single run."""
        return RunDirectory(self.path).exists

    def runs(self) -> Runs:
        """Return the runs of the study in the folder.

        Raises:
            PetechiaError: there is no study, its file is damaged, or its folder holds a link.
        """
        if not self.exists:
            raise PetechiaError(f"{self.path} holds no study; give the --out folder of an existing one.")
        refuse_links(self.path)
        found = read_json(self.study)
        _check_names(found, str(self.study))
        return {name: make_config(config, f"{self.study}, run {printable(name)},") for name, config in found.items()}

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder against other processes."""
        return locked(self.path)


class TaskOutcome(NamedTuple):
    """A finished task, or the reason why it failed."""

    task: NetworkTask
    error: str | None


FAILURES = (PetechiaError, RuntimeError, MemoryError)  # of one run; torch raises RuntimeError, e.g. out of memory
Executor = Callable[[Sequence[NetworkTask], StudyDirectory, StudyProgress], Iterator[TaskOutcome]]


class Study(Result):
    """A finished study. File: study-results.json.

    Attributes:
        runs: name → finished run.
        failures: name of a run → reason why it failed.
    """

    file_name: ClassVar[str] = "study-results.json"

    runs: dict[str, Run]
    failures: dict[str, str]

    _directory: StudyDirectory = PrivateAttr()

    @property
    def directory(self) -> StudyDirectory:
        """The files of the study."""
        return self._directory

    def _overview(self) -> list[tuple[str, str]]:
        return [
            *((name, run.verdict_line()) for name, run in self.runs.items()),
            *((name, f"failed: {reason}") for name, reason in self.failures.items()),
        ]


def locally(tasks: Sequence[NetworkTask], directory: StudyDirectory, progress: StudyProgress) -> Iterator[TaskOutcome]:
    """Perform the tasks one after the other in this process."""
    for task in tasks:
        try:
            perform(task, directory.network(task.key), progress)
        except FAILURES as error:
            yield TaskOutcome(task, str(error))
        else:
            yield TaskOutcome(task, None)


def run_study(
    runs: Runs,
    directory: StudyDirectory,
    progress: StudyProgress,
    execute: Executor = locally,
    after: Callable[[Run], None] = lambda _: None,
    read: ReadShards = on_this_machine,
) -> Study:
    """Train every network that the runs need once, and finish each run as soon as its networks are ready.

    Finished work is not repeated. A run that fails does not stop the others.

    Args:
        runs: runs of the study; they are added to those already in the directory.
        directory: directory of the study.
        progress: receives all events.
        execute: performs the tasks, in this process or elsewhere.
        after: called with every finished run, including those finished earlier.
        read: where images are prepared before the tasks are dealt out.

    Raises:
        PetechiaError: the directory contains a run of the same name with other settings, or another process is using it.
    """
    refuse_unwritable(directory.path)
    with directory.locked():
        _begin(runs, directory)
        done = {name: Run.read(directory.run(name)) for name in runs if _is_done(directory, name)}
        for finished in done.values():
            after(finished)
        failures: dict[str, str] = {}
        tasks = _plan({name: config for name, config in runs.items() if name not in done}, failures, progress, read)
        progress.expect(sum(task.work for task in tasks.values()))
        waiting = {name: [task for task in tasks.values() if name in _names(task)] for name in runs if name not in done}
        for outcome in execute(list(tasks.values()), directory, progress):
            for name in _names(outcome.task):
                if outcome.error:
                    failures.setdefault(name, outcome.error)
                waiting[name].remove(outcome.task)
                if not waiting[name] and name not in failures:
                    done[name] = _finish(name, runs[name], tasks, directory)
                    after(done[name])
                    progress.finished(name)
            _write_results(directory, done, failures)
        _write_results(directory, done, failures)
        study = Study(runs={name: done[name] for name in runs if name in done}, failures=failures)
        study._directory = directory
        return study


def perform(task: NetworkTask, files: NetworkFiles, progress: StudyProgress) -> None:
    """Train the network of a task and score every requested test set; resume where the task was left.

    Raises:
        PetechiaError: the data do not suit the task, the loss is not finite, or the files belong to another network.
    """
    with locked(files.checkpoints, patience=60):  # a worker of a dead driver may still be writing its last file
        _perform(task, files, progress)


def _perform(task: NetworkTask, files: NetworkFiles, progress: StudyProgress) -> None:
    _claim(task, files)
    config = task.config.model_copy(update={"seeds": (task.seed,), "bootstrap": 20})  # only for display: the runs measure again
    runtime = config.compute.start()
    run_data = load_run_data(config, progress)
    every = np.ones(len(run_data.test), bool)
    triggered = {}
    for digest, attacker in task.triggered.items():
        triggered_inputs = apply_attack(attacker, run_data.catalog, run_data.dataset, task.seed, progress).triggered_inputs
        triggered[digest] = TriggeredSelection(run_data.dataset.images, run_data.test, every, triggered_inputs)
    recipe = replace(run_data.recipe(task.arm, task.seed, task.config), name=task.name, triggered=triggered)
    name, _, shown = task.needed_by[0]

    def after(log: EpochLog, new: bool) -> None:
        if new:
            scores = read_arrays(files.scores_of(log.epoch))
            values = measure(run_data.truth(), scores[CLEAN], scores[shown]).values
            progress.epoch(Epoch(task.arm, task.seed, log, values, name))

    train_network(recipe, files, runtime, progress, after)


def _check_names(names: Iterable[str], where: str) -> None:
    for name in names:
        if not re.fullmatch(r"[\w=-][\w.=-]{,200}", name):
            raise PetechiaError(f"{where} has a run {shown(name)}, which is not a valid folder name; correct it.")


def _begin(runs: Runs, directory: StudyDirectory) -> None:
    _check_names(runs, "The study")
    found = directory.runs() if directory.exists else {}
    for name, config in runs.items():
        if name in found and (config := config.with_defaults_from(found[name])) != found[name]:
            differs = [key for key in Config.model_fields if getattr(config, key) != getattr(found[name], key)]
            raise PetechiaError(
                f"The study in {directory.path} has a run {name} with another {' and '.join(differs)}; choose another --out."
            )
    everything = found | runs | found  # existing runs keep their configuration
    if everything != found:
        write_json(directory.study, {name: config.model_dump(mode="json") for name, config in everything.items()})


def _is_done(directory: StudyDirectory, name: str) -> bool:
    return directory.run(name).summary.is_file()


def _plan(runs: Runs, failures: dict[str, str], progress: StudyProgress, read: ReadShards) -> dict[str, NetworkTask]:
    """Return the networks that are needed. A run whose data or attack is not usable fails here, alone."""
    tasks: dict[str, NetworkTask] = {}
    for name, config in runs.items():
        try:
            run_data = load_run_data(config, progress, read)
            add_tasks(tasks, name, run_data.resolved(config), run_data)
        except FAILURES as error:
            failures[name] = str(error)
    return tasks


def _names(task: NetworkTask) -> list[str]:
    return list(dict.fromkeys(name for name, _, _ in task.needed_by))


def _claim(task: NetworkTask, files: NetworkFiles) -> None:
    """Make sure that the folder belongs to this network."""
    label = files.checkpoints / "network.json"
    wanted = {"key": task.key, "classes_and_training": task.config.model_dump(mode="json", include={"model", "train", "data"})}
    if label.is_file():
        if read_json(label) != wanted:
            raise PetechiaError(f"{files.checkpoints} holds a network of another study; remove it, or choose another --out.")
    elif files.state.is_file():
        raise PetechiaError(f"{files.checkpoints} does not say whose network it holds; remove it, or choose another --out.")
    else:
        write_json(label, wanted)


def _finish(name: str, config: Config, tasks: dict[str, NetworkTask], directory: StudyDirectory) -> Run:
    """Give a run its networks and scores, and let it measure and summarise them."""
    target = directory.run(name)
    for task in tasks.values():
        for needed_by, arm, images in task.needed_by:
            if needed_by == name:
                _hand_over(directory.network(task.key), target.network(arm, task.seed), images)
    return run(config, target, resume=True, progress=StudyProgress())


def _hand_over(source: NetworkFiles, target: NetworkFiles, images: str) -> None:
    for log in read_history(source).logs:
        link_file(source.checkpoint(log.epoch), target.checkpoint(log.epoch))
        scores = read_arrays(source.scores_of(log.epoch))
        write_arrays(target.scores_of(log.epoch), {CLEAN: scores[CLEAN], TRIGGERED: scores[images]})
    link_file(source.state, target.state)


def _write_results(directory: StudyDirectory, done: dict[str, Run], failures: dict[str, str]) -> None:
    write_json(directory.failures, failures)
    rows: list[dict[str, Any]] = []
    for name, one in done.items():
        content = one.to_dict()
        survival = content["survival"]
        for arm, metrics in content["arms"].items():
            for metric, statistics in metrics.items():
                for statistic, numbers in statistics.items():
                    about = {"run": name, "arm": arm, "metric": metric, "statistic": statistic}
                    rows.append({**about, **numbers, "survival": survival["fraction"], "surviving_pixels": survival["pixels"]})
    if rows:
        table = pl.DataFrame(rows, infer_schema_length=None)
        write_table(directory.results, table)
        write_bytes(directory.results.with_suffix(".csv"), to_csv(table))
