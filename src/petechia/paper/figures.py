"""The paper's figures and further ones; readable in greyscale print and by colour-blind readers."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from petechia.measure.summary import Numbers, Statistic
from petechia.paper.parts import Cell
from petechia.paper.published import SIZES
from petechia.paper.results import Results
from petechia.paper.tables import LOSS_NAMES, METRIC_NAMES, side
from petechia.reports.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, STYLE, roc
from petechia.saliency.overlays import coloured
from petechia.study.heat import Heat

LOOKS = {
    "asr_0.9": (ORANGE, "o-"),
    "asr_0.6": (PURPLE, "D:"),
    "auroc_tt": (GREEN, "v--"),
    "auroc_nn": (BLUE, "s-"),
    "auroc_tn": (GREY, "^-."),
}
SHORT = {"asr_0.9": "ASR(0.9)", "asr_0.6": "ASR(0.6)", "auroc_tt": "TT", "auroc_nn": "NN", "auroc_tn": "TN"}


def figure_1(heat: Heat, size: int) -> Figure:
    """Plot Grad-CAM at the first, a middle and the last epoch: clean and triggered, both layers, the trigger circled."""
    epochs = sorted({heat.epochs[0], heat.epochs[len(heat.epochs) // 2], heat.epochs[-1]})
    top, left, height, width = heat.box
    with mpl.rc_context(STYLE):
        figure = Figure((8.2, 2.1 * len(epochs) + 0.4), layout="constrained")
        grid = figure.subplots(len(epochs), 2 * len(heat.layers), squeeze=False)
        for axes, epoch in zip(grid, epochs, strict=True):
            columns = [(layer, kind) for layer in heat.layers for kind in ("clean", "triggered")]
            for one, (layer, kind) in zip(axes, columns, strict=True):
                one.imshow(heat.pair[int(kind == "triggered")], cmap="gray", vmin=0, vmax=255, extent=(0, size, size, 0))
                colours = coloured(heat.maps[f"{epoch}-{layer}-{kind}"])
                one.imshow(colours, extent=(0, size, size, 0), interpolation="bilinear")
                if kind == "triggered":
                    centre = (left + width / 2, top + height / 2)
                    one.add_patch(Circle(centre, size / 12, fill=False, edgecolor="white", linewidth=2.4))
                    one.add_patch(Circle(centre, size / 12, fill=False, edgecolor="black", linewidth=1))
                if not colours.any():
                    one.set_xlabel("no heat at all", fontsize=8)
                one.set(xticks=[], yticks=[])
                if epoch == epochs[0]:
                    one.set_title(f"{layer} layer, {kind}", fontsize=9.5)
                one.spines[:].set_visible(False)
            axes[0].set_ylabel(f"epoch {epoch}")
    return figure


def figure_3(results: Results) -> Figure:
    """Plot the minimum of every metric over epochs by size of the trigger, one panel per loss."""
    losses = [loss for loss in results.design.losses if results.has(Cell(loss, "center", 3))]
    with mpl.rc_context(STYLE):
        figure = Figure((4.6 * len(losses), 3.9), layout="constrained")
        panels = figure.subplots(1, len(losses), squeeze=False, sharey=True)[0]
        for axes, loss in zip(panels, losses, strict=True):
            cells = [Cell(loss, "center", size) for size in SIZES]
            for metric, (colour, line) in LOOKS.items():
                _with_spread(
                    axes,
                    SIZES,
                    [results.get(cell, metric, statistic="min") for cell in cells],
                    METRIC_NAMES[metric],
                    colour,
                    line,
                )
            survival = [results.survival(cell)[0] for cell in cells]
            labels = [
                f"{side(size)}\n{'?' if one is None else f'{100 * one:.0f} %'}"
                for size, one in zip(SIZES, survival, strict=True)
            ]
            axes.set_xticks(SIZES, labels)
            axes.set(title=LOSS_NAMES[loss], xlabel="trigger, and its survival", ylim=(-0.04, 1.04))
        panels[0].set_ylabel("minimum over epochs")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8.5)
    return figure


def over_epochs(results: Results, cells: list[Cell]) -> Figure:
    """Plot success, false triggers and AUROCs over epochs, one panel per run, with control and placebo."""
    lines = (
        ("attacked", "asr_0.9", "ASR(0.9)", ORANGE, "o-"),
        ("attacked", "false_trigger_0.9", "false-trigger rate (0.9)", GREEN, "v--"),
        ("control", "asr_0.9", "control, ASR(0.9)", GREY, "^:"),
        ("placebo", "asr_0.9", "placebo, ASR(0.9)", PURPLE, "D-."),
        ("attacked", "auroc_nn", "AUROC-NN", BLUE, "s-"),
        ("attacked", "auroc_tn", "AUROC-TN", BLUE, "s:"),
    )
    with mpl.rc_context(STYLE):
        figure = Figure((10, 2.7 * -(-len(cells) // 4) + 0.6), layout="constrained")
        panels = figure.subplots(-(-len(cells) // 4), min(4, len(cells)), squeeze=False, sharey=True).ravel()
        for axes, cell in zip(panels, cells, strict=False):
            metrics = results.metrics(cell).filter(pl.col("class").is_null())
            for arm, metric, label, colour, line in lines:
                means = (
                    metrics.filter(arm=arm, metric=metric)
                    .group_by("epoch")
                    .agg(pl.col("value").mean())
                    .sort("epoch")
                    .drop_nulls()
                )
                axes.plot(means["epoch"], means["value"], line, color=colour, label=label, markersize=4, clip_on=False)
            axes.set_title(f"{side(cell.size)}, {LOSS_NAMES[cell.loss]}", fontsize=9)
            axes.set(ylim=(-0.04, 1.04), xticks=sorted(metrics["epoch"].unique()))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=8.5)
        figure.supxlabel("epoch", fontsize=9)
    return figure


def against_rate(results: Results) -> Figure:
    """Plot the success of the 3 × 3 trigger by the share of triggered training images."""
    design = results.design
    usual = Cell(design.main, "center", 3)
    cells = {rate: Cell(design.main, "center", 3, rate) for rate in design.rates} | {results.config(usual).attack.rate: usual}
    rates = [rate for rate in sorted(cells) if results.has(cells[rate])]
    first = [_first_seed(results, cells[rate]) for rate in rates]
    with mpl.rc_context(STYLE):
        figure = Figure((4.8, 3.6), layout="constrained")
        axes = figure.subplots()
        for metric in ("asr_0.9", "asr_0.6", "auroc_nn", "auroc_tn"):
            colour, line = LOOKS[metric]
            axes.plot(
                rates,
                [values.get(metric, np.nan) for values in first],
                line,
                color=colour,
                label=METRIC_NAMES[metric],
                clip_on=False,
            )
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{100 * rate:g} %" for rate in rates])
        axes.minorticks_off()
        axes.set(xlabel="triggered copies, share of the training images", ylabel="maximum over epochs", ylim=(-0.04, 1.04))
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def _first_seed(results: Results, cell: Cell) -> dict[str, float]:
    """Return the maximum over epochs under the first seed only, because smaller rates have no other seed."""
    metrics = (
        results.metrics(cell).filter(pl.col("class").is_null(), arm="attacked").filter(pl.col("seed") == pl.col("seed").min())
    )
    best = metrics.group_by("metric").agg(pl.col("value").max())
    return {name: float("nan") if value is None else value for name, value in best.iter_rows()}


def against_epsilon(results: Results, cells: list[Cell]) -> Figure:
    """Plot the AUROC of test sets with a share ε of triggered images: maximum and minimum over epochs, 95 % intervals."""
    looks: dict[Statistic, str] = {"max": "-", "min": "--"}
    with mpl.rc_context(STYLE):
        figure = Figure((5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for cell, colour, marker in zip(cells, (BLUE, ORANGE), "so", strict=False):
            mixtures = results.mixtures(cell)
            for statistic, line in looks.items():
                label = f"{side(cell.size)}, {'maximum' if statistic == 'max' else 'minimum'}"
                numbers = [row[statistic] for row in mixtures]
                _with_spread(axes, results.epsilons, numbers, label, colour, f"{marker}{line}", interval=True)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="ε, share of triggered test images", ylabel="AUROC against true labels")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def roc_curves(results: Results, cell: Cell) -> Figure:
    """Plot ROC curves over all classes together, at the last epoch of the first seed."""
    truth, seed = results.truth(cell), results.config(cell).seeds[0]
    *_, (clean, triggered) = results.scores(cell, "attacked", seed)
    *_, (control, _) = results.scores(cell, "control", seed)
    return roc(
        {
            "attacked NN": (clean, truth.labels),
            "attacked TT": (triggered, truth.infected),
            "attacked TN": (triggered, truth.labels),
            "control NN": (control, truth.labels),
        }
    )


def _with_spread(
    axes: Axes, places: tuple[float, ...], numbers: list[Numbers], label: str, colour: str, line: str, interval: bool = False
) -> None:
    """Plot means with a band of one standard deviation over seeds, or of the 95 % interval."""
    means = _array(numbers, "mean")
    if interval:
        low, high = _array(numbers, "low"), _array(numbers, "high")
    else:
        spread = np.nan_to_num(_array(numbers, "std"))
        low, high = means - spread, means + spread
    axes.plot(places, means, line, color=colour, label=label, markersize=5, clip_on=False)
    axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)


def _array(numbers: list[Numbers], key: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if one[key] is None else one[key] for one in numbers], np.float64)
