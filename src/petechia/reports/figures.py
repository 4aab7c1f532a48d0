"""Figures as SVG or PNG, and close-up images; readable in greyscale print and by colour-blind readers."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from petechia.core.errors import printable
from petechia.core.rows import evenly_spread
from petechia.study.heat import Heat

# Okabe and Ito's colours; each series also has its own line style and marker.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "petechia",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "text.parse_math": False,  # names of classes hold dollar signs, and no formula is drawn
    "text.usetex": False,
}


def svg(figure: Figure) -> bytes:
    """Render a figure as SVG. The same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Render a figure as PNG at 200 dpi."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def curves(metrics: pl.DataFrame) -> Figure:
    """Plot success rates and AUROCs over epochs: the mean over seeds, with a band for their range.

    Args:
        metrics: content of metrics.parquet.
    """
    rates = (
        ("attacked", "asr_0.9", "attacked, triggered: ASR(0.9)", ORANGE, "o-"),
        ("attacked", "false_trigger_0.9", "attacked, clean", BLUE, "s--"),
        ("control", "asr_0.9", "control, triggered", GREY, "^:"),
        ("placebo", "asr_0.9", "placebo, triggered", PURPLE, "D-."),
    )
    areas = (
        ("attacked", "auroc_nn", "attacked NN", BLUE, "s-"),
        ("attacked", "auroc_tt", "attacked TT", GREEN, "v--"),
        ("attacked", "auroc_tn", "attacked TN", ORANGE, "o-."),
        ("control", "auroc_nn", "control NN", GREY, "^:"),
    )
    with mpl.rc_context(STYLE):
        figure = Figure((9, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, lines, title in ((left, rates, "Share scored 0.9 or more"), (right, areas, "AUROC, micro average")):
            for arm, metric, label, colour, line in lines:
                _over_epochs(
                    axes, metrics.filter(arm=arm, metric=metric).filter(pl.col("class").is_null()), label, colour, line
                )
            axes.set(title=title, xlabel="epoch", xticks=sorted(metrics["epoch"].unique()))
            _legend(axes, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        left.set_ylim(-0.04, 1.04)
        right.set_ylim(top=1.03)
    return figure


def _legend(axes: Axes, **options: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**options)
    else:
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", color=GREY)


def _over_epochs(axes: Axes, rows: pl.DataFrame, label: str, colour: str, line: str) -> None:
    rows = rows.drop_nulls("value")
    if rows.is_empty():
        return
    value = pl.col("value")
    by_epoch = rows.group_by("epoch").agg(value.mean(), value.min().alias("low"), value.max().alias("high")).sort("epoch")
    axes.plot(by_epoch["epoch"], by_epoch["value"], line, color=colour, label=label, markersize=5, clip_on=False)
    axes.fill_between(by_epoch["epoch"], by_epoch["low"], by_epoch["high"], color=colour, alpha=0.15, linewidth=0)


def roc(curves_of: dict[str, tuple[NDArray[np.float32], NDArray[np.int8]]]) -> Figure:
    """Plot ROC curves over all classes together.

    Args:
        curves_of: name → scores and labels, [N, K]; unknown labels (-1) are left out.
    """
    looks = ((BLUE, "-"), (GREEN, "--"), (ORANGE, "-."), (GREY, ":"))
    with mpl.rc_context(STYLE):
        figure = Figure((4.2, 3.8), layout="constrained")
        axes = figure.subplots()
        for (name, (scores, labels)), (colour, line) in zip(curves_of.items(), looks, strict=False):
            known = labels >= 0
            if len(np.unique(labels[known])) == 2:
                false, true, _ = roc_curve(labels[known], scores[known])
                keep = evenly_spread(len(false), 300, nearest=False)  # enough points for a smooth curve
                axes.plot(false[keep], true[keep], line, color=colour, label=name, linewidth=1.8)
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal", xlim=(0, 1), ylim=(0, 1.01))
        _legend(axes, fontsize=8.5, loc="lower right")
    return figure


def per_class(metrics: pl.DataFrame, present: dict[str, int]) -> Figure:
    """Plot the AUROC of every class at the last epoch of the first seed, with 95 % intervals; a dash if undefined.

    Args:
        metrics: content of metrics.parquet.
        present: class → number of test images that show it.
    """
    classes = list(present)
    first = metrics.filter(pl.col("seed") == metrics["seed"].min())
    lines = (
        ("control", "auroc_nn", "control, clean (NN)", GREY, "^"),
        ("attacked", "auroc_nn", "attacked, clean (NN)", BLUE, "s"),
        ("attacked", "auroc_tn", "attacked, triggered (TN)", ORANGE, "o"),
    )
    with mpl.rc_context(STYLE):
        figure = Figure((4.8, 3.8), layout="constrained")
        axes = figure.subplots()
        for row in set(range(len(classes))) - {classes.index(name) for name in first.drop_nulls(["class", "value"])["class"]}:
            axes.text(0.01, row, "–", transform=axes.get_yaxis_transform(), va="center")
        for shift, (arm, metric, label, colour, marker) in zip((-0.22, 0, 0.22), lines, strict=True):
            rows = first.filter(arm=arm, metric=metric).drop_nulls(["class", "value"])
            if rows.is_empty():
                continue
            rows = rows.filter(pl.col("epoch") == rows["epoch"].max())
            height = np.array([classes.index(name) for name in rows["class"]]) + shift
            value = rows["value"].to_numpy()
            reach = np.clip([value - rows["low"].to_numpy(), rows["high"].to_numpy() - value], 0, None)
            axes.errorbar(
                value,
                height,
                xerr=np.nan_to_num(reach),
                fmt=marker,
                color=colour,
                label=label,
                markersize=4,
                elinewidth=1,
            )
        axes.axvline(0.5, color="#bbbbbb", linewidth=0.8)
        axes.set_yticks(range(len(classes)), [f"{_tick(name)} ({count})" for name, count in present.items()])
        axes.set(xlabel="AUROC", ylim=(len(classes) - 0.4, -0.6))
        _legend(axes, fontsize=8, loc="upper center", bbox_to_anchor=(0.35, -0.13), ncols=2)
    return figure


def _tick(name: str) -> str:
    """A class at an axis. A control character would make the SVG no XML."""
    return printable(name.replace("_", " "))


def heat_curves(heat: Heat) -> Figure:
    """Plot the distance of the peak from the trigger and the share of heat on it, over epochs and over all pairs."""
    looks = {
        ("last", True): (ORANGE, "o-"),
        ("middle", True): (BLUE, "s-"),
        ("last", False): (ORANGE, "o:"),
        ("middle", False): (BLUE, "s:"),
    }
    panels = (("distance", "peak to trigger, pixels", 1.0), ("energy", "heat in the trigger's box, %", 100.0))
    with mpl.rc_context(STYLE):
        figure = Figure((9, 3.6), layout="constrained")
        for axes, (column, label, scale) in zip(figure.subplots(1, 2), panels, strict=True):
            for (layer, triggered), (colour, line) in looks.items():
                if layer not in heat.layers:
                    continue
                means = np.array([heat.mean(column if triggered else f"clean_{column}", epoch, layer) for epoch in heat.epochs])
                name = f"{layer} layer, {'triggered' if triggered else 'clean'}"
                axes.plot(heat.epochs, scale * means[:, 0], line, color=colour, label=name, markersize=5, clip_on=False)
                axes.fill_between(heat.epochs, scale * means[:, 1], scale * means[:, 2], color=colour, alpha=0.12, linewidth=0)
            axes.set(xlabel="epoch", ylabel=label, xticks=heat.epochs)
            axes.set_ylim(bottom=0)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def heat_by_class(heat: Heat) -> Figure:
    """Plot, for each class at the last epoch, how often its heat peaks at the trigger; clean and triggered, by layer."""
    epoch, classes = heat.epochs[-1], heat.classes
    with mpl.rc_context(STYLE):
        figure = Figure((9, 0.27 * len(classes) + 1.3), layout="constrained")
        for axes, layer in zip(figure.subplots(1, len(heat.layers), sharey=True, squeeze=False)[0], heat.layers, strict=True):
            for column, label, colour, marker, shift in (
                ("clean_hit", "clean", BLUE, "s", -0.14),
                ("hit", "triggered", ORANGE, "o", 0.14),
            ):
                means = 100 * np.array([heat.mean(column, epoch, layer, name) for name in classes])
                reach = np.abs(means[:, 1:] - means[:, :1]).T
                places = np.arange(len(classes)) + shift
                axes.errorbar(
                    means[:, 0], places, xerr=reach, fmt=marker, color=colour, label=label, markersize=4, elinewidth=1
                )
            axes.set_yticks(range(len(classes)), [_tick(name) for name in classes])
            axes.set(title=f"{layer} layer", xlabel="peak within one cell of the trigger, %", xlim=(-3, 103))
            axes.set_ylim(len(classes) - 0.4, -0.6)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5)
    return figure


def magnified_difference(clean: NDArray[np.uint8], triggered: NDArray[np.uint8], margin: int = 6) -> NDArray[np.uint8]:
    """Return close-ups of the changed region, side by side: clean, triggered, and their difference at full contrast.

    Args:
        clean: uint8 [H, W] or [H, W, 3].
        triggered: the triggered version, in the same shape.
        margin: pixels shown around the changes. If nothing changed, the middle of the image is shown.
    """
    before, after = (image if image.ndim == 2 else image.mean(axis=2).astype(np.uint8) for image in (clean, triggered))
    difference = np.abs(after.astype(np.int16) - before)
    rows, columns = np.nonzero(difference)
    height, width = before.shape
    top, bottom = (rows.min(), rows.max() + 1) if len(rows) else (height // 2, height // 2 + 1)
    left, right = (columns.min(), columns.max() + 1) if len(rows) else (width // 2, width // 2 + 1)
    window = (slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin))
    stretched = (difference * (255 // max(int(difference.max()), 1))).astype(np.uint8)
    gap = np.full((before[window].shape[0], 1), 255, np.uint8)
    return np.concatenate([before[window], gap, after[window], gap, stretched[window]], axis=1)
