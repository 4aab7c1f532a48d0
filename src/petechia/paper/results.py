"""The results of a reproduction's finished runs, looked up by cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.measure import EPSILONS, PatientBootstrap, Truth, mixture, summarize_mixtures
from petechia.measure.summary import MixtureSummary, Numbers, Statistic
from petechia.paper.parts import Cell, Design
from petechia.study.config import Config
from petechia.study.directory import RunDirectory, read_arrays, read_table
from petechia.study.heat import Heat, read_heat
from petechia.study.networks import CLEAN, TRIGGERED
from petechia.study.result import Run
from petechia.study.run_data import truth_of
from petechia.study.study import StudyDirectory

NOTHING: Numbers = {"mean": None, "std": None, "low": None, "high": None}


@dataclass(frozen=True)
class Results:
    """The results of a reproduction.

    Attributes:
        directory: directory of its study.
        design: preset that it was made from.
        runs: name → finished run.
        failures: name of a run → reason why it failed.
    """

    directory: StudyDirectory
    design: Design
    runs: dict[str, Run]
    failures: dict[str, str]

    def summary(self, cell: Cell) -> dict[str, Any]:
        """Return the summary of a run; empty if it is not finished."""
        return self.runs[cell.name].to_dict() if self.has(cell) else {}

    def has(self, cell: Cell) -> bool:
        """Whether the run of a cell is finished."""
        return cell.name in self.runs

    def get(self, cell: Cell, metric: str, arm: str = "attacked", statistic: Statistic = "max") -> Numbers:
        """Return mean, standard deviation over seeds and interval of a metric; all None if there is no such number."""
        arms = self.summary(cell).get("arms", {})
        numbers: Numbers = arms.get(arm, {}).get(metric, {}).get(statistic, NOTHING)
        return numbers

    def mean(self, cell: Cell, metric: str, arm: str = "attacked", statistic: Statistic = "max") -> float | None:
        """Return only the mean."""
        return self.get(cell, metric, arm, statistic)["mean"]

    def survival(self, cell: Cell) -> tuple[float | None, float | None]:
        """Return the share of triggered test images in which any of the trigger is left, and the mean number of pixels."""
        survival = self.summary(cell).get("survival", {})
        return survival.get("fraction"), survival.get("pixels")

    def config(self, cell: Cell) -> Config:
        """Return the configuration of a run."""
        return self.run(cell).config()

    def run(self, cell: Cell) -> RunDirectory:
        """Return the directory of a run."""
        return self.directory.run(cell.name)

    def run_of_any(self) -> RunDirectory:
        """Return the directory of the first finished run."""
        return next(iter(self.runs.values())).directory

    def metrics(self, cell: Cell) -> pl.DataFrame:
        """Return the content of the run's metrics.parquet."""
        return read_table(self.run(cell).metrics)

    def truth(self, cell: Cell) -> Truth:
        """Return the ground truth that the scores of a run are compared with."""
        config, test = self.config(cell), read_table(self.run(cell).test)
        known = set(self.metrics(cell)["class"].drop_nulls())
        classes = tuple(name for name in test.columns if name in known)
        labels = test.select(classes).to_numpy().astype(np.int8)
        bootstrap = PatientBootstrap(test["patient"].to_numpy().astype(np.str_), config.bootstrap)
        return truth_of(config.attack, classes, labels, bootstrap)

    def scores(self, cell: Cell, arm: str, seed: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield clean and triggered scores, epoch by epoch."""
        files = self.run(cell).network(arm, seed)
        epochs = sorted(self.metrics(cell).filter(arm=arm, seed=seed)["epoch"].unique())
        for epoch in epochs:
            arrays = read_arrays(files.scores_of(epoch))
            yield arrays[CLEAN], arrays[TRIGGERED]

    def heat(self, cell: Cell) -> Heat | None:
        """Return the measured heat of a run; None if there is none."""
        return read_heat(self.run(cell)) if self.has(cell) else None

    def mixtures(self, cell: Cell) -> list[MixtureSummary]:
        """Return the AUROC of test sets with a share of triggered images (Table 3), from stored scores; one row per ε."""
        if not self.has(cell):
            raise PetechiaError(f"The run {cell.name} is not finished, so its scores are incomplete; resume it first.")
        truth = self.truth(cell)
        seeds = self.config(cell).seeds
        return summarize_mixtures(
            [[mixture(truth, clean, triggered) for clean, triggered in self.scores(cell, "attacked", seed)] for seed in seeds]
        )

    @property
    def epsilons(self) -> tuple[float, ...]:
        """Shares of triggered images in `mixtures`."""
        return EPSILONS
