"""The Typer application: all commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from petechia.cli.audit import audit
from petechia.cli.calibrate import calibrate
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
from petechia.cli.verify import verify
from petechia.cli.watch import watch
from petechia.cli.zoo import zoo
from petechia.core.errors import harmless
from petechia.core.version import __version__

# What is heavy is imported inside the commands: --help must not wait for torch.
COMMANDS = (run, reproduce, report, poison, scan, audit, calibrate, screen, watch, repair, explain, serve, verify, zoo, info)


class Commands(TyperGroup):
    """The commands. What they say of arguments that do not parse, which may be names of files, is harmless to a terminal."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Parse."""
        with _harmless_errors():
            return super().make_context(*given, **more)

    def invoke(self, *given: Any, **more: Any) -> Any:
        """Parse what a command takes, and call it."""
        with _harmless_errors():
            return super().invoke(*given, **more)


@contextmanager
def _harmless_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if callable(said := getattr(error, "format_message", None)):
            text = harmless(said(), "\n")
            error.format_message = lambda: text  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=Commands,
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
