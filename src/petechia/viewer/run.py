"""The run that the viewer shows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from petechia.core.errors import PetechiaError
from petechia.study.config import Config
from petechia.study.directory import RunDirectory, report_damage


class ViewedRun(NamedTuple):
    """A run directory and its configuration."""

    directory: RunDirectory
    config: Config

    def trained_epochs(self) -> dict[tuple[str, int], list[int]]:
        """Arm and seed → the epochs whose models are on disk, in ascending order. Networks without any are left out."""
        found: dict[tuple[str, int], list[int]] = {}
        for seed in self.config.seeds:
            for arm in self.config.arms:
                files = self.directory.network(arm, seed).checkpoints.glob("epoch-*.safetensors")
                if epochs := sorted(int(file.stem.removeprefix("epoch-")) for file in files if file.stem[6:].isdecimal()):
                    found[arm, seed] = epochs
        return found


def open_run(path: Path) -> ViewedRun:
    """Open a run directory.

    Raises:
        PetechiaError: it holds no run, or a study of several runs.
    """
    if (path / "study.json").is_file():
        runs = sorted(one.name for one in (path / "runs").glob("*") if one.is_dir())
        hint = f"serve one of them, such as {path / 'runs' / runs[0]}" if runs else "wait for the first one, and serve that"
        raise PetechiaError(f"{path} is a study of {len(runs)} runs; {hint}.")
    directory = RunDirectory(path)
    return ViewedRun(directory, directory.config())


def reporting_damage(run: ViewedRun | None) -> AbstractContextManager[None]:
    """Turn what is wrong with the content of a run's files into one sentence; without a run, do nothing."""
    return report_damage(run.directory.path) if run else nullcontext()
