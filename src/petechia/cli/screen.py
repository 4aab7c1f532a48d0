"""`petechia screen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from petechia.cli.common import console

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
    """Is a single image carrying a trigger? Exit status 0: nothing found; 3: images are flagged."""
    from petechia.cli.progress import ConsoleProgress
    from petechia.core.files import refuse_existing
    from petechia.core.runtime import Compute
    from petechia.detect.collection import read_collection
    from petechia.detect.screen import Screen
    from petechia.detect.screen.files import CLEAN, report_of, write_screen
    from petechia.models.openers import open_classifier

    if out is not None:
        refuse_existing(out)
    classifier = open_classifier(model, Compute().start())
    with ConsoleProgress().live() as progress:
        trusted = read_collection([clean], classifier, CLEAN)
        given = read_collection(images, classifier)
        progress.phase("examining clean images", len(trusted.ids))
        fitted = Screen.fit(classifier, trusted.images, fpr, target, progress=progress)
        progress.phase("screening images", len(given.ids))
        evidence = fitted.evidence(given.images, progress)
    content = report_of(fitted, given, evidence)
    if out is not None:
        write_screen(content, given, evidence, out)
    print_screen(console, content, out)
    if content["flagged"]:
        raise typer.Exit(3)


def print_screen(console: Console, content: dict[str, Any], out: Path | None) -> None:
    """How suspicious each image is, the most suspicious first, and what that does not prove."""
    from petechia.reports.tables import percent

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
