"""`petechia zoo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petechia.cli.common import Device, Precision, Ray, Set, Threads, console, overrides, reported, table
from petechia.cli.run import show_failures

if TYPE_CHECKING:
    from petechia.zoo.result import Zoo


def zoo(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the zoo. Models that it holds are not trained again.")],
    design: Annotated[
        Path | None,
        typer.Option(metavar="DESIGN.yaml", help="Which models to train. Default: 32 attacks on 14 networks, for two cores."),
    ] = None,
    set_: Set = None,
    ray: Ray = None,
    describe: Annotated[bool, typer.Option("--describe", help="Train nothing; list the models that are there.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Train a set of clean and backdoored models to try detectors on: one half to tune them, the other to judge them."""
    import petechia
    from petechia.cli.progress import ConsoleProgress

    if describe:
        show_zoo(petechia.make_zoo(out, describe=True))
        return
    given = overrides(set_, device=device, precision=precision, threads=threads)
    with reported(out), ConsoleProgress().live() as progress:
        made = petechia.make_zoo(out, design, overrides=given, ray=ray, progress=progress)
    show_failures(made.failures)
    show_zoo(made)


def show_zoo(made: Zoo) -> None:
    """The models of a zoo."""
    from petechia.reports.tables import number, percent

    if not made.models:
        return
    took = {None: "clean", True: "yes", False: "no"}
    rows = [
        [
            one.half,
            one.network,
            one.trigger,
            one.targets,
            "" if one.rate is None else percent(one.rate),
            one.mode,
            number(one.asr),
            took[one.took],
        ]
        for one in made.models
    ]
    heads = ("half", "network", "trigger", "target", "rate", "mode", "ASR(.9)", "took")
    console.print(table(*heads, title=f"{len(rows)} models", rows=rows))
