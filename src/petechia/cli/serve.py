"""`petechia serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petechia.cli.common import Device, Precision, Threads, note, say


def serve(
    subject: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="Run directory, or a model as explain takes it.")],
    host: Annotated[str, typer.Option(help="Address to bind to. Others can reach all but loopback addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port. 0 takes a free one.")] = 8765,
    clean: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="At least 20 clean images to screen others with, better 100. Default: a run's test images."
        ),
    ] = None,
    trigger: Annotated[
        Path | None, typer.Option(metavar="audit.json", help="Let readers stamp the first trigger that an audit found.")
    ] = None,
    pacs: Annotated[
        str | None,
        typer.Option(metavar="dicomweb:URL", help="Let readers open images of this PACS, by /read?study=UID."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = 0,
) -> None:
    """Open the viewer: look at a run, or read images with a model, in the browser."""
    import petechia

    def show(address: str, private: bool) -> None:
        say(f"Viewer: {address} (stop it with Ctrl-C)")
        note("Whoever has this address, with its token, can see the images.")
        if pacs is not None:
            note("They can also open every image of the PACS that your credentials may read.")
        if not private:
            note(
                "The connection is not encrypted: who can listen in on the network sees the token and the images. Safer: leave "
                "--host as it is, and reach the viewer through ssh -L."
            )

    petechia.serve(
        subject,
        host=host,
        port=port,
        clean=clean,
        trigger=trigger,
        pacs=pacs,
        started=show,
        device=device,
        precision=precision,
        threads=threads,
    )
