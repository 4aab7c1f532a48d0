"""A hook of mkdocs: the reference of the commands is written from the commands themselves, at every build."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what typer says of the commands in the place of the mark."""
    return markdown.replace(MARK, commands()) if MARK in markdown else markdown


def commands() -> str:
    """The reference of all commands, as typer writes it, without its title.

    Raises:
        CalledProcessError: typer cannot read the commands.
    """
    asked = [sys.executable, "-m", "typer", "petechia.cli.commands", "utils", "docs", "--name", "petechia"]
    written = subprocess.run(asked, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return written.partition("\n")[2]
