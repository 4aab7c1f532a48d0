"""What the terminal shows: live progress, and the final table."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from petechia.report import result_rows, verdict
from petechia.report.tables import number, percent
from petechia.study import Epoch, Progress

SHOWN = ("asr_0.9", "false_trigger_0.9", "auroc_nn", "auroc_tt", "auroc_tn")


class ConsoleProgress(Progress):
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

    def phase(self, name: str, images: int, work: float = 0) -> None:
        """Replace the bar of the phase before."""
        if self.current is not None:
            self.bars.remove_task(self.current)
        if images and not work and not self.console.is_terminal:
            self.console.print(f"{name}: {images:,}")
        self.current = self.bars.add_task(name, total=images or None, rate="")
        self.done, self.work, self.began = 0, work, time.perf_counter()

    def advance(self, images: int) -> None:
        """Move the bars."""
        self.done += images
        rate = self.done / max(time.perf_counter() - self.began, 1e-9)
        if self.current is not None:
            self.bars.update(self.current, advance=images, rate=f"{rate:,.0f} images/s")
        if self.whole is not None:
            self.bars.update(self.whole, advance=images * self.work)

    def epoch(self, epoch: Epoch) -> None:
        """Print a line."""
        if not self.header_shown:
            heads = "".join(f"{_short(metric):>8}" for metric in SHOWN)
            self.console.print(
                f"[bold]{'arm, seed':<13}{'epoch':>5}{'loss':>7}{heads}{'img/s':>7}{'time':>7}[/bold]", soft_wrap=True
            )
            self.header_shown = True
        log, values = epoch.log, epoch.measurement.values
        cells = "".join(f"{_maybe(values[metric]):>8}" for metric in SHOWN)
        elapsed = int(time.perf_counter() - self.started)
        self.console.print(
            f"{f'{epoch.arm}, {epoch.seed}':<13}{log.epoch:>5}{log.loss:>7.3f}{cells}{log.images / log.seconds:>7.0f}"
            f"{f'{elapsed // 60}:{elapsed % 60:02d}':>7}",
            soft_wrap=True,
        )

    def note(self, sentence: str) -> None:
        """Print it."""
        self.console.print(f"[yellow]Note:[/yellow] {sentence}", soft_wrap=True)


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
    survival = summary["survival"]
    console.print(
        f"Trigger survival: {percent(survival['fraction'])} of the triggered inputs differ from their clean twin, "
        f"in {number(survival['pixels'], 2)} pixels on average.",
        soft_wrap=True,
    )
    console.print(verdict(summary), soft_wrap=True)


def _cell(last: str, interval: str, over_epochs: str) -> str:
    return f"{last}\n{escape(f'[{interval}]')}\n[dim]{over_epochs}[/dim]" if interval else last
