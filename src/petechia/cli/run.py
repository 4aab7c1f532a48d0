"""`petechia run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petechia.cli.common import (
    ConfigFile,
    Data,
    Device,
    Missing,
    OnError,
    Precision,
    Preset,
    Ray,
    Set,
    Threads,
    Track,
    console,
    overrides,
    reported,
    say,
    say_labelled,
    table,
    tell_not_read,
)
from petechia.core.errors import PetechiaError

if TYPE_CHECKING:
    from petechia.study import Config, Run
    from petechia.study.study import Study

Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory. Default: a new one below runs/.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")]


def run(
    config: ConfigFile = None,
    data: Data = None,
    set_: Set = None,
    preset: Preset = "desk",
    missing: Missing = None,
    on_error: OnError = None,
    out: Out = None,
    resume: Resume = False,
    ray: Ray = None,
    track: Track = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Poison a dataset, train the attacked model and its controls, measure them, and write a report.

    With a grid in the configuration, do this for every combination of its values.
    """
    import petechia
    from petechia.cli.progress import ConsoleProgress
    from petechia.core.processes import ProcessInfo
    from petechia.study import free_directory, load_config

    console.quiet = not ProcessInfo.of_this_process().is_main  # of torchrun's processes only one prints
    given = overrides(set_, missing, on_error, device, precision, threads)
    asked = config is not None or data is not None or bool(given) or preset != "desk"
    if resume and out is None:
        raise PetechiaError("--resume needs --out, the folder of the run to resume.")
    settings = load_config(config, preset, data, given) if asked or not resume else None
    if (settings is not None and settings.grid) or (settings is None and out and (out / "study.json").is_file()):
        _run_study(settings, out, resume, ray, track)
        return
    folder = out or free_directory(settings or load_config()).path
    with reported(folder), ConsoleProgress().live() as progress:
        finished = petechia.run(settings, folder, resume=resume, progress=progress, track=track, ray=ray)
    show_run(finished)
    say(f"Report: {finished.directory.report}")


def _run_study(settings: Config | None, out: Path | None, resume: bool, ray: str | None, track: str | None) -> None:
    import petechia
    from petechia.cli.progress import ConsoleProgress
    from petechia.study import free_directory, load_config

    folder = out or free_directory(settings or load_config()).path
    with reported(folder), ConsoleProgress().live() as progress:
        study = petechia.run_study(settings, folder, resume=resume, progress=progress, ray=ray, track=track)
    show_study(study)
    if study.failures:
        raise typer.Exit(1)


def show_run(run: Run) -> None:
    """The final table, what it shows, and the survival that belongs to it."""
    from petechia.reports import result_rows, verdict
    from petechia.study.runner import survival_words

    rows = [
        [row.name, *(_cell(cell.last, cell.interval, cell.over_epochs) for cell in cells.values())]
        for row, cells in result_rows(run)
    ]
    caption = "last epoch, its 95 % interval, and the range over epochs"
    console.print(table("metric", *run.arms, title=f"Attack on {run.target}", caption=caption, rows=rows, right=len(run.arms)))
    say(survival_words(run.survival))
    tell_not_read(run.not_read)
    say(verdict(run))


def _cell(last: str, interval: str, over_epochs: str) -> str:
    return f"{last}\n[{interval}]\n{over_epochs}" if interval else last


COLUMNS = (
    ("attacked", "asr_0.9"),
    ("attacked", "false_trigger_0.9"),
    ("control", "asr_0.9"),
    ("attacked", "auroc_nn"),
    ("control", "auroc_nn"),
    ("attacked", "auroc_tn"),
)


def show_study(study: Study) -> None:
    """One line a run: what survives, how often the target is reported and why, and how good the model is."""
    from petechia.reports.tables import number, percent

    rows = [
        [
            name,
            percent(run.survival.fraction),
            *(number(run.arms[arm][metric].last.mean) if arm in run.arms else "–" for arm, metric in COLUMNS),
        ]
        for name, run in study.runs.items()
    ]
    heads = ("run", "survival", "ASR(.9)", "FTR(.9)", "CTL(.9)", "NN", "CTL NN", "TN")
    caption = "last epoch, mean over seeds; CTL: the control with the same trigger"
    console.print(table(*heads, title=f"{len(study.runs)} runs", caption=caption, rows=rows, right=len(heads) - 1))
    for not_read in {str(run.not_read): run.not_read for run in study.runs.values()}.values():
        tell_not_read(not_read)
    show_failures(study.failures)
    say(f"Results: {study.directory.results.with_suffix('.csv')}, runs: {study.directory.path / 'runs'}")


def show_failures(failures: dict[str, str]) -> None:
    """Why runs failed."""
    for name, reason in failures.items():
        say_labelled("failed:", "red", f"{name}: {reason}")
