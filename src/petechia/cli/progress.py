"""Live progress on the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from petechia.cli.common import console, note, say, say_labelled
from petechia.study.progress import Epoch, StudyProgress

SHOWN = ("asr_0.9", "false_trigger_0.9", "auroc_nn", "auroc_tt", "auroc_tn")


class ConsoleProgress(StudyProgress):
    """Bars where there is a terminal; everywhere, one plain line for each phase and each epoch."""

    def __init__(self) -> None:
        self.bars = Bars(
            TextColumn("{task.description:<38}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]}", markup=False),
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
        self.noted: set[str] = set()

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
        """Replace the bar of the previous phase."""
        if self.current is not None:
            self.bars.remove_task(self.current)
        self.line = f"{name}: {total:,}" if total and not work and not console.is_terminal else ""
        self.current = self.bars.add_task(name, total=total or None, rate="")
        self.done, self.work, self.began = 0, work, time.perf_counter()

    def advance(self, count: int = 1) -> None:
        """Move the bars."""
        if self.line:  # printed only now, so that a phase whose result is cached prints nothing
            say(self.line)
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
            say(f"{title:<{width}}{'epoch':>5}{'loss':>7}{heads}{'img/s':>7}{'time':>7}", "bold")
            self.header_shown = True
        log, values = epoch.log, epoch.values
        cells = "".join(f"{_maybe(values[metric]):>8}" for metric in SHOWN)
        elapsed = int(time.perf_counter() - self.started)
        name = f"{epoch.run}: {epoch.arm}, {epoch.seed}" if epoch.run else f"{epoch.arm}, {epoch.seed}"
        say(
            f"{name:<{width}}{log.epoch:>5}{log.loss:>7.3f}{cells}{log.images / log.seconds:>7.0f}"
            f"{f'{elapsed // 60}:{elapsed % 60:02d}':>7}"
        )

    def finished(self, run: str) -> None:
        """Print it."""
        say_labelled("finished:", "green", run)

    def note(self, sentence: str) -> None:
        """Print it, once."""
        if sentence not in self.noted:
            note(sentence)
        self.noted.add(sentence)


def _short(metric: str) -> str:
    return {"asr_0.9": "ASR(.9)", "false_trigger_0.9": "FTR(.9)"}.get(metric, metric.removeprefix("auroc_").upper())


def _maybe(value: float) -> str:
    return "undef." if math.isnan(value) else f"{value:.3f}"
