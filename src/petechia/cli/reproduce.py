"""`petechia reproduce`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from petechia.cli.common import (
    Data,
    Device,
    Missing,
    OnError,
    Precision,
    Ray,
    Set,
    Threads,
    Track,
    console,
    overrides,
    say,
    say_labelled,
)
from petechia.cli.run import show_failures

if TYPE_CHECKING:
    from petechia.paper import Reproduction


class PartOrAll(StrEnum):
    """What can be asked for; typer takes no lists of literals."""

    TABLE_1 = "table-1"
    TABLE_2 = "table-2"
    TABLE_3 = "table-3"
    FIGURE_1 = "figure-1"
    FIGURE_3 = "figure-3"
    ALL = "all"


def reproduce(
    parts: Annotated[
        list[PartOrAll] | None, typer.Argument(metavar="[PART]...", help="Parts of the paper. Default: all.")
    ] = None,
    preset: Annotated[
        Literal["desk", "paper"], typer.Option(help="desk: about an hour on two cores. paper: the authors' pipeline.")
    ] = "desk",
    data: Data = None,
    set_: Set = None,
    missing: Missing = None,
    on_error: OnError = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Study directory. Default: runs/reproduce-PRESET.")] = None,
    ray: Ray = None,
    track: Track = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Make the paper's tables and figures, and check its claims one by one.

    PART is table-1, table-2, table-3, figure-1, figure-3 or all. Finished work in the directory is kept, so the same command
    resumes a study that was stopped.
    """
    import petechia
    from petechia.cli.progress import ConsoleProgress
    from petechia.paper import PARTS

    wanted = [part for part in PARTS if not parts or "all" in parts or part in parts]
    given = overrides(set_, missing, on_error, device, precision, threads)
    with ConsoleProgress().live() as progress:
        made = petechia.reproduce(wanted, preset, data, given, out, progress=progress, ray=ray, track=track)
    show_reproduction(made)


def show_reproduction(made: Reproduction) -> None:
    """Every table, and the claims."""
    for one in made.tables:
        console.print(one.rich())
    if made.claims_table:
        for row in made.claims_table.rows:
            loss, paper, ours, _, verdict = row.cells
            colour = {"holds": "green", "does not hold": "red"}.get(verdict, "yellow")
            say_labelled(f"{verdict}:", colour, f"{row.name} ({loss})")
            say(f"    paper: {paper}; here: {ours}")
    show_failures(made.failures)
    say(f"Tables, figures and claims: {made.folder / 'index.html'}")
