"""`petechia scan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from petechia.cli.common import Missing, OnError, console
from petechia.core.settings import FORMS

SCREENED = 30  # images that are shown, the most suspicious first


def scan(
    source: Annotated[str, typer.Argument(metavar="DATASET", help=f"{FORMS}.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for suspects.csv, scan.json and stamps.")],
    clean_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for the dataset without what is flagged.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A classifier, trained on the images or not; its features add to the ranking."),
    ] = None,
    missing: Missing = None,
    on_error: OnError = None,
) -> None:
    """Was a dataset tampered with? Exit status 0: nothing found; 3: images are flagged."""
    from petechia.cli.progress import ConsoleProgress
    from petechia.core.files import refuse_existing
    from petechia.data import open_source
    from petechia.detect.scan.files import write_clean, write_scan
    from petechia.detect.scan.suspects import scan as scan_catalog

    for folder, option in ((out, "--out"), (clean_to, "--clean-to")):
        if folder is not None:
            refuse_existing(folder, option)
    classifier = None
    if model is not None:
        from petechia.core.runtime import Compute
        from petechia.models.openers import open_classifier

        classifier = open_classifier(model, Compute().start())
    catalog = open_source(source, missing or "error")
    with ConsoleProgress().live() as progress:
        found = scan_catalog(catalog, on_error or "error", progress, classifier)
    print_scan(console, write_scan(found, out), out)
    if clean_to is not None:
        console.print(f"Clean dataset: {clean_to}, {write_clean(found, clean_to):,} images", soft_wrap=True)
    if found.found:
        raise typer.Exit(3)


def print_scan(console: Console, content: dict[str, Any], out: Path) -> None:
    """What was found in a dataset, and what was not looked for."""
    from petechia.reports.tables import percent

    if content["stamps"]:
        table = Table("stamp", "images", "place", "label", "with it", "of all", "p", title="Stamps that command a label")
        for one in content["stamps"]:
            place = "wanders" if one["row"] is None else f"row {one['row']}, column {one['column']}"
            shares = percent(one["share_with_label"]), percent(one["share_of_all"])
            size = f"{one['height']} x {one['width']}"
            table.add_row(size, f"{one['images']:,}", place, escape(one["label"]), *shares, f"{one['p_value']:.1g}")
        console.print(table)
    if content["leaning"]:
        shown = ", ".join(
            f"{one['height']} x {one['width']} on {one['images']:,} images to {one['label']}" for one in content["leaning"][:3]
        )
        console.print(
            f"Patterns that lean to a label, as markers and devices may: {escape(shown)}. None is flagged.", soft_wrap=True
        )
    console.print(
        f"{content['images']:,} images: {content['twins']:,} pairs that differ in a small box alone, "
        f"{content['copies']:,} altered copies with other labels, {content['duplicates']:,} exact duplicates, "
        f"{content['unread']:,} that cannot be decoded.",
        soft_wrap=True,
    )
    if content["tampered"]:
        console.print(f"[red]Tampered with:[/red] {content['flagged']:,} images are flagged.", soft_wrap=True)
    else:
        console.print("[green]Nothing found.[/green]", soft_wrap=True)
    console.print(f"{content['limits']}\nEvery image, ranked: {out / 'suspects.csv'}", soft_wrap=True)
