"""`petechia watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petechia.cli.common import MODELS, Device, Precision, Threads, say


def watch(
    source: Annotated[
        str,
        typer.Argument(metavar="dicomweb:URL", help="The PACS. Options such as days=7 choose images; see docs/data.md."),
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help=f"{MODELS}.")],
    clean: Annotated[
        str, typer.Option(metavar="DIR|SOURCE", help="100 to 200 clean images: a folder or a data source, as for screen.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the journal. A watch that was ended goes on there.")],
    fpr: Annotated[float, typer.Option(metavar="RATE", help="Share of clean images that may be flagged.")] = 0.01,
    target: Annotated[str | None, typer.Option(metavar="CLASS", help="Class to look at. Default: any.")] = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=86_400, help="Between two lists of the PACS.")
    ] = 30,
    once: Annotated[bool, typer.Option("--once", help="Screen what is new, and end. Status 3: images are flagged.")] = False,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve /metrics and /health on this port of 127.0.0.1. 0 takes a free one."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Screen every new image of a PACS, and store reports about flagged ones in their studies."""
    import petechia
    from petechia.cli.progress import ConsoleProgress

    def tell_address(address: str) -> None:
        say(f"Metrics: {address}/metrics, health: {address}/health")

    found = petechia.watch(
        source,
        model,
        clean,
        out,
        fpr=fpr,
        target=target,
        interval=interval,
        once=once,
        port=port,
        started=tell_address,
        say=say,
        progress=ConsoleProgress(),
        device=device,
        precision=precision,
        threads=threads,
    )
    say(f"{found.screened:,} images screened, {found.flagged:,} flagged, {found.failed:,} not screened. Journal: {out}")
    if once and found.flagged:
        raise typer.Exit(3)
