"""`petechia screen`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from petechia.cli.common import (
    Detector,
    Device,
    Evidence,
    ModelArgument,
    Precision,
    Sarif,
    Threads,
    console,
    examine_with,
    note,
    refuse_exports,
    save_exports,
    say,
    say_labelled,
    table,
    tell_not_read,
)
from petechia.core.files import refuse_existing

if TYPE_CHECKING:
    from petechia.detect.screen.result import ScreenedImage, ScreenResult

SHOWN = 30  # images that are shown, the most suspicious first


def screen(
    context: typer.Context,
    model: ModelArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, TIFF or DICOM files, folders, or a data source.")
    ],
    clean: Annotated[
        str,
        typer.Option(
            metavar="DIR|SOURCE", help="100 to 200 clean images: a folder or a data source. The default rate needs 99."
        ),
    ],
    fpr: Annotated[float, typer.Option(metavar="RATE", help="Share of clean images that may be flagged.")] = 0.01,
    target: Annotated[str | None, typer.Option(metavar="CLASS", help="Class to look at. Default: any.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder for screen.json, screen.csv and pictures.")
    ] = None,
    sarif: Sarif = None,
    evidence: Evidence = None,
    detector: Detector = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Do images carry a trigger? Exit status: 0 nothing found, 3 images are flagged."""
    import petechia
    from petechia.cli.progress import ConsoleProgress

    if out is not None:
        refuse_existing(out)
    refuse_exports(sarif, evidence, out)
    if detector is not None:
        examine_with(
            detector,
            out,
            sarif,
            evidence,
            context,
            model=model,
            images=images,
            clean=clean,
            device=device,
            precision=precision,
            threads=threads,
        )
        return
    with ConsoleProgress().live() as progress:
        result = petechia.screen(
            model,
            images,
            clean,
            fpr=fpr,
            target=target,
            progress=progress,
            device=device,
            precision=precision,
            threads=threads,
        )
    if out is not None:
        result.save(out)
    show_screen(result, out)
    save_exports(result, out, sarif, evidence, "screen")
    if result.flagged:
        raise typer.Exit(3)


def show_screen(result: ScreenResult, out: Path | None) -> None:
    """How suspicious each image is, the most suspicious first, and what a screen does not show."""
    ranked = [one for _, one in result.ranked()]
    heads = ("image", "suspicion", "p-value", "class", "where: row, column, size")
    console.print(table(*heads, title=f"Screen of {result.model}", rows=[_row(one) for one in ranked[:SHOWN]]))
    if len(ranked) > SHOWN:
        say(f"and {len(ranked) - SHOWN:,} less suspicious images")
    say(
        f"Threshold {result.threshold:.2f}: {100 * result.false_positive_rate:.1f} % of images like the "
        f"{result.clean_images:,} clean ones would be flagged."
    )
    for warning in result.warnings:
        note(warning)
    if result.flagged:
        say_labelled("Flagged:", "red", f"{result.flagged:,} of {len(ranked):,} images.")
    else:
        say(f"None of {len(ranked):,} images is flagged.", "green")
    tell_not_read(result.not_read)
    tell_not_read(result.clean_not_read, "Beside the clean images. ")
    say(result.limits)
    if out is not None:
        say(f"Every image: {out / 'screen.csv'}; pictures and pixels: {out}")


def _row(one: ScreenedImage) -> list[str | Text]:
    box = one.box_in_file
    return [
        one.id,
        Text(f"{one.suspicion:.2f}", "red" if one.flagged else ""),
        f"{one.p_value:.2g}",
        one.class_,
        "all of it" if one.extent == "whole" else f"{box.top}, {box.left}, {box.height} x {box.width}",
    ]
