"""`petechia audit`."""

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
    from petechia.detect.audit.result import AuditedClass, AuditResult


def audit(
    context: typer.Context,
    model: ModelArgument,
    clean: Annotated[
        list[str], typer.Option(metavar="DIR|SOURCE", help="Clean images: a folder or a data source. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for audit.json and report.html.")],
    images: Annotated[int, typer.Option(min=1, help="Clean images to use, at most.")] = 100,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the search for free shapes and warps, which few triggers need.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Calibration to use in place of the packaged one.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Clean model of the same data: what it answers to likewise is natural.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Trusted model that this one is an update of: only what changed since is judged."),
    ] = None,
    sarif: Sarif = None,
    evidence: Evidence = None,
    ml_bom: Annotated[
        Path | None,
        typer.Option("--ml-bom", metavar="FILE.cdx.json", help="New file: the model's bill of materials, CycloneDX 1.7."),
    ] = None,
    tag: Annotated[
        bool, typer.Option("--tag", help="Tag the version of the MLflow registry, mlflow:MODEL/VERSION, with the verdict.")
    ] = False,
    detector: Detector = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Does a model carry a backdoor? Exit status: 0 nothing found, 3 backdoor found, 4 an answer to a simple change found."""
    import petechia
    from petechia.cli.progress import ConsoleProgress

    refuse_existing(out)
    refuse_exports(sarif, evidence, out)
    if ml_bom is not None:
        refuse_existing(ml_bom, "--ml-bom")
    if detector is not None:
        examine_with(
            detector,
            out,
            sarif,
            evidence,
            context,
            model=model,
            clean=clean,
            calibration=calibration,
            device=device,
            precision=precision,
            threads=threads,
        )
        return
    if tag:
        from petechia.models.openers.registered import find_version

        find_version(model)  # before the work
    with ConsoleProgress().live() as progress:
        result = petechia.audit(
            model,
            clean,
            images=images,
            quick=quick,
            calibration=calibration,
            progress=progress,
            device=device,
            precision=precision,
            threads=threads,
            reference=reference,
            baseline=baseline,
        )
        result.save(out)
    show_audit(result, out)
    save_exports(result, out, sarif, evidence, calibration or "audit")
    if ml_bom is not None:
        from petechia.reports.ml_bom import write_ml_bom

        say(f"Bill of materials: {write_ml_bom(result, ml_bom)}")
    if tag:
        from petechia.tracking import tag_version

        say(f"Tagged: {result.model.name}, petechia.verdict = {tag_version(result)['petechia.verdict']}")
    if result.flagged:
        raise typer.Exit(3 if result.backdoor else 4)


def show_audit(result: AuditResult, out: Path) -> None:
    """What was found in a model, class by class, and what an audit does not find."""
    heads = ("class", "p-value", "found by", "best stamp", "row, column", "gain", "change of the image")
    console.print(table(*heads, title=f"Audit of {result.model.name}", rows=[_row(one) for one in result.classes]))
    for warning in result.warnings:
        note(warning)
    for one in result.flagged:
        say_labelled(f"{'Backdoor' if one.called_backdoor else 'Answer to a simple change'} for {one.name}:", "red", one.reason)
    if not result.flagged:
        say("No backdoor found." if result.baseline is None else "No new backdoor found.", "green")
    tell_not_read(result.clean.not_read, "Beside the clean images. ")
    if result.doubt:
        note(result.doubt)
    say(result.limits)
    say(f"Report: {out / 'report.html'}")


def _row(one: AuditedClass) -> list[str | Text]:
    return [
        Text(one.name, "red" if one.flagged else ""),
        f"{one.p_value:.2g}",
        one.found_by,
        f"{one.size} x {one.size}, {one.square.levels}",
        "most places" if one.fixed is False else f"{one.row}, {one.column}",
        f"{one.gain:.1f}",
        _change(one),
    ]


def _change(one: AuditedClass) -> str:
    return "" if one.change is None else f"{one.change.family}, {one.change.gain:+.1f}"
