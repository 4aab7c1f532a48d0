"""`petechia report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from petechia.cli.common import say


def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it. Default: report.html in the run.")
    ] = None,
    pictures: Annotated[
        Literal["own", "phantom", "none"],
        typer.Option(help="own: test images of the run. phantom: the same attack on drawn images, to share. none: no images."),
    ] = "own",
) -> None:
    """Write the report of a finished run again, for example without patients' images."""
    import petechia

    say(f"Report: {petechia.report(directory, out, pictures)}")
