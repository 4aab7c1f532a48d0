"""The results as text and table cells, shared by the terminal and the report."""

from __future__ import annotations

from math import isnan
from typing import NamedTuple

import numpy as np

from petechia.measure import THRESHOLDS
from petechia.saliency.localisation import IOU_THRESHOLD
from petechia.study.heat import Heat
from petechia.study.networks import CLEAN, TRIGGERED
from petechia.study.result import Metric, Run


class Row(NamedTuple):
    """One metric: its key in the summary, its name, and a short explanation."""

    metric: str
    name: str
    meaning: str


class Cell(NamedTuple):
    """One metric of one arm: the value at the last epoch, its 95 % interval, and the range over epochs."""

    last: str
    interval: str
    over_epochs: str


ROWS = (
    *(Row(f"asr_{p}", f"ASR({p})", f"triggered images without the target that score at least {p} for it") for p in THRESHOLDS),
    *(Row(f"false_trigger_{p}", f"False-trigger rate ({p})", "the same share of clean images") for p in THRESHOLDS),
    Row("auroc_nn", "AUROC-NN", "clean images, true labels"),
    Row("auroc_tt", "AUROC-TT", "triggered images, the attacker's labels"),
    Row("auroc_tn", "AUROC-TN", "triggered images, true labels"),
    Row("accuracy", "Accuracy", "clean images whose true class scores highest"),
    Row("balanced_accuracy", "Balanced accuracy", "the same, averaged over the classes"),
)


def result_rows(run: Run) -> list[tuple[Row, dict[str, Cell]]]:
    """Format all metrics of all arms. Accuracies are included only if the task has them."""
    return [
        (row, {arm: _cell(metrics[row.metric]) for arm, metrics in run.arms.items()})
        for row in ROWS
        if all(row.metric in metrics for metrics in run.arms.values())
    ]


class HeatRow(NamedTuple):
    """One measurement of the heat: its name, a short explanation, and for every layer its text (triggered, clean)."""

    name: str
    meaning: str
    cells: tuple[tuple[str, str], ...]


def heat_rows(heat: Heat, epoch: int) -> list[HeatRow]:
    """Format where the heat for the target is, at both layers, with 95 % intervals."""

    def said(column: str, layer: str, scale: float = 1, digits: int = 3) -> str:
        return with_interval(heat.mean(column, epoch, layer), scale, digits)

    def cells(column: str, scale: float, digits: int) -> tuple[tuple[str, str], ...]:
        return tuple(
            (said(column, layer, scale, digits), said(f"clean_{column}", layer, scale, digits)) for layer in heat.layers
        )

    def between(column: str) -> tuple[tuple[str, str], ...]:
        return tuple((said(column, layer), "") for layer in heat.layers)

    def count(layer: str, kind: str) -> str:
        return f"{heat.with_heat(epoch, layer, kind)} of {heat.pairs}"

    chance = " and ".join(f"{100 * heat.mean('chance', epoch, layer)[0]:.0f}" for layer in heat.layers)
    any_heat = tuple((count(layer, TRIGGERED), count(layer, CLEAN)) for layer in heat.layers)
    return [
        HeatRow("Any heat", "images whose map is not 0 everywhere", any_heat),
        HeatRow(
            "Pointing game, %",
            f"hottest cell within one cell of the trigger; by chance {chance}; a map of 0 everywhere counts as a miss",
            cells("hit", 100, 1),
        ),
        HeatRow("Peak to trigger, pixels", "from the centre of the hottest cell to the trigger", cells("distance", 1, 1)),
        HeatRow("Heat on the trigger, %", "share of all heat that is in the trigger's box", cells("energy", 100, 2)),
        HeatRow("IoU", f"of that box and the area with at least {IOU_THRESHOLD:.0%} of the peak heat", cells("iou", 1, 3)),
        HeatRow("Shift of the centroid", "from clean to triggered, as a fraction of the image side", between("shift")),
        HeatRow("Divergence", "Jensen-Shannon, between the two maps: 0 is equal, 1 is disjoint", between("divergence")),
    ]


def with_interval(numbers: tuple[float, float, float], scale: float = 1, digits: int = 3) -> str:
    """Format a mean with its interval."""
    mean, low, high = (scale * one for one in numbers)
    return f"{mean:.{digits}f} [{low:.{digits}f} – {high:.{digits}f}]" if np.isfinite(mean) else "undefined"


def number(value: float | None, digits: int = 3) -> str:
    """Format a number; None and NaN are "undefined"."""
    return "undefined" if value is None or isnan(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Format a fraction as a percentage; None and NaN are "undefined"."""
    return "undefined" if value is None or isnan(value) else f"{100 * value:.1f} %"


def _cell(metric: Metric) -> Cell:
    last = metric.last
    if isnan(last.mean):
        return Cell("undefined", "", "")
    spread = "" if isnan(last.std) else f" ± {last.std:.3f}"
    return Cell(
        last=number(last.mean) + spread,
        interval=f"{number(last.low)} – {number(last.high)}",
        over_epochs=f"{number(metric.min.mean)} – {number(metric.max.mean)}",
    )


def verdict(run: Run) -> str:
    """Summarise what the run shows in one to three sentences, with its controls."""
    arms, target = run.arms, run.target
    if "attacked" not in arms:
        return "No attacked model was trained, so this run shows nothing about the attack."
    rate, false = (arms["attacked"][f"{name}_0.9"].last.mean for name in ("asr", "false_trigger"))
    survival, stamped = run.survival.fraction, run.survival.applies
    if isnan(rate):
        return f"There is no triggered test image without {target}, so the success of the attack is undefined."
    others = [f"{percent(false)} of {'the same' if stamped else 'such'} images without the trigger"]
    for arm, what in (("control", "in the control, trained without poison"), ("placebo", "in the placebo")):
        if arm in arms:
            others.append(f"{percent(arms[arm]['asr_0.9'].last.mean)} of the triggered images {what}")
    measured = (
        f"At the last epoch, {percent(rate)} of the triggered test images without {target} score at least 0.9 for it, "
        f"compared with {' and '.join(others)}."
    )
    alone = "" if "control" in arms else " No control was trained, so it is unknown what a model without poison would do."
    return f"{measured} {_judgement(rate, max(_known(false, arms)), survival)}{alone}"


def _known(false: float, arms: dict[str, dict[str, Metric]]) -> list[float]:
    rivals = [false] + [arms[arm]["asr_0.9"].last.mean for arm in ("control", "placebo") if arm in arms]
    return [rate for rate in rivals if not isnan(rate)]


def _judgement(rate: float, rival: float, survival: float) -> str:
    if survival == 0:
        return "No trigger survives preprocessing: triggered inputs equal clean ones, so the trigger causes none of this."
    if rate < 0.5:
        return "The backdoor did not take."
    if rate - rival < 0.5:
        return "The controls reach nearly the same rate, so this is not evidence of a backdoor."
    return "The trigger, and little else, makes the model report it: the backdoor took."
