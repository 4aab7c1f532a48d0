"""The Python interface: the commands as functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petechia.attack import PoisonPlan
from petechia.attack.export import check_export, write_poisoned
from petechia.files import write_text
from petechia.report import build_report
from petechia.study import Config, Progress, Run, RunDirectory, free_directory
from petechia.study import run as run_study
from petechia.study.config import make_config
from petechia.study.material import read_data


def run(
    config: Config | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Mount an attack, train every arm, measure it and write the run directory with its report.

    Args:
        config: a configuration, or a nested mapping of the keys that differ from the defaults, as in
            `{"data": "nih:/data/ChestX-ray14", "attack": {"rate": 0.1}}`.
        out: the run directory; a new one below runs/ where it is not given.
        resume: go on with the run in `out`, if there is one.
        progress: told what happens.

    Raises:
        PetechiaError: something in the configuration, the data or the run directory does not allow it.
    """
    wanted = None if config is None else _config(config)
    directory = RunDirectory(Path(out)) if out else free_directory(wanted or Config())
    finished = run_study(wanted, directory, resume, progress or Progress())
    if not finished.directory.report.is_file():
        write_text(finished.directory.report, build_report(finished.directory))
    return finished


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
    tell = progress or Progress()
    settings = _config(config)
    check_export(settings.attack, Path(out))
    dataset, catalog = read_data(settings, tell)
    plan = settings.attack.plan(dataset, settings.preprocess, seed)
    tell.phase("writing images", len(plan.ids) + int((dataset.split != "train").sum()))
    write_poisoned(catalog, settings.attack, plan, Path(out), tell.advance)
    return plan


def _config(given: Config | Mapping[str, Any]) -> Config:
    return given if isinstance(given, Config) else make_config(given, "the configuration")
