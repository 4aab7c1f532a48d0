"""`petechia repair`."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from petechia.cli.common import (
    Device,
    Precision,
    Threads,
    console,
    note,
    say,
    table,
    tell_not_read,
)

if TYPE_CHECKING:
    from petechia.detect.repair.result import CountedShare, RepairResult, ValueWithInterval


def repair(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .safetensors file of Petechia, or timm:….")],
    clean: Annotated[
        str, typer.Option(metavar="SOURCE", help="Clean images: a data source, or a folder of images without labels.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="New .safetensors file. A JSON file is written beside it.")],
    method: Annotated[
        Literal["unlearn", "fine-prune", "fine-tune"], typer.Option(help="unlearn needs a trigger, the others need labels.")
    ] = "unlearn",
    trigger: Annotated[
        Path | None, typer.Option(metavar="audit.json", help="The triggers that an audit of the model found.")
    ] = None,
    stamp: Annotated[
        list[str] | None,
        typer.Option(
            metavar="class=NAME,row=R,column=C,size=S,value=V",
            help="A trigger, in pixels of the prepared image. Without row and column it works anywhere. Repeatable.",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Clean images to use, at most.")] = 1000,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training. Default: about 200 steps.")] = None,
    lr: Annotated[float | None, typer.Option(min=1e-9, help="Learning rate. Default: 0.0005.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of images and of places.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Remove a backdoor from a model, and measure it before and after on images that it was not repaired with."""
    import petechia
    from petechia.cli.progress import ConsoleProgress
    from petechia.detect.repair import read_triggers
    from petechia.detect.repair.files import refuse_existing_model, write_repaired
    from petechia.detect.repair.known_trigger import parse_trigger

    refuse_existing_model(out)
    triggers = (*(read_triggers(trigger) if trigger else ()), *map(parse_trigger, stamp or ()))
    with ConsoleProgress().live() as progress:
        result = petechia.repair(
            model,
            clean,
            method=method,
            triggers=triggers,
            images=images,
            epochs=epochs,
            lr=lr,
            seed=seed,
            progress=progress,
            device=device,
            precision=precision,
            threads=threads,
        )
    write_repaired(result, out)
    show_repair(result)
    say(f"Repaired model: {out}")


def show_repair(result: RepairResult) -> None:
    """What a repair did to a model."""
    rows = [
        [f"{old.trigger.target}: {name}", _share(getattr(old, key)), _share(getattr(new, key))]
        for old, new in zip(result.before.triggers, result.after.triggers, strict=True)
        for key, name in METRICS.items()
    ]
    rows.append(["AUROC-NN", *(_with_interval(one.auroc_nn) for one in (result.before, result.after))])
    title = f"{result.method}, measured on {result.after.images:,} images that the model was not repaired with"
    console.print(table("", "before", "after", title=title, caption="with 95 % intervals", rows=rows))
    tell_not_read(result.not_read, "Beside the clean images. ")
    if not result.after.triggers:
        note("No trigger is known, so its success could not be measured.")


METRICS = {
    "asr_09": "ASR(0.9)",
    "asr_06": "ASR(0.6)",
    "false_trigger_09": "false triggers(0.9)",
    "false_trigger_06": "false triggers(0.6)",
}


def _share(share: CountedShare) -> str:
    return f"{_with_interval(share)}\n{share.hits:,} of {share.of:,}"


def _with_interval(one: CountedShare | ValueWithInterval) -> str:
    return "undefined" if isnan(one.value) else f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"
