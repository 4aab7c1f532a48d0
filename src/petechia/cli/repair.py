"""`petechia repair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from petechia.cli.common import console

SCREENED = 30  # images that are shown, the most suspicious first


def repair(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .safetensors file of Petechia, or timm:….")],
    clean: Annotated[
        str, typer.Option(metavar="SOURCE", help="Clean images: a data source, or a folder of images without labels.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A new .safetensors file; what was done goes beside it.")],
    method: Annotated[
        Literal["unlearn", "fine-prune", "fine-tune"], typer.Option(help="unlearn needs a trigger, the others need labels.")
    ] = "unlearn",
    trigger: Annotated[
        Path | None, typer.Option(metavar="audit.json", help="What an audit of the model found: its triggers.")
    ] = None,
    stamp: Annotated[
        list[str] | None,
        typer.Option(
            metavar="class=NAME,row=R,column=C,size=S,value=V",
            help="A trigger, in pixels of the prepared image; without row and column it works anywhere; repeatable.",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Clean images that are used, at most.")] = 1000,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of training; else as many as make 200 steps.")] = None,
    lr: Annotated[float | None, typer.Option(min=1e-9, help="Learning rate; else 0.0005.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of order and places.")] = 0,
) -> None:
    """Take a backdoor out of a model, and measure it before and after on images that it was not repaired with."""
    from petechia.cli.progress import ConsoleProgress
    from petechia.core.runtime import Compute
    from petechia.detect.repair.files import repair_file
    from petechia.detect.repair.known_trigger import parse_stamp, read_stamps
    from petechia.detect.repair.methods import Repairing

    stamps = (*(read_stamps(trigger) if trigger else ()), *map(parse_stamp, stamp or ()))
    how = Repairing(method=method, epochs=epochs, **({} if lr is None else {"lr": lr}))
    with ConsoleProgress().live() as progress:
        content = repair_file(model, clean, out, Compute().start(), how, stamps, images, seed, progress)
    print_repair(console, content, out)


def print_repair(console: Console, content: dict[str, Any], out: Path) -> None:
    """What a repair did to a model."""
    before, after = content["before"], content["after"]
    title = f"{content['method']}, measured on {after['images']:,} images that it did not see"
    table = Table("", "before", "after", title=title, caption="with 95 % intervals")
    for old, new in zip(before["triggers"], after["triggers"], strict=True):
        for metric, name in (("asr", "ASR"), ("false_trigger", "false triggers")):
            for p in ("0.9", "0.6"):
                cells = (_share(one[f"{metric}_{p}"]) for one in (old, new))
                table.add_row(f"{escape(old['trigger']['target'])}: {name}({p})", *cells)
    table.add_row("AUROC-NN", *(_with_interval(one["auroc_nn"]) for one in (before, after)))
    console.print(table)
    if not after["triggers"]:
        console.print("[yellow]Note:[/yellow] no trigger is known, so its success could not be measured.", soft_wrap=True)
    console.print(f"Repaired model: {out}", soft_wrap=True)


def _share(count: dict[str, Any]) -> str:
    return f"{_with_interval(count)}\n[dim]{count['hits']:,} of {count['of']:,}[/dim]"


def _with_interval(value: dict[str, float | None]) -> str:
    from petechia.reports.tables import number

    low, high = number(value["low"]), number(value["high"])
    return f"{number(value['value'])} {escape(f'[{low}, {high}]')}" if value["value"] is not None else "undefined"
