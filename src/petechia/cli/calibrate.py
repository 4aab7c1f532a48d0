"""`petechia calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petechia.cli.common import Device, Precision, Threads, say


def calibrate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Clean models, as for audit; 60 or more.")],
    clean: Annotated[
        list[str], typer.Option(metavar="DIR|SOURCE", help="Clean images: a folder or a data source. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="Calibration to write; if it exists, models are added to it.")],
    images: Annotated[int, typer.Option(min=1, help="Clean images to use, at most.")] = 100,
    quick: Annotated[bool, typer.Option("--quick", help="For audits with --quick.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Measure clean models of your own for audit --calibration. A killed command goes on where it was."""
    import petechia
    from petechia.cli.progress import ConsoleProgress

    with ConsoleProgress().live() as progress:
        found = petechia.calibrate(
            models,
            clean,
            out,
            images=images,
            quick=quick,
            progress=progress,
            device=device,
            precision=precision,
            threads=threads,
        )
    say(f"Measured on {found.measured_on}. A class is flagged when its p-value is at most {found.values['level']:.2g}.")
    say(f"Calibration: {out}")
