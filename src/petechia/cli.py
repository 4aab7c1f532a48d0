"""Mount, measure, explain and catch backdoor attacks on medical-imaging classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from petechia.errors import PetechiaError

# What is heavy is imported by the command that needs it: --help must not wait for torch.

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="Configuration; its keys win over the preset's.")
]
Data = Annotated[str | None, typer.Option(metavar="SOURCE", help="phantom, phantom:images=N,size=N,seed=N or nih:FOLDER.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One key, as in attack.rate=0.1; repeatable.")
]
Preset = Annotated[str, typer.Option(help="desk: minutes on two cores; paper: the paper's geometry and training.")]
Missing = Annotated[str | None, typer.Option(metavar="error|skip", help="Images that the table lists and the folder lacks.")]
OnError = Annotated[str | None, typer.Option(metavar="error|skip", help="Images that cannot be decoded.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Mount, measure, explain and catch backdoor attacks on medical-imaging classifiers."""
    if version:
        from petechia import __version__

        console.print(__version__)
        raise typer.Exit


@app.command()
def run(
    config: ConfigFile = None,
    data: Data = None,
    set_: Set = None,
    preset: Preset = "desk",
    missing: Missing = None,
    on_error: OnError = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory; else a new one below runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Poison a dataset, train the attacked model and its controls, measure them, and write a report."""
    with reported():
        import petechia
        from petechia.console import ConsoleProgress, print_result
        from petechia.study import free_directory, load_config

        given = _overrides(set_, missing, on_error)
        asked = config is not None or data is not None or bool(given) or preset != "desk"
        if resume and out is None:
            raise PetechiaError("--resume needs --out, the folder of the run to go on with.")
        settings = load_config(config, preset, data, given) if asked or not resume else None
        folder = out or free_directory(settings or load_config()).path
        with reported(folder), ConsoleProgress(console).live() as progress:
            finished = petechia.run(settings, folder, resume, progress)
        print_result(console, finished.summary)
        console.print(f"Report: {finished.directory.report}", soft_wrap=True)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it; else report.html in the run.")] = None,
    pictures: Annotated[
        Literal["own", "phantom", "none"],
        typer.Option(help="own: test images of the run; phantom: the same attack on drawn images, to give away; none."),
    ] = "own",
) -> None:
    """Make the report of a finished run again, for example without its patients' images."""
    with reported():
        from petechia.files import write_text
        from petechia.report import build_report
        from petechia.study import RunDirectory

        found = RunDirectory(directory)
        target = out or found.report
        write_text(target, build_report(found, pictures))
        console.print(f"Report: {target}", soft_wrap=True)


@app.command()
def poison(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="phantom… or nih:FOLDER.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the poisoned dataset.")],
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG.yaml", help="Configuration; its keys win over the preset's.")
    ] = None,
    set_: Set = None,
    preset: Preset = "desk",
    missing: Missing = None,
    on_error: OnError = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of images and places.")] = 0,
) -> None:
    """Write a poisoned copy of a dataset, in its own layout and with the plan, for any other trainer."""
    with reported():
        import petechia
        from petechia.console import ConsoleProgress
        from petechia.study import load_config

        settings = load_config(config, preset, source, _overrides(set_, missing, on_error))
        with ConsoleProgress(console).live() as progress:
            plan = petechia.poison(settings, out, seed, progress)
        console.print(
            f"{int(plan.triggered.sum()):,} of {len(plan.ids):,} training images carry the trigger: {out}",
            soft_wrap=True,
        )


def _overrides(given: list[str] | None, missing: str | None, on_error: str | None) -> list[str]:
    named = {"missing": missing, "on_error": on_error}
    return [*(given or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


@contextmanager
def reported(run_folder: Path | None = None) -> Iterator[None]:
    """Turn what goes wrong into one sentence and an exit status: 1 for a problem, 130 for Ctrl-C."""

    def hint() -> str:
        begun = run_folder is not None and (run_folder / "config.yaml").is_file()
        return f" Go on with: petechia run --resume --out {run_folder}" if begun else ""

    try:
        yield
    except typer.Exit:
        raise
    except PetechiaError as error:
        errors.print(f"[red]Error:[/red] {error}", markup=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print(f"Interrupted; what was finished is kept.{hint()}")
        raise typer.Exit(130) from None
    except OSError as error:
        errors.print(f"[red]Error:[/red] {error.filename}: {error.strerror}; make room, or choose another folder.{hint()}")
        raise typer.Exit(1) from None
