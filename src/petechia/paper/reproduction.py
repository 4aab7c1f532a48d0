"""Reproduces tables and figures of the paper, given their names."""

from __future__ import annotations

from collections.abc import Sequence

from petechia.core.errors import PetechiaError
from petechia.data.shards import ReadShards, on_this_machine
from petechia.models.model import create
from petechia.paper.page import Reproduction, write_reproduction
from petechia.paper.parts import Part, load_design, runs_of
from petechia.paper.results import Results
from petechia.study.config import Config
from petechia.study.grid import Runs
from petechia.study.progress import StudyProgress
from petechia.study.study import Executor, StudyDirectory, locally, run_study


def reproduce(
    parts: Sequence[Part],
    preset: str,
    data: str | None,
    overrides: list[str],
    directory: StudyDirectory,
    progress: StudyProgress,
    execute: Executor = locally,
    read: ReadShards = on_this_machine,
) -> Reproduction:
    """Train the missing runs of the parts, then make tables and figures and, if all parts are given, check the claims.

    Args:
        parts: parts of the paper.
        preset: "desk" or "paper".
        data: data source that replaces the preset's.
        overrides: KEY=VALUE settings for all runs.
        directory: directory of the study; finished work in it is not repeated.
        progress: receives all events.
        execute: trains the networks.
        read: where images are prepared.

    Raises:
        PetechiaError: the configuration or the directory is not suitable, or no run could be finished.
    """
    design = load_design(preset)
    runs = _with_weights_that_can_be_had(runs_of(parts, design, data, overrides), directory, progress)
    study = run_study(runs, directory, progress, execute, read=read)
    for name, reason in study.failures.items():
        progress.note(f"The run {name} failed: {reason}")
    if not study.runs:
        raise PetechiaError(f"No run could be finished; the first one failed with: {next(iter(study.failures.values()))}")
    with directory.locked():
        return write_reproduction(Results(directory, design, study.runs, study.failures), parts, preset, progress)


def _with_weights_that_can_be_had(runs: Runs, directory: StudyDirectory, progress: StudyProgress) -> Runs:
    """Start from random weights, with a note, if ImageNet weights cannot be downloaded."""
    if not any(config.model.pretrained is True for config in runs.values()):
        return runs
    found = directory.runs() if directory.exists else {}
    earlier = [found[name].model.pretrained for name in runs if name in found]
    try:
        if False in earlier:
            raise PetechiaError("this study was begun without ImageNet weights")
        config = next(iter(runs.values()))
        progress.phase("fetching ImageNet weights", 0)
        create(config.model, ("any",), config.preprocess, seed=0)
    except PetechiaError as error:
        progress.note(f"Training starts from random weights, not from ImageNet's as in the paper: {error}")
        return {name: _untrained(config) for name, config in runs.items()}
    return runs


def _untrained(config: Config) -> Config:
    return config.with_values({"model.pretrained": False})
