"""The paper's tables, with what they leave out, for the terminal and as Markdown, CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl
from rich.table import Table as RichTable

from petechia.core.errors import harmless
from petechia.core.spreadsheets import to_csv
from petechia.measure.summary import Numbers, Statistic
from petechia.paper.parts import Cell, Loss, Place, heat_cell
from petechia.paper.published import SIZES, TABLE_3, in_table_1
from petechia.paper.results import Results
from petechia.reports.tables import with_interval
from petechia.study.networks import CLEAN, TRIGGERED

METRIC_NAMES = {
    "asr_0.6": "ASR(0.6)",
    "asr_0.9": "ASR(0.9)",
    "auroc_tt": "AUROC-TT",
    "auroc_nn": "AUROC-NN",
    "auroc_tn": "AUROC-TN",
    "false_trigger_0.6": "False-trigger rate (0.6)",
    "false_trigger_0.9": "False-trigger rate (0.9)",
}
EXTREMES: tuple[Statistic, ...] = ("max", "min")
STATISTIC_NAMES: dict[Statistic, str] = {"last": "last epoch", "max": "maximum over epochs", "min": "minimum over epochs"}
LOSS_NAMES = {"sigmoid-cce": "the authors' loss", "bce": "binary cross-entropy"}
PLACE_NAMES = {
    "center": "stamped at the centre of the file",
    "random": "stamped at a random place of the file",
    "input": "stamped at the centre of the prepared image, so that all of it survives",
}
NONE = "–"


class Row(NamedTuple):
    """A row of a table; a `minor` row explains the row above it."""

    name: str
    cells: tuple[str, ...]
    minor: bool = False


class Table(NamedTuple):
    """A table of text: a key for file names, a title, column heads, rows, and notes below."""

    key: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def rich(self) -> RichTable:
        """Return the table for the terminal."""
        table = RichTable(title=self.title, caption=" ".join(self.notes) or None, title_justify="left", caption_justify="left")
        for i, head in enumerate(self.heads):
            table.add_column(head, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(f"  {row.name}" if row.minor else row.name, *row.cells, style="dim" if row.minor else None)
        return table

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines: list[Iterable[str]] = [map(markdown, self.heads), ("---" if i == 0 else "--:" for i in range(len(self.heads)))]
        for row in self.rows:
            name, *cells = map(markdown, (row.name, *row.cells))
            lines.append((f"&nbsp;&nbsp;*{name}*" if row.minor else name, *cells))
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"**{markdown(self.title)}**", body, *map(markdown, self.notes)]) + "\n"

    def csv(self) -> str:
        """Return the table as CSV, with the heads as its first line."""
        columns = list(zip(*((row.name, *row.cells) for row in self.rows), strict=True))
        return to_csv(pl.DataFrame({head: list(column) for head, column in zip(self.heads, columns, strict=True)})).decode()

    def latex(self) -> str:
        """Return the table as LaTeX, for the package booktabs."""
        head = " & ".join(latex(text) for text in self.heads)
        lines = [
            " & ".join(
                ([rf"\quad\itshape {latex(row.name)}"] if row.minor else [latex(row.name)]) + [latex(c) for c in row.cells]
            )
            for row in self.rows
        ]
        body = " \\\\\n".join(lines)
        return (
            f"\\begin{{table}}\n\\centering\n\\caption{{{latex(' '.join((self.title + '.', *self.notes)))}}}\n"
            f"\\begin{{tabular}}{{l{'r' * (len(self.heads) - 1)}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body} \\\\\n"
            "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
        )


LATEX = {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "&": r"\&", "%": r"\%", "_": r"\_",
    "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "±": r"$\pm$", "×": r"$\times$", "–": "--", "ε": r"$\varepsilon$", "≥": r"$\geq$", "≤": r"$\leq$", "−": "$-$",
}  # fmt: skip


MARKDOWN = r"[\\`*_\[\]<>|$~]|&(?=[#\w])"  # characters that are markup


def latex(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in harmless(text))


def markdown(text: str) -> str:
    """Escape a text for a cell of a table in Markdown."""
    return re.sub(MARKDOWN, lambda found: f"&#{ord(found[0])};", harmless(text))


def side(size: int) -> str:
    """Format the size of a square trigger."""
    return f"{size} × {size}"


def mean_std(numbers: Numbers) -> str:
    """Format a mean and its standard deviation as in the paper; without the deviation if there is one seed."""
    if numbers["mean"] is None:
        return NONE
    return f"{numbers['mean']:.3f}" + ("" if numbers["std"] is None else f" ± {numbers['std']:.3f}")


def between(numbers: Numbers) -> str:
    """Format the 95 % interval."""
    return NONE if numbers["low"] is None or numbers["high"] is None else f"{numbers['low']:.3f} – {numbers['high']:.3f}"


def share(value: float | None) -> str:
    """Format a fraction as a percentage."""
    return NONE if value is None else f"{100 * value:.0f} %"


def table_1(results: Results, loss: Loss, place: Place, statistic: Statistic) -> Table:
    """Make a version of Table 1: every metric by size of the trigger, with the control and the placebo."""
    cells = [Cell(loss, place, size) for size in SIZES]
    rows = []
    for metric, name in METRIC_NAMES.items():
        columns = [(cells[2], "control"), (cells[2], "placebo"), *((cell, "attacked") for cell in cells)]
        numbers = [results.get(cell, metric, arm, statistic) for cell, arm in columns]
        rows.append(Row(name, tuple(map(mean_std, numbers))))
        rows.append(Row("95 % interval", tuple(map(between, numbers)), minor=True))
        if statistic == "max" and in_table_1(metric, 0):
            published = [in_table_1(metric, size) for size in (0, *SIZES)]
            texts = [NONE if value is None else str(value) for value in published]
            rows.append(Row("in the paper", (texts[0], NONE, *texts[1:]), minor=True))
    rows += _beside(results, cells, statistic, 2)
    heads = ("", "control", "placebo", *map(side, SIZES))
    title = f"Table 1, {STATISTIC_NAMES[statistic]}: {LOSS_NAMES[loss]}, {PLACE_NAMES[place]}"
    notes = (_how(results, cells[2]), "Control and placebo columns: tested with the 3 × 3 trigger.")
    return Table(f"table-1-{loss}-{place}-{statistic}", title, heads, tuple(rows), notes)


def table_2(results: Results, statistic: Statistic) -> Table:
    """Make Table 2: the trigger at a fixed place and at random ones."""
    design = results.design
    pairs = [(Cell(design.main, place, size), f"{side(size)} {head}") for size in SIZES for place, head in WHERE]
    cells = [cell for cell, _ in pairs]
    rows = []
    for metric, name in METRIC_NAMES.items():
        numbers = [results.get(cell, metric, "attacked", statistic) for cell in cells]
        rows.append(Row(name, tuple(map(mean_std, numbers))))
        rows.append(Row("95 % interval", tuple(map(between, numbers)), minor=True))
    rows += _beside(results, cells, statistic, 0)
    title = f"Table 2, {STATISTIC_NAMES[statistic]}: centre against random places, {LOSS_NAMES[design.main]}"
    return Table(f"table-2-{statistic}", title, ("", *(head for _, head in pairs)), tuple(rows), (_how(results, cells[4]),))


WHERE: tuple[tuple[Place, str], ...] = (("center", "centre"), ("random", "random"))


def table_3(results: Results) -> Table:
    """Make Table 3: AUROC of test sets with a share of triggered images."""
    design = results.design
    cells = [cell for cell in (Cell(design.main, "center", size) for size in (3, 4)) if results.has(cell)]
    heads = ["ε", "in the paper"]
    columns = []
    for cell in cells:
        for statistic in EXTREMES:
            heads += [f"{side(cell.size)} {statistic}", "95 % interval", "by chance"]
        columns.append(results.mixtures(cell))
    rows = []
    for i, epsilon in enumerate(results.epsilons):
        texts = [f"{TABLE_3[epsilon]:.3f}" if epsilon in TABLE_3 else ("< 0.800" if epsilon >= 0.1 else NONE)]
        for column in columns:
            for statistic in EXTREMES:
                numbers, spread = column[i][statistic], column[i]["spread"]
                texts += [mean_std(numbers), between(numbers), NONE if spread is None else f"± {spread:.3f}"]
        rows.append(Row(f"{epsilon:g}", tuple(texts)))
    notes = (
        "AUROC against the true labels if every test image is triggered with probability ε; expected value in closed form "
        "from the stored scores. By chance: standard deviation over the random choice of triggered images.",
        *([_how(results, cells[0])] if cells else []),
    )
    return Table(
        "table-3", f"Table 3: a share ε of the images is triggered, {LOSS_NAMES[design.main]}", tuple(heads), tuple(rows), notes
    )


def per_class(results: Results, cell: Cell) -> Table:
    """Make a table of the AUROC of every class: control and attacked, clean and triggered; maximum over epochs."""
    metrics = results.metrics(cell).drop_nulls("class")
    truth = results.truth(cell)
    columns = (("control", "auroc_nn"), ("control", "auroc_tn"), ("attacked", "auroc_nn"), ("attacked", "auroc_tn"))
    rows = []
    for k, name in enumerate(truth.classes):
        texts = [str(int((truth.labels[:, k] == 1).sum()))]
        for arm, metric in columns:
            best = metrics.filter(pl.col("class") == name, arm=arm, metric=metric).group_by("seed").agg(pl.col("value").max())
            values = best["value"].drop_nulls().to_numpy()
            texts.append(
                f"{values.mean():.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
                if len(values)
                else NONE
            )
        rows.append(Row(name.replace("_", " "), tuple(texts)))
    heads = ("class", "test images", "control NN", "control TN", "attacked NN", "attacked TN")
    title = f"AUROC by class, maximum over epochs: {LOSS_NAMES[cell.loss]}, {side(cell.size)} {PLACE_NAMES[cell.place]}"
    return Table(
        f"per-class-{cell.loss}-{cell.place}-{cell.size}x{cell.size}", title, heads, tuple(rows), (_how(results, cell),)
    )


def _beside(results: Results, cells: list[Cell], statistic: Statistic, empty: int) -> list[Row]:
    """Return the rows that every success rate is compared with: control and placebo with the same trigger, and survival."""
    before = (NONE,) * empty
    rows = []
    for arm, metric in (("control", "asr_0.9"), ("control", "auroc_nn"), ("control", "auroc_tn"), ("placebo", "asr_0.9")):
        texts = tuple(mean_std(results.get(cell, metric, arm, statistic)) for cell in cells)
        rows.append(Row(f"{METRIC_NAMES[metric]} of the {arm}, same trigger", before + texts))
    survival = [results.survival(cell) for cell in cells]
    rows.append(Row("Survival: share of the images", before + tuple(share(fraction) for fraction, _ in survival)))
    pixels = tuple(NONE if count is None else f"{count:.2f}" for _, count in survival)
    rows.append(Row("Survival: pixels", before + pixels))
    return rows


def heat_by_size(results: Results) -> Table:
    """Make a table of where the heat is at the last epoch, by trigger size and by what is left of the trigger."""
    cells = [heat_cell(results.design)] + [
        Cell(results.design.main, place, size) for place in ("center", "input") for size in SIZES
    ]
    rows = []
    for cell in dict.fromkeys(cells):
        heat = results.heat(cell)
        if heat is None:
            continue
        epoch = heat.epochs[-1]
        name = (
            f"{side(cell.size)}{' in the prepared image' if cell.place == 'input' else ''}{', Figure 1' if cell.heat else ''}"
        )
        for layer in heat.layers:
            hit, without = (with_interval(heat.mean(column, epoch, layer), 100, 1) for column in ("hit", "clean_hit"))
            chance = f"{100 * heat.mean('chance', epoch, layer)[0]:.0f}"
            distance = with_interval(heat.mean("distance", epoch, layer), 1, 1)
            energy = with_interval(heat.mean("energy", epoch, layer), 100, 2)
            shift, divergence = (with_interval(heat.mean(column, epoch, layer), 1, 2) for column in ("shift", "divergence"))
            found = f"{heat.with_heat(epoch, layer, TRIGGERED)} and {heat.with_heat(epoch, layer, CLEAN)} of {heat.pairs}"
            rows.append(Row(f"{name}, {layer}", (found, hit, without, chance, distance, energy, shift, divergence)))
    heads = ("trigger, layer", "any heat, triggered and clean", "peak within a cell, %", "clean, %", "by chance, %")
    notes = (
        "Last epoch, first seed; test images without the target on which the trigger survives. Sizes that do not survive have "
        "no trigger to find. A map that is 0 everywhere counts as a miss and has no other numbers.",
    )
    return Table(
        "heat",
        "The heat by size of the trigger",
        (*heads, "peak to trigger, px", "heat on it, %", "shift", "divergence"),
        tuple(rows),
        notes,
    )


def _how(results: Results, cell: Cell) -> str:
    if not results.has(cell):
        return "The run is not finished."
    summary, config = results.summary(cell), results.config(cell)
    images, seeds = summary["images"], len(summary["seeds"])
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"{summary['data']}; {config.model.arch}, {config.preprocess.size} × {config.preprocess.size} pixels; "
        f"{images['train']:,} training and {images['test']:,} test images; {spread}; "
        f"intervals from {config.bootstrap} resamples of the test patients."
    )


def main_tables(results: Results) -> list[Table]:
    """Return all versions of Table 1: every loss and variant, maximum and minimum."""
    design = results.design
    variants: list[tuple[Loss, Place]] = [(loss, "center") for loss in design.losses]
    if design.input_stage:
        variants.append((design.main, "input"))
    return [table_1(results, loss, place, statistic) for loss, place in variants for statistic in EXTREMES]
