"""Last, minimum and maximum over epochs; mean and spread over seeds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from petechia.measure.bootstrap import interval
from petechia.measure.epoch import METRICS, Measurement

STATISTICS = ("last", "min", "max")
Summary = dict[str, dict[str, dict[str, float | None]]]  # metric → last | min | max → mean | std | low | high


def summarize(runs: Sequence[Sequence[Measurement]]) -> Summary:
    """Summarise one arm.

    Args:
        runs: one sequence of epochs a seed.

    Returns:
        For every metric and each of `STATISTICS`: `mean` and sample standard deviation `std` over seeds, `low` and `high`
        ends of the 95 % bootstrap interval of that mean. None where undefined: `std` of one seed, a metric without images.
    """
    return {metric: {name: _statistic(runs, metric, name) for name in STATISTICS} for metric in METRICS}


def _statistic(runs: Sequence[Sequence[Measurement]], metric: str, name: str) -> dict[str, float | None]:
    values = np.array([_over_epochs(np.array([epoch.values[metric] for epoch in run]), name) for run in runs])
    draws = np.array([_over_epochs(np.array([epoch.draws[metric] for epoch in run]), name) for run in runs])
    low, high = interval(draws.mean(axis=0))
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    numbers = {"mean": float(values.mean()), "std": std, "low": low, "high": high}
    return {key: None if np.isnan(number) else number for key, number in numbers.items()}


def _over_epochs(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    if name == "last":
        return np.asarray(values[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all undefined: the result is NaN, as it should be
        return np.asarray(np.nanmin(values, axis=0) if name == "min" else np.nanmax(values, axis=0))
