"""`petechia scan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petechia.cli.common import (
    FORMS,
    Detector,
    Device,
    Evidence,
    Missing,
    OnError,
    Precision,
    ReadingRay,
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
from petechia.core.errors import PetechiaError
from petechia.core.files import refuse_existing, refuse_overlap

if TYPE_CHECKING:
    from petechia.detect.scan import ScanResult

NOT_ALL_LOOKED_AT = 4  # exit status of --strict


def scan(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="DATASET", help=f"Data source: {FORMS}.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for suspects.csv, scan.json and pictures of stamps.")],
    clean_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder for the dataset without the flagged images.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A classifier, trained on the images or not. Its features add to the ranking."),
    ] = None,
    missing: Missing = None,
    on_error: OnError = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 4 if nothing is found but images could not be looked at.")
    ] = False,
    sarif: Sarif = None,
    evidence: Evidence = None,
    detector: Detector = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
    ray: ReadingRay = None,
) -> None:
    """Was a dataset tampered with? Exit status: 0 nothing found, 3 images are flagged, 4 see --strict."""
    import petechia
    from petechia.cli.progress import ConsoleProgress

    earlier = _check_outputs(out, clean_to)
    refuse_exports(sarif, evidence, out)
    if detector is not None:
        examine_with(detector, out, sarif, evidence, context, dataset=source)
        return
    with ConsoleProgress().live() as progress:
        result = petechia.scan(
            source,
            model=model,
            missing=missing or "error",
            on_error=on_error or "error",
            progress=progress,
            device=device,
            precision=precision,
            threads=threads,
            ray=ray,
        )
    if earlier is None:
        result.save(out)
    elif result != earlier or not result.suspects.equals(earlier.suspects):
        raise PetechiaError(f"{out} holds a scan that found something else; choose another --out.")
    show_scan(result, out)
    if clean_to is not None:
        say(f"Clean dataset: {clean_to}, {result.write_clean(clean_to):,} images")
    save_exports(result, out, sarif, evidence, "scan")  # last, so that the same command can go on if it was killed before
    if result.tampered:
        raise typer.Exit(3)
    if strict and result.not_read.images:
        raise typer.Exit(NOT_ALL_LOOKED_AT)


def _check_outputs(out: Path, clean_to: Path | None) -> ScanResult | None:
    """Check that both outputs can be written, and return what a scan has left that was killed between the two."""
    from petechia.detect.scan import ScanResult

    if clean_to is None:
        refuse_existing(out)
        return None
    refuse_overlap(out, clean_to, "--out and --clean-to")
    refuse_existing(clean_to, "--clean-to")
    if not (out / ScanResult.file_name).is_file():
        refuse_existing(out)
        return None
    note(f"{out} holds a scan already; the dataset is scanned again, and if the same is found, the clean dataset is added.")
    return ScanResult.load(out)


def show_scan(result: ScanResult, out: Path) -> None:
    """What was found in a dataset, and what a scan does not look for."""
    if result.stamps:
        rows = [
            [
                one.size,
                f"{one.images:,}",
                one.place,
                one.label,
                f"{100 * one.share_with_label:.1f} %",
                f"{100 * one.share_of_all:.1f} %",
                f"{one.p_value:.1g}",
            ]
            for one in result.stamps
        ]
        heads = ("stamp", "images", "place", "label", "with it", "of all", "p-value")
        console.print(table(*heads, title="Stamps tied to a label", rows=rows))
    if result.weakly_associated:
        shown = ", ".join(f"{one.size} on {one.images:,} images with {one.label}" for one in result.weakly_associated[:3])
        say(f"Patterns weakly associated with a label, as markers and devices may be: {shown}. None is flagged.")
    say(
        f"{result.images:,} images: {result.near_duplicates:,} pairs that differ only in a small box, "
        f"{result.copies:,} altered copies with other labels, "
        f"{result.patterned:,} images that share a faint pattern and a label, {result.duplicates:,} exact duplicates, "
        f"{result.unread:,} that cannot be decoded."
    )
    if result.tampered:
        say_labelled("Tampered with:", "red", f"{result.flagged:,} images are flagged.")
    elif result.not_read.images:
        say(f"Nothing found. Not looked at: {result.not_read.images:,}.", "yellow")
    else:
        say("Nothing found.", "green")
    tell_not_read(result.not_read)
    for warning in result.warnings:
        note(warning)
    say(result.limits)
    say(f"Every image, ranked: {out / 'suspects.csv'}")
