"""The Python interface: the commands as functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petechia.attack import PoisonPlan
from petechia.attack.export import check_export, write_poisoned
from petechia.core.errors import PetechiaError
from petechia.core.files import write_text
from petechia.core.processes import ProcessInfo
from petechia.core.progress import Progress
from petechia.paper import PARTS, Part, Reproduction
from petechia.paper import reproduce as reproduce_paper
from petechia.reports import build_report
from petechia.study import Config, Run, RunDirectory, free_directory
from petechia.study import run as execute_run
from petechia.study.config import make_config
from petechia.study.grid import expand
from petechia.study.progress import StudyProgress
from petechia.study.run_data import read_data
from petechia.study.study import Executor, Study, StudyDirectory, locally
from petechia.study.study import run_study as execute_study
from petechia.tracking import Tracker


def run(
    config: Config | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    track: str | None = None,
) -> Run:
    """Mount an attack, train every arm, measure it and write the run directory with its report.

    Args:
        config: a configuration, or a nested mapping of the keys that differ from the defaults, as in
            `{"data": "nih:/data/ChestX-ray14", "attack": {"rate": 0.1}}`.
        out: the run directory; a new one below runs/ where it is not given.
        resume: go on with the run in `out`, if there is one.
        progress: told what happens.
        track: where to record the run, as in "mlflow:sqlite:///mlflow.db".

    Raises:
        PetechiaError: something in the configuration, the data or the run directory does not allow it.
    """
    wanted = None if config is None else _config(config)
    if wanted is not None and wanted.grid:
        raise PetechiaError("The configuration has a grid, which makes a study of it; use petechia.run_study.")
    directory = RunDirectory(Path(out)) if out else free_directory(wanted or Config())
    tracker = _tracker(track)
    finished = execute_run(wanted, directory, resume, StudyProgress.of(progress))
    if not ProcessInfo.of_this_process().is_main:
        return finished
    _report(finished)
    if tracker:
        tracker.record(finished, finished.directory.path.name)
    return finished


def run_study(
    config: Config | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    ray: str | None = None,
    track: str | None = None,
) -> Study:
    """Run a grid: one run for every combination of its values. Networks that come out the same are trained once.

    Args:
        config: as for `run`, with a grid, as in `{"grid": {"attack.trigger.size": [1, 2, 3, 4]}}`; None goes on with the runs
            that `out` holds.
        out: the study's directory; a new one below runs/ where it is not given.
        resume: go on with the study in `out`, if there is one; its finished runs stay as they are.
        progress: told what happens.
        ray: where networks are trained: None is this process, "auto" a Ray cluster that is found or started here, else the
            address of one.
        track: as for `run`; the runs stand below one parent.

    Raises:
        PetechiaError: the configuration, the directory or the cluster does not allow it. A run that fails raises nothing: see
            `Study.failures`.
    """
    _refuse_torchrun()
    wanted = None if config is None else _config(config)
    directory = StudyDirectory(Path(out) if out else free_directory(wanted or Config()).path)
    if directory.run_is_here:
        raise PetechiaError(f"{directory.path} holds a single run, not a study; choose another --out.")
    if directory.exists and not resume:
        raise PetechiaError(f"{directory.path} already holds a study; add --resume to go on with it, or choose another --out.")
    runs = directory.runs() if wanted is None else expand(wanted)
    tracker = _tracker(track)
    study = execute_study(runs, directory, StudyProgress.of(progress), executor(ray), _report)
    if tracker:
        tracker.record_study(directory.path, study.runs)
    return study


def reproduce(
    parts: Sequence[Part] = PARTS,
    preset: str = "desk",
    data: str | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    progress: Progress | None = None,
    ray: str | None = None,
    track: str | None = None,
) -> Reproduction:
    """Make the paper's tables, figures and claims on any data, from as many runs as they need.

    Args:
        parts: "table-1", "table-2", "table-3", "figure-1", "figure-3"; the claims are checked when all are asked for.
        preset: "desk" for two cores, "paper" for the authors' pipeline.
        data: a source that replaces the preset's.
        overrides: KEY=VALUE for all runs.
        out: the study's directory, else runs/reproduce-PRESET; what it holds already is not done again.
        progress: told what happens.
        ray: as for `run_study`.
        track: as for `run_study`.

    Raises:
        PetechiaError: as `run_study`, or no run could be finished.
    """
    _refuse_torchrun()
    directory = StudyDirectory(Path(out) if out else Path("runs") / f"reproduce-{preset}")
    tracker = _tracker(track)
    made = reproduce_paper(parts, preset, data, list(overrides), directory, StudyProgress.of(progress), executor(ray))
    if tracker:
        tracker.record_study(directory.path, made.runs)
    return made


def _report(finished: Run) -> None:
    if not finished.directory.report.is_file():
        write_text(finished.directory.report, build_report(finished.directory))


def executor(ray: str | None) -> Executor:
    """Where the networks of a study are trained: in this process, or on a Ray cluster."""
    if ray is None:
        return locally
    from petechia.study.cluster import on_ray

    return on_ray(ray)


def _refuse_torchrun() -> None:
    if ProcessInfo.of_this_process().world_size > 1:
        raise PetechiaError("torchrun shares one training among processes; the runs of a study are shared out with --ray.")


def _tracker(track: str | None) -> Tracker | None:
    return Tracker(track) if track else None


def poison(config: Config | Mapping[str, Any], out: str | Path, seed: int = 0, progress: Progress | None = None) -> PoisonPlan:
    """Write a poisoned copy of a dataset, in its own layout and with the plan, for any other trainer.

    Args:
        config: as for `run`; its data, geometry and attack matter.
        out: a new folder.
        seed: of the choice of images and places.
        progress: told what happens.

    Raises:
        PetechiaError: as `run`, or `out` exists.
    """
    heard = StudyProgress.of(progress)
    settings = _config(config)
    check_export(settings.attack, Path(out))
    dataset, catalog = read_data(settings, heard, colours=True)
    plan = settings.attack.plan(dataset, settings.preprocess, seed)
    heard.phase("writing images", len(plan.ids) + int((dataset.split != "train").sum()))
    write_poisoned(catalog, settings.attack, plan, Path(out), heard)
    return plan


def _config(given: Config | Mapping[str, Any]) -> Config:
    return given if isinstance(given, Config) else make_config(given, "the configuration")
