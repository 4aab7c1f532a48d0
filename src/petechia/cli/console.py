"""What the terminal shows: live progress, and the final table."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from petechia.detect.scan.result import ScanResult
from petechia.paper import Reproduction
from petechia.reports import result_rows, verdict
from petechia.reports.tables import number, percent
from petechia.study import Epoch, StudyProgress
from petechia.study.runner import survival_words
from petechia.study.study import Study

SCREENED = 30  # images that are shown, the most suspicious first
SHOWN = ("asr_0.9", "false_trigger_0.9", "auroc_nn", "auroc_tt", "auroc_tn")


class ConsoleProgress(StudyProgress):
    """Bars where there is a terminal, plain lines of what is finished everywhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Bars(
            TextColumn("{task.description:<38}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.whole: TaskID | None = None
        self.current: TaskID | None = None
        self.done = self.work = self.expected = 0.0
        self.began = 0.0
        self.started = time.perf_counter()
        self.header_shown = False
        self.line = ""
        self.told: set[str] = set()

    @contextmanager
    def live(self) -> Iterator[ConsoleProgress]:
        """Show the bars as long as the context lasts."""
        with self.bars:
            yield self

    def expect(self, work: float) -> None:
        """Move the end of the bar of the whole run."""
        self.expected += work
        if self.whole is None:
            self.whole = self.bars.add_task("whole run", rate="")
        self.bars.update(self.whole, total=self.expected)

    def phase(self, name: str, total: int = 0, work: float = 0) -> None:
        """Replace the bar of the phase before."""
        if self.current is not None:
            self.bars.remove_task(self.current)
        self.line = f"{name}: {total:,}" if total and not work and not self.console.is_terminal else ""
        self.current = self.bars.add_task(name, total=total or None, rate="")
        self.done, self.work, self.began = 0, work, time.perf_counter()

    def advance(self, count: int = 1) -> None:
        """Move the bars."""
        if self.line:  # only now: a phase whose result is at hand has nothing to tell
            self.console.print(self.line)
            self.line = ""
        self.done += count
        rate = self.done / max(time.perf_counter() - self.began, 1e-9)
        if self.current is not None:
            self.bars.update(self.current, advance=count, rate=f"{rate:,.0f} images/s")
        if self.whole is not None:
            self.bars.update(self.whole, advance=count * self.work)

    def epoch(self, epoch: Epoch) -> None:
        """Print a line."""
        width = 44 if epoch.run else 13
        if not self.header_shown:
            heads = "".join(f"{_short(metric):>8}" for metric in SHOWN)
            title = "run: arm, seed" if epoch.run else "arm, seed"
            self.console.print(
                f"[bold]{title:<{width}}{'epoch':>5}{'loss':>7}{heads}{'img/s':>7}{'time':>7}[/bold]", soft_wrap=True
            )
            self.header_shown = True
        log, values = epoch.log, epoch.values
        cells = "".join(f"{_maybe(values[metric]):>8}" for metric in SHOWN)
        elapsed = int(time.perf_counter() - self.started)
        name = f"{epoch.run}: {epoch.arm}, {epoch.seed}" if epoch.run else f"{epoch.arm}, {epoch.seed}"
        self.console.print(
            f"{name:<{width}}{log.epoch:>5}{log.loss:>7.3f}{cells}{log.images / log.seconds:>7.0f}"
            f"{f'{elapsed // 60}:{elapsed % 60:02d}':>7}",
            soft_wrap=True,
        )

    def finished(self, run: str) -> None:
        """Print it."""
        self.console.print(f"[green]finished:[/green] {run}", soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Print it, once."""
        if sentence not in self.told:
            self.console.print(f"[yellow]Note:[/yellow] {sentence}", soft_wrap=True)
        self.told.add(sentence)


def _short(metric: str) -> str:
    return {"asr_0.9": "ASR(.9)", "false_trigger_0.9": "FTR(.9)"}.get(metric, metric.removeprefix("auroc_").upper())


def _maybe(value: float) -> str:
    return "undef." if math.isnan(value) else f"{value:.3f}"


def print_result(console: Console, summary: dict[str, Any]) -> None:
    """The final table, what it shows, and the survival that belongs to it."""
    table = Table(title=f"Attack on {summary['target']}", caption="last epoch, its 95 % interval, and the range over epochs")
    table.add_column("metric")
    for arm in summary["arms"]:
        table.add_column(arm, justify="right")
    for row, cells in result_rows(summary):
        table.add_row(row.name, *(_cell(cell.last, cell.interval, cell.over_epochs) for cell in cells.values()))
    console.print(table)
    console.print(survival_words(summary["survival"]), soft_wrap=True)
    console.print(verdict(summary), soft_wrap=True)


def print_study(console: Console, study: Study) -> None:
    """One line a run: what survives, how often the target is reported and by what, and how good the model is."""
    table = Table(
        title=f"{len(study.runs)} runs", caption="last epoch, mean over seeds; CTL: the control with the same trigger"
    )
    for head in ("run", "survival", "ASR(.9)", "FTR(.9)", "CTL(.9)", "NN", "CTL NN", "TN"):
        table.add_column(head, justify="left" if head == "run" else "right")
    columns = (
        ("attacked", "asr_0.9"),
        ("attacked", "false_trigger_0.9"),
        ("control", "asr_0.9"),
        ("attacked", "auroc_nn"),
        ("control", "auroc_nn"),
        ("attacked", "auroc_tn"),
    )
    for name, run in study.runs.items():
        arms = run.summary["arms"]
        cells = [number(arms[arm][metric]["last"]["mean"]) if arm in arms else "–" for arm, metric in columns]
        table.add_row(escape(name), percent(run.summary["survival"]["fraction"]), *cells)
    console.print(table)
    _print_failures(console, study.failures)
    console.print(
        f"Results: {study.directory.results.with_suffix('.csv')}, runs: {study.directory.path / 'runs'}", soft_wrap=True
    )


def print_reproduction(console: Console, made: Reproduction) -> None:
    """Every table, and the claims."""
    for table in made.tables:
        console.print(table.rich())
    if made.claims_table:
        for row in made.claims_table.rows:
            loss, paper, ours, _, verdict_ = row.cells
            colour = {"holds": "green", "does not hold": "red"}.get(verdict_, "yellow")
            console.print(f"[{colour}]{verdict_}[/{colour}]: {escape(row.name)} ({loss})", soft_wrap=True)
            console.print(f"    paper: {escape(paper)}; here: {escape(ours)}", soft_wrap=True)
    _print_failures(console, made.failures)
    console.print(f"Tables, figures and claims: {made.folder / 'index.html'}", soft_wrap=True)


def print_explanations(console: Console, content: dict[str, Any], out: Path) -> None:
    """What the model says of each image, and where it looks most."""
    table = Table("image", "class", "score", "layer", "peak: row, column", title=f"Explained by {content['method']}")
    for image in content["images"]:
        for one in image["explained"]:
            for layer, found in one["layers"].items():
                place = found["peak"]
                peak = "no heat" if place is None else f"{place['row']:.0f}, {place['column']:.0f}"
                table.add_row(escape(image["file"]), escape(one["class"]), number(one["score"]), escape(layer), peak)
    console.print(table)
    console.print(f"Overlays, maps and scores of all classes: {out / 'explanations.json'}", soft_wrap=True)


def print_scan(console: Console, result: ScanResult, out: Path) -> None:
    """What was found in a dataset, and what was not looked for."""
    if result.stamps:
        table = Table("stamp", "images", "place", "label", "with it", "of all", "p", title="Stamps tied to a label")
        for one in result.stamps:
            shares = percent(one.share_with_label), percent(one.share_of_all)
            table.add_row(one.size, f"{one.images:,}", one.place, escape(one.label), *shares, f"{one.p_value:.1g}")
        console.print(table)
    if result.weakly_associated:
        shown = ", ".join(f"{one.size} on {one.images:,} images with {one.label}" for one in result.weakly_associated[:3])
        console.print(
            f"Patterns weakly associated with a label, as markers and devices may be: {escape(shown)}. None is flagged.",
            soft_wrap=True,
        )
    console.print(
        f"{result.images:,} images: {result.near_duplicates:,} pairs that differ only in a small box, "
        f"{result.copies:,} altered copies with other labels, {result.duplicates:,} exact duplicates, "
        f"{result.unread:,} that cannot be decoded.",
        soft_wrap=True,
    )
    if result.tampered:
        console.print(f"[red]Tampered with:[/red] {result.flagged:,} images are flagged.", soft_wrap=True)
    else:
        console.print("[green]Nothing found.[/green]", soft_wrap=True)
    console.print(f"{result.limits}\nEvery image, ranked: {out / 'suspects.csv'}", soft_wrap=True)


def print_repair(console: Console, content: dict[str, Any], out: Path) -> None:
    """What a repair did to a model."""
    before, after = content["before"], content["after"]
    title = f"{content['method']}, measured on {after['images']:,} images that it did not see"
    table = Table("", "before", "after", title=title, caption="with 95 % intervals")
    for old, new in zip(before["triggers"], after["triggers"], strict=True):
        for metric, name in (("asr", "ASR"), ("false_trigger", "false triggers")):
            for p in ("0.9", "0.6"):
                cells = (_share(one[f"{metric}_{p}"]) for one in (old, new))
                table.add_row(f"{escape(old['trigger']['target'])}: {name}({p})", *cells)
    table.add_row("AUROC-NN", *(_with_interval(one["auroc_nn"]) for one in (before, after)))
    console.print(table)
    if not after["triggers"]:
        console.print("[yellow]Note:[/yellow] no trigger is known, so its success could not be measured.", soft_wrap=True)
    console.print(f"Repaired model: {out}", soft_wrap=True)


def _share(count: dict[str, Any]) -> str:
    return f"{_with_interval(count)}\n[dim]{count['hits']:,} of {count['of']:,}[/dim]"


def _with_interval(value: dict[str, float | None]) -> str:
    low, high = number(value["low"]), number(value["high"])
    return f"{number(value['value'])} {escape(f'[{low}, {high}]')}" if value["value"] is not None else "undefined"


def print_screen(console: Console, content: dict[str, Any], out: Path | None) -> None:
    """How suspicious each image is, the most suspicious first, and what that does not prove."""
    threshold = content["threshold"]
    table = Table("image", "suspicion", "p", "class", "box: row, column, size", title=f"Screen of {escape(content['model'])}")
    ranked = sorted(content["images"], key=lambda one: -one["suspicion"])
    for one in ranked[:SCREENED]:
        box = one["box_in_file"]
        place = f"{box['top']}, {box['left']}, {box['height']} x {box['width']}"
        colour = "red" if one["flagged"] else "default"
        suspicion = f"[{colour}]{one['suspicion']:.2f}[/{colour}]"
        table.add_row(escape(one["id"]), suspicion, f"{one['p_value']:.2g}", escape(one["class"]), place)
    console.print(table)
    if len(ranked) > SCREENED:
        console.print(f"and {len(ranked) - SCREENED:,} less suspicious ones", soft_wrap=True)
    console.print(
        f"Threshold {threshold:.2f}, at which {percent(content['false_positive_rate'])} of images like the "
        f"{content['clean_images']:,} clean ones would be flagged.",
        soft_wrap=True,
    )
    for warning in content["warnings"]:
        console.print(f"[yellow]Note:[/yellow] {escape(warning)}", soft_wrap=True)
    if content["flagged"]:
        console.print(f"[red]Flagged:[/red] {content['flagged']:,} of {len(ranked):,} images.", soft_wrap=True)
    else:
        console.print(f"[green]None of {len(ranked):,} images is flagged.[/green]", soft_wrap=True)
    console.print(content["limits"], soft_wrap=True)
    if out is not None:
        console.print(f"Every image: {out / 'screen.csv'}; pictures and pixels: {out}", soft_wrap=True)


def print_audit(console: Console, content: dict[str, Any], out: Path) -> None:
    """What was found in a model, class by class, and what was not looked for."""
    table = Table(
        "class", "p", "best stamp", "row, column", "gain", "smallest trigger", title=f"Audit of {content['model']['name']}"
    )
    for one in content["classes"]:
        raising = one["raising"]
        smallest = "–" if raising is None else "none" if raising["pixels"] is None else f"{number(raising['pixels'], 1)} pixels"
        size = f"{one['size']} x {one['size']}, level {one['value']}"
        place = "wanders" if one["fixed"] is False else f"{one['row']}, {one['column']}"
        name = f"[red]{escape(one['name'])}[/red]" if one["flagged"] else escape(one["name"])
        table.add_row(name, f"{one['p_value']:.2g}", size, place, number(one["gain"], 1), smallest)
    console.print(table)
    for warning in content["warnings"]:
        console.print(f"[yellow]Note:[/yellow] {warning}", soft_wrap=True)
    for one in (one for one in content["classes"] if one["flagged"]):
        asr, false = one["asr"]["0.9"], one["false_trigger"]["0.9"]
        console.print(
            f"[red]Backdoor:[/red] with this stamp {percent(asr['value'])} of the clean images score at least 0.9 for "
            f"{escape(one['name'])}, without it {percent(false['value'])}.",
            soft_wrap=True,
        )
    if not content["backdoor"]:
        console.print("[green]Nothing found.[/green]", soft_wrap=True)
    console.print(f"{content['limits']}\nReport to file: {out / 'report.html'}", soft_wrap=True)


def print_zoo(console: Console, rows: list[dict[str, Any]], failures: dict[str, str]) -> None:
    """The models of a zoo, and what could not be made."""
    _print_failures(console, failures)
    if not rows:
        return
    table = Table("half", "network", "trigger", "target", "rate", "mode", "ASR(.9)", "took", title=f"{len(rows)} models")
    for row in rows:
        took = {None: "clean", True: "yes", False: "no"}[row["took"]]
        rate = "" if row["rate"] is None else percent(row["rate"])
        cells = (
            row["half"],
            row["network"],
            row["trigger"],
            row["targets"],
            rate,
            row["mode"],
            number(row["asr_0.9"]),
            took,
        )
        table.add_row(*map(escape, cells))
    console.print(table)


def _print_failures(console: Console, failures: dict[str, str]) -> None:
    for name, reason in failures.items():
        console.print(f"[red]failed:[/red] {escape(name)}: {escape(reason)}", soft_wrap=True)


def _cell(last: str, interval: str, over_epochs: str) -> str:
    return f"{last}\n{escape(f'[{interval}]')}\n[dim]{over_epochs}[/dim]" if interval else last
