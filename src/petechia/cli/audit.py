"""`petechia audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from petechia.cli.common import MODELS, Threads, console

SCREENED = 30  # images that are shown, the most suspicious first


def audit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODELS}.")],
    clean: Annotated[
        list[str], typer.Option(metavar="DIR|SOURCE", help="Clean images: a folder, or a data source; repeatable.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for audit.json and report.html.")],
    images: Annotated[int, typer.Option(min=1, help="Clean images to use, at most.")] = 100,
    stamps_only: Annotated[
        bool, typer.Option("--stamps-only", help="Look for square stamps alone: quicker, and blind to wide and faint triggers.")
    ] = False,
    threads: Threads = 0,
) -> None:
    """Does a model carry a backdoor? Exit status 0: nothing found; 3: found."""
    from petechia.cli.progress import ConsoleProgress
    from petechia.core.files import refuse_existing, sha256
    from petechia.core.runtime import Compute
    from petechia.detect.audit.audit import audit as examine
    from petechia.detect.audit.reconstruct import STEPS
    from petechia.detect.collection import read_collection
    from petechia.models.openers import open_classifier
    from petechia.reports.audit import Origin, write_audit

    refuse_existing(out)
    classifier = open_classifier(model, Compute(threads=threads).start())
    with ConsoleProgress().live() as progress:
        progress.phase("reading clean images", images)
        collection = read_collection(clean, classifier, images, progress)
        found = examine(classifier, collection.images, 0 if stamps_only else STEPS, progress)
    file = Path(model)
    origin = Origin(file.name, sha256(file), ", ".join(clean)) if file.is_file() else Origin(model, None, ", ".join(clean))
    print_audit(console, write_audit(found, origin, out), out)
    if found.backdoor:
        raise typer.Exit(3)


def print_audit(console: Console, content: dict[str, Any], out: Path) -> None:
    """What was found in a model, class by class, and what was not looked for."""
    from petechia.reports.tables import number, percent

    table = Table(
        "class", "p", "best stamp", "row, column", "gain", "smallest trigger", title=f"Audit of {content['model']['name']}"
    )
    for one in content["classes"]:
        raising = one["raising"]
        smallest = "–" if raising is None else "none" if raising["pixels"] is None else f"{number(raising['pixels'], 1)} pixels"
        size = f"{one['size']} x {one['size']}, level {one['value']}"
        place = "wanders" if one["fixed"] is False else f"{one['row']}, {one['column']}"
        name = f"[red]{escape(one['name'])}[/red]" if one["flagged"] else escape(one["name"])
        table.add_row(name, f"{one['p_value']:.2g}", size, place, number(one["gain"], 1), smallest)
    console.print(table)
    for warning in content["warnings"]:
        console.print(f"[yellow]Note:[/yellow] {warning}", soft_wrap=True)
    for one in (one for one in content["classes"] if one["flagged"]):
        asr, false = one["asr"]["0.9"], one["false_trigger"]["0.9"]
        console.print(
            f"[red]Backdoor:[/red] with this stamp {percent(asr['value'])} of the clean images score at least 0.9 for "
            f"{escape(one['name'])}, without it {percent(false['value'])}.",
            soft_wrap=True,
        )
    if not content["backdoor"]:
        console.print("[green]Nothing found.[/green]", soft_wrap=True)
    console.print(f"{content['limits']}\nReport to file: {out / 'report.html'}", soft_wrap=True)
