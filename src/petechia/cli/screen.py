"""`petechia screen`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from petechia.cli.common import console

if TYPE_CHECKING:
    from petechia.detect.screen.result import ScreenResult

SCREENED = 30  # images that are shown, the most suspicious first


def screen(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A .safetensors, .onnx or .pt2 file, timm:NAME, timm:NAME:FILE or xrv:NAME."),
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, TIFF or DICOM files, folders, or a source.")
    ],
    clean: Annotated[str, typer.Option(metavar="DIR", help="Clean images, 50 to 200: a folder, a file or a source.")],
    fpr: Annotated[float, typer.Option(metavar="RATE", help="Share of clean images that may be flagged.")] = 0.01,
    target: Annotated[str | None, typer.Option(metavar="CLASS", help="The one class to look at; else any.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for screen.json, screen.csv and pictures.")
    ] = None,
) -> None:
    """Does a single image carry a trigger? Exit status 0: nothing found; 3: images are flagged."""
    from petechia.cli.progress import ConsoleProgress
    from petechia.core.files import refuse_existing
    from petechia.core.runtime import Compute
    from petechia.detect.collection import read_collection
    from petechia.detect.protocol import ImagesUnderTest
    from petechia.detect.screen.detector import CLEAN, ImageScreen
    from petechia.models.openers import open_classifier

    if out is not None:
        refuse_existing(out)
    classifier = open_classifier(model, Compute().start())
    with ConsoleProgress().live() as progress:
        trusted = read_collection([clean], classifier, CLEAN)
        given = read_collection(images, classifier)
        detector = ImageScreen(fpr, target)
        calibration = detector.calibrate([ImagesUnderTest(classifier, trusted.images)], progress)
        subject = ImagesUnderTest(classifier, given.images, given.ids, given.shapes)
        result = detector.examine(subject, calibration, progress)
    if out is not None:
        result.save(out)
    print_screen(console, result, out)
    if result.flagged:
        raise typer.Exit(3)


def print_screen(console: Console, result: ScreenResult, out: Path | None) -> None:
    """How suspicious each image is, the most suspicious first, and what a screen does not show."""
    from petechia.reports.tables import percent

    table = Table("image", "suspicion", "p", "class", "box: row, column, size", title=f"Screen of {escape(result.model)}")
    ranked = result.ranked()
    for _, one in ranked[:SCREENED]:
        box = one.box_in_file
        colour = "red" if one.flagged else "default"
        suspicion = f"[{colour}]{one.suspicion:.2f}[/{colour}]"
        place = f"{box.top}, {box.left}, {box.height} x {box.width}"
        table.add_row(escape(one.id), suspicion, f"{one.p_value:.2g}", escape(one.class_), place)
    console.print(table)
    if len(ranked) > SCREENED:
        console.print(f"and {len(ranked) - SCREENED:,} less suspicious images", soft_wrap=True)
    console.print(
        f"Threshold {result.threshold:.2f}: {percent(result.false_positive_rate)} of images like the "
        f"{result.clean_images:,} clean ones would be flagged.",
        soft_wrap=True,
    )
    for warning in result.warnings:
        console.print(f"[yellow]Note:[/yellow] {escape(warning)}", soft_wrap=True)
    if result.flagged:
        console.print(f"[red]Flagged:[/red] {result.flagged:,} of {len(ranked):,} images.", soft_wrap=True)
    else:
        console.print(f"[green]None of {len(ranked):,} images is flagged.[/green]", soft_wrap=True)
    console.print(result.limits, soft_wrap=True)
    if out is not None:
        console.print(f"Every image: {out / 'screen.csv'}; pictures and pixels: {out}", soft_wrap=True)
