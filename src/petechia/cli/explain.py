"""`petechia explain`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petechia.cli.common import Device, ModelArgument, Precision, Threads, console, note, say, table, tell_not_read
from petechia.core.errors import alternatives
from petechia.saliency.registry import METHODS

if TYPE_CHECKING:
    from petechia.saliency.result import Explanations

# Of all registered methods; plugins are named without being imported.
MethodName = StrEnum("MethodName", [(name, name) for name in METHODS])  # type: ignore[misc]
GRADCAM = MethodName("gradcam")


def explain(
    model: ModelArgument,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, TIFF or DICOM files, or a data source.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for overlays, maps and explanations.json.")],
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Class to explain. Repeatable. Default: each image's highest-scoring class."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="last, middle, or a module's name. Repeatable. Default: last and, if any, middle."),
    ] = None,
    method: Annotated[MethodName, typer.Option(metavar="METHOD", help=f"{alternatives(METHODS)}.")] = GRADCAM,
    dicom: Annotated[bool, typer.Option("--dicom", help="Also write overlays as DICOM secondary captures.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Show where a model looks in some images."""
    import petechia
    from petechia.cli.progress import ConsoleProgress

    with ConsoleProgress().live() as progress:
        found = petechia.explain(
            model,
            images,
            targets=target or (),
            layers=layer or None,
            method=method.value,
            dicom=dicom,
            out=out,
            progress=progress,
            device=device,
            precision=precision,
            threads=threads,
        )
    show_explanations(found, out)


def show_explanations(found: Explanations, out: Path) -> None:
    """What the model says of each image, and where it looks most."""
    rows = [
        [
            image.file,
            one.class_,
            f"{one.score:.3f}",
            layer,
            f"{mapped.peak.row:.0f}, {mapped.peak.column:.0f}" if mapped.peak else "no heat",
        ]
        for image in found.images
        for one in image.explained
        for layer, mapped in one.layers.items()
    ]
    heads = ("image", "class", "score", "layer", "peak: row, column")
    console.print(table(*heads, title=f"Explained by {found.method}", rows=rows))
    for warning in found.warnings:
        note(warning)
    tell_not_read(found.not_read)
    say(f"Overlays, maps and scores of all classes: {out / found.file_name}")
