"""Summaries of metrics: last, minimum and maximum over epochs; mean and spread over seeds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from petechia.measure.bootstrap import interval
from petechia.measure.epoch import Measurement
from petechia.measure.mixtures import Mixture

Statistic = Literal["last", "min", "max"]
STATISTICS: tuple[Statistic, ...] = ("last", "min", "max")
Numbers = dict[str, float | None]  # mean | std | low | high
Summary = dict[str, dict[str, Numbers]]  # metric → last | min | max → mean | std | low | high
Epochs = NDArray[np.float64]  # [epochs] values or [epochs, draws]


class MixtureSummary(TypedDict):
    """One row of `summarize_mixtures`: the statistics for one ε, and the mean spread over all epochs and seeds."""

    epsilon: float
    spread: float | None
    last: Numbers
    min: Numbers
    max: Numbers


def summarize(runs: Sequence[Sequence[Measurement]]) -> Summary:
    """Summarise one arm.

    Args:
        runs: one sequence of epochs per seed.

    Returns:
        For every metric and each of `STATISTICS`: `mean` and sample standard deviation `std` over seeds, and the ends `low` and
        `high` of the 95 % bootstrap interval of the mean. None if undefined: `std` of one seed, a metric without images.
    """
    summary: Summary = {}
    for metric in runs[0][0].values:
        values = [np.array([epoch.values[metric] for epoch in run]) for run in runs]
        draws = [np.array([epoch.draws[metric] for epoch in run]) for run in runs]
        summary[metric] = {name: _statistic(values, draws, name) for name in STATISTICS}
    return summary


def summarize_mixtures(runs: Sequence[Sequence[Mixture]]) -> list[MixtureSummary]:
    """Summarise the mixtures of one arm, as `summarize` does for its metrics.

    Args:
        runs: one sequence of epochs per seed, all with the same epsilons.

    Returns:
        One row per ε.
    """
    rows: list[MixtureSummary] = []
    for index, epsilon in enumerate(runs[0][0].epsilons):
        values = [np.array([epoch.expected[index] for epoch in run]) for run in runs]
        draws = [np.array([epoch.draws[index] for epoch in run]) for run in runs]
        last, lowest, highest = (_statistic(values, draws, name) for name in STATISTICS)
        spread = _or_none(np.mean([epoch.spread[index] for run in runs for epoch in run]))
        rows.append({"epsilon": epsilon, "spread": spread, "last": last, "min": lowest, "max": highest})
    return rows


def _statistic(values_of_runs: Sequence[Epochs], draws_of_runs: Sequence[Epochs], name: Statistic) -> Numbers:
    values = np.array([_over_epochs(values, name) for values in values_of_runs])
    draws = np.array([_over_epochs(draws, name) for draws in draws_of_runs])
    low, high = interval(draws.mean(axis=0))
    std = values.std(ddof=1) if len(values) > 1 else float("nan")
    return {key: _or_none(number) for key, number in {"mean": values.mean(), "std": std, "low": low, "high": high}.items()}


def _or_none(number: float | np.floating) -> float | None:
    return None if np.isnan(number) else float(number)


def _over_epochs(values: Epochs, name: Statistic) -> NDArray[np.float64]:
    if name == "last":
        return np.asarray(values[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # if all are undefined, the result is NaN, as it should be
        return np.asarray(np.nanmin(values, axis=0) if name == "min" else np.nanmax(values, axis=0))
