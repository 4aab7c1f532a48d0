"""The Typer application: all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from petechia.cli.audit import audit
from petechia.cli.common import command, say
from petechia.cli.explain import explain
from petechia.cli.info import info
from petechia.cli.poison import poison
from petechia.cli.repair import repair
from petechia.cli.report import report
from petechia.cli.reproduce import reproduce
from petechia.cli.run import run
from petechia.cli.scan import scan
from petechia.cli.screen import screen
from petechia.cli.serve import serve
from petechia.cli.zoo import zoo
from petechia.core.version import __version__

# What is heavy is imported inside the commands: --help must not wait for torch.
COMMANDS = (run, reproduce, report, poison, scan, audit, screen, repair, explain, serve, zoo, info)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Mount, measure, explain and catch backdoor attacks on medical-imaging classifiers.",
)
for function in COMMANDS:
    app.command()(command(function))


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Mount, measure, explain and catch backdoor attacks on medical-imaging classifiers."""
    if version:
        say(__version__)
        raise typer.Exit
