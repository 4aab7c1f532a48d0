"""`petechia verify`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from petechia.cli.common import say


def verify(pack: Annotated[Path, typer.Argument(metavar="PACK.zip", help="What --evidence wrote.")]) -> None:
    """Is an evidence pack complete and unchanged? Exit status: 0 it is, 1 it is not."""
    from petechia.reports.evidence import verify_evidence

    manifest, digest = verify_evidence(pack)
    size = sum(one.size for one in manifest.files.values())
    say(f"Intact: {len(manifest.files):,} files, {size:,} bytes, packed by Petechia {manifest.petechia}.")
    if manifest.command:
        say(f"Command: {shlex.join(manifest.command)}")
    say(f"SHA-256 of the pack: {digest}")
    say("This does not say who made it: compare the SHA-256 with the one that its maker gave you.")
