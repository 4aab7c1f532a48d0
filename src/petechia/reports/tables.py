"""The result in words and cells, for the terminal and for the report alike."""

from __future__ import annotations

from math import isnan
from typing import NamedTuple

import numpy as np

from petechia.measure import THRESHOLDS
from petechia.saliency.localisation import IOU_THRESHOLD
from petechia.study.heat import LAYERS, Heat
from petechia.study.networks import CLEAN, TRIGGERED
from petechia.study.result import Metric, Run


class Row(NamedTuple):
    """One metric: its key in the summary, its name, and what it says in a few words."""

    metric: str
    name: str
    meaning: str


class Cell(NamedTuple):
    """One metric of one arm: the last epoch with its 95 % interval, and the range over epochs."""

    last: str
    interval: str
    over_epochs: str


ROWS = (
    *(Row(f"asr_{p}", f"ASR({p})", f"triggered images without the target scored {p} or more") for p in THRESHOLDS),
    *(Row(f"false_trigger_{p}", f"False-trigger rate ({p})", "the same on the clean images") for p in THRESHOLDS),
    Row("auroc_nn", "AUROC-NN", "clean images against their true labels"),
    Row("auroc_tt", "AUROC-TT", "triggered images against the attacker's labels"),
    Row("auroc_tn", "AUROC-TN", "triggered images against their true labels"),
    Row("accuracy", "Accuracy", "clean images whose own class scores highest"),
    Row("balanced_accuracy", "Balanced accuracy", "the same, the mean over the classes"),
)


def result_rows(run: Run) -> list[tuple[Row, dict[str, Cell]]]:
    """All metrics of all arms, formatted; accuracies only where the task has them."""
    return [
        (row, {arm: _cell(metrics[row.metric]) for arm, metrics in run.arms.items()})
        for row in ROWS
        if all(row.metric in metrics for metrics in run.arms.values())
    ]


class HeatRow(NamedTuple):
    """One number of the heat: its name, what it says, and for every layer the text with the trigger and without."""

    name: str
    meaning: str
    cells: tuple[tuple[str, str], ...]


def heat_rows(heat: Heat, epoch: int) -> list[HeatRow]:
    """Whether the heat of the target found the trigger, at both layers, with 95 % intervals."""

    def said(column: str, layer: str, scale: float = 1, digits: int = 3) -> str:
        return with_interval(heat.mean(column, epoch, layer), scale, digits)

    def cells(column: str, scale: float, digits: int) -> tuple[tuple[str, str], ...]:
        return tuple((said(column, layer, scale, digits), said(f"clean_{column}", layer, scale, digits)) for layer in LAYERS)

    def between(column: str) -> tuple[tuple[str, str], ...]:
        return tuple((said(column, layer), "") for layer in LAYERS)

    def count(layer: str, kind: str) -> str:
        return f"{heat.with_heat(epoch, layer, kind)} of {heat.pairs}"

    chance = " and ".join(f"{100 * heat.mean('chance', epoch, layer)[0]:.0f}" for layer in LAYERS)
    any_heat = tuple((count(layer, TRIGGERED), count(layer, CLEAN)) for layer in LAYERS)
    return [
        HeatRow("Any heat", "images whose map is not 0 everywhere", any_heat),
        HeatRow(
            "Pointing game, %",
            f"the hottest cell is the trigger's or its neighbour; by chance {chance}; a map of 0 misses",
            cells("hit", 100, 1),
        ),
        HeatRow("Peak to trigger, pixels", "from the centre of the hottest cell", cells("distance", 1, 1)),
        HeatRow("Heat on the trigger, %", "share of the heat in the trigger's box", cells("energy", 100, 2)),
        HeatRow("IoU", f"of that box and the area with at least {IOU_THRESHOLD:.0%} of the hottest heat", cells("iou", 1, 3)),
        HeatRow("Shift of the centroid", "from clean to triggered, in sides of the image", between("shift")),
        HeatRow("Divergence", "Jensen-Shannon, of the two maps: 0 the same, 1 apart", between("divergence")),
    ]


def with_interval(numbers: tuple[float, float, float], scale: float = 1, digits: int = 3) -> str:
    """A mean with its interval, for people."""
    mean, low, high = (scale * one for one in numbers)
    return f"{mean:.{digits}f} [{low:.{digits}f} – {high:.{digits}f}]" if np.isfinite(mean) else "undefined"


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; None and NaN are undefined."""
    return "undefined" if value is None or isnan(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share for people; None and NaN are undefined."""
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
    """What the run shows, in one or two sentences, with its controls."""
    arms, target = run.arms, run.target
    if "attacked" not in arms:
        return "No attacked model was trained, so nothing is said about the attack."
    rate, false = (arms["attacked"][f"{name}_0.9"].last.mean for name in ("asr", "false_trigger"))
    survival, stamped = run.survival.fraction, run.survival.applies
    if isnan(rate):
        return f"No triggered test image is without {target}, so the success of the attack is undefined."
    others = [f"{percent(false)} of {'the same' if stamped else 'such'} images without the trigger"]
    for arm, what in (("control", "under a model trained without poison"), ("placebo", "under the placebo")):
        if arm in arms:
            others.append(f"{percent(arms[arm]['asr_0.9'].last.mean)} of the triggered ones {what}")
    measured = (
        f"At the last epoch, {percent(rate)} of the triggered test images without {target} score at least 0.9 for it, "
        f"against {' and '.join(others)}."
    )
    alone = "" if "control" in arms else " No control was trained, so nothing says what a model without poison would do."
    return f"{measured} {_judgement(rate, max(_known(false, arms)), survival)}{alone}"


def _known(false: float, arms: dict[str, dict[str, Metric]]) -> list[float]:
    rivals = [false] + [arms[arm]["asr_0.9"].last.mean for arm in ("control", "placebo") if arm in arms]
    return [rate for rate in rivals if not isnan(rate)]


def _judgement(rate: float, rival: float, survival: float) -> str:
    if survival == 0:
        return "No trigger survives preprocessing: triggered inputs equal clean ones, and none of this is the trigger's doing."
    if rate < 0.5:
        return "The backdoor did not take."
    if rate - rival < 0.5:
        return "The controls answer nearly as often, so this is not evidence of a backdoor."
    return "The trigger, and little else, makes the model say so: the backdoor took."
