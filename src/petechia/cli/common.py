"""What all commands share: options, output, and how problems are reported."""

from __future__ import annotations

import _thread
import errno
import functools
import inspect
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from petechia.core.errors import PetechiaError, harmless, shown
from petechia.core.files import naming, refuse_existing
from petechia.core.settings import LARGEST
from petechia.data.sources.registry import source_forms
from petechia.models.registry import short_model_forms

if TYPE_CHECKING:
    from petechia.core.results import Result
    from petechia.data.not_read import NotRead


class Terminal(Console):
    """A console that obeys nothing in a text: no markup, no codes of emoji, no control characters, whoever prints it."""

    def __init__(self, **how: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as usual, with the characters replaced that a terminal would obey; rich's own are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text, "\n"), segment.style)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print. Where this fails, as on a full disk, the error says that it is the output that cannot be written."""
        with naming(Path("the standard error" if self.stderr else "the standard output")):
            super().print(*objects, **how)


console = Terminal()
errors = Terminal(stderr=True, soft_wrap=True)

FINDINGS = 30  # shown, the most suspicious first
FORMS = source_forms()
MODELS = f"{short_model_forms()}; see docs/models.md"

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="Configuration file. Its keys override the preset's.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="CONFIG.yaml", help="Configuration file. Its keys override the preset's.")
]
Data = Annotated[str | None, typer.Option(metavar="SOURCE", help=f"Data source: {FORMS}. See docs/data.md.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one configuration key, such as attack.rate=0.1. Repeatable."),
]
Preset = Annotated[
    Literal["desk", "paper"], typer.Option(help="desk: minutes on two cores. paper: the paper's geometry and training.")
]
Missing = Annotated[
    Literal["error", "skip"] | None, typer.Option(help="What to do about images that the table lists but the folder lacks.")
]
OnError = Annotated[Literal["error", "skip"] | None, typer.Option(help="What to do about images that cannot be decoded.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="auto|ADDRESS",
        help="Prepare images and train the networks of a study on a Ray cluster: auto finds or starts one; or give HOST:PORT.",
    ),
]
ReadingRay = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="auto|ADDRESS", help="Read the images on a Ray cluster: auto finds or starts one; or give HOST:PORT."
    ),
]
Track = Annotated[
    str | None,
    typer.Option(metavar="mlflow:URI", help="Record finished runs in MLflow, for example mlflow:sqlite:///mlflow.db."),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to compute. auto uses a GPU if there is one.")]
Precision = Annotated[
    Literal["auto", "bf16", "fp32"], typer.Option(help="auto uses bf16 where the hardware is fast at it, else fp32.")
]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads. 0 uses all.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log what happens to stderr. -vv logs more.")]
Detector = Annotated[
    str | None, typer.Option(metavar="NAME", help="Use this detector, of another package, instead; it writes findings.json.")
]
Sarif = Annotated[
    Path | None, typer.Option("--sarif", metavar="FILE.sarif", help="New file for what is flagged, as SARIF 2.1.0.")
]
Evidence = Annotated[
    Path | None,
    typer.Option("--evidence", metavar="FILE.zip", help="New archive of all files of --out, for petechia verify."),
]
EXPORTS = ("out", "sarif", "evidence", "verbose")  # options that every detector may be given
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODELS}.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command's function the option `--verbose`, and turn its problems into one sentence and an exit status."""
    hints = get_type_hints(function, include_extras=True)
    own = [one.replace(annotation=hints[one.name]) for one in inspect.signature(function).parameters.values()]
    verbose = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=0, annotation=Verbose)

    @functools.wraps(function)
    def wrapper(*args: Any, verbose: int = 0, **kwargs: Any) -> None:
        _log(verbose)
        with reported():
            for name, value in kwargs.items():
                if isinstance(value, int) and abs(value) > LARGEST:
                    raise PetechiaError(f"--{name.replace('_', '-')} is {shown(value)}; give a smaller number.")
            function(*args, **kwargs)

    wrapper.__signature__ = inspect.Signature([*own, verbose])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {**hints, "verbose": Verbose}
    return wrapper


def _log(verbose: int) -> None:
    """Let the logger `petechia` write to stderr: warnings always, what happens with -v, details with -vv.

    Warnings of libraries, which quote files, go the same way.
    """
    handler = RichHandler(console=errors, show_path=verbose > 1, rich_tracebacks=False, markup=False)
    logger = logging.getLogger("petechia")
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG))
    logger.handlers = [handler]
    logger.propagate = False
    logging.lastResort = handler  # of loggers that nobody has set up
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").handlers = [handler]


def say(text: str, style: str = "") -> None:
    """Print a line. It is not wrapped, so that paths can be copied."""
    console.print(Text(text, style), soft_wrap=True)


def say_labelled(label: str, style: str, text: str) -> None:
    """Print a line that begins with a coloured word, such as "Note:"."""
    console.print(Text.assemble((label, style), " ", text), soft_wrap=True)


def note(sentence: str) -> None:
    """Print something that the user should know."""
    say_labelled("Note:", "yellow", sentence)


def tell_not_read(not_read: NotRead, what: str = "") -> None:
    """Print what was not read, if anything was not; `what` names the images that it lies beside."""
    if not_read:
        say_labelled(f"{what}Not looked at:", "yellow", str(not_read).removeprefix("Not looked at: "))


def table(*heads: str, title: str = "", caption: str = "", rows: Sequence[Sequence[str | Text]] = (), right: int = 0) -> Table:
    """A table of plain text; the last `right` columns are aligned to the right."""
    made = Table(
        title=Text(_harmless(title), "italic") if title else None, caption=Text(caption, "dim italic") if caption else None
    )
    for number, head in enumerate(heads):
        made.add_column(Text(_harmless(head)), justify="right" if number >= len(heads) - right else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(_harmless(cell)) for cell in row))
    return made


def _harmless(text: str) -> str:
    """What a cell of a table will show, so that it is measured as it is shown."""
    return harmless(text, "\n")


def refuse_exports(sarif: Path | None, evidence: Path | None, out: Path | None) -> None:
    """Check, before any work is done, that the files of `save_exports` can be made."""
    if sarif is not None:
        refuse_existing(sarif, "--sarif")
    if evidence is not None:
        refuse_existing(evidence, "--evidence")
        if out is None:
            raise PetechiaError("--evidence packs the files of --out; give that, too.")


def save_exports(
    result: Result, out: Path | None, sarif: Path | None, evidence: Path | None, calibration: str | Path | None = None
) -> None:
    """Write what is flagged as SARIF, and the files of --out as an evidence pack, where these are wanted.

    Args:
        result: what was found.
        out: where it was saved.
        sarif: new file.
        evidence: new file.
        calibration: what it was judged by: a file, or the name of one that comes with Petechia.
    """
    from petechia.detect.protocol import Calibration
    from petechia.reports.evidence import write_evidence
    from petechia.reports.sarif import write_sarif

    if sarif is not None:
        say(f"SARIF: {write_sarif(result, sarif)}")
    if evidence is not None and out is not None:
        load = Calibration.load if isinstance(calibration, Path) else Calibration.packaged
        more = {} if calibration is None else {"calibration.json": load(str(calibration)).to_json().encode()}
        say(f"Evidence: {write_evidence(out, evidence, ('petechia', *sys.argv[1:]), more)}")


def examine_with(
    name: str, out: Path | None, sarif: Path | None, evidence: Path | None, context: typer.Context, **given: Any
) -> None:
    """Run a detector in place of the command's own, save and show what it finds. The exit status is 3 if anything is flagged.

    Args:
        name: the detector's.
        out: folder for findings.json.
        sarif: file for what is flagged, as SARIF.
        evidence: file for an evidence pack.
        context: the command's; options that the detector would not be told of are refused.
        given: arguments of `petechia.api.run_detector`.

    Raises:
        PetechiaError: such an option was given, or the detector cannot examine what it was given.
        Exit: something is flagged.
    """
    import petechia.api
    from petechia.cli.progress import ConsoleProgress

    for option in context.command.params:
        typed = (source := context.get_parameter_source(option.name or "")) is not None and source.name == "COMMANDLINE"
        if typed and option.param_type_name == "option" and option.name not in {*given, "detector", *EXPORTS}:
            raise PetechiaError(f"--detector {name} cannot use {option.opts[0]}; leave it out.")
    with ConsoleProgress().live() as progress:
        findings = petechia.api.run_detector(name, progress=progress, **given)
    if out is not None:
        findings.save(out)
    save_exports(findings, out, sarif, evidence)
    ranked = sorted(findings.found, key=lambda one: -one.score)
    rows = [[one.about, f"{one.score:.3g}", "yes" if one.flagged else "no", one.reason] for one in ranked[:FINDINGS]]
    console.print(table("about", "score", "flagged", "reason", title=f"Findings of {findings.detector}", rows=rows))
    say(f"{len(findings.flagged):,} of {len(findings.found):,} findings are flagged.")
    tell_not_read(findings.not_read)
    if findings.flagged:
        raise typer.Exit(3)


def overrides(
    given: list[str] | None,
    missing: str | None = None,
    on_error: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
) -> list[str]:
    """What the named options say, as KEY=VALUE, after those of --set."""
    named = {
        "missing": missing,
        "on_error": on_error,
        "compute.device": None if device == "auto" else device,
        "compute.precision": None if precision == "auto" else precision,
        "compute.threads": threads or None,
    }
    return [*(given or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


@contextmanager
def reported(run_folder: Path | None = None) -> Iterator[None]:
    """Turn what goes wrong into one sentence and an exit status: 1 for a problem, 130 for Ctrl-C.

    Args:
        run_folder: of a run or study that can be resumed; the sentence then says how.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = _interrupt_again
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except PetechiaError as error:
        _complain(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print(Text(f"Interrupted; what was finished is kept.{_how_to_resume(run_folder)}"))
        raise typer.Exit(130) from None
    except OSError as error:
        _complain(f"{_describe(error)}{_how_to_resume(run_folder)}")
        raise typer.Exit(1) from None
    except Exception as error:  # a flaw of ours; its text may quote a file
        if hasattr(error, "format_message"):  # typer's, about the arguments
            raise
        errors.print(Text(traceback.format_exc().rstrip()))
        raise typer.Exit(1) from None
    finally:
        sys.unraisablehook = hook


def _interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops a Ctrl-C that falls into a finalizer: raise it once more, when the finalizer has ended."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        # A bare thread: threading.Thread takes locks that the interrupted code may hold.
        _thread.start_new_thread(_interrupt_soon, ())
    else:
        sys.__unraisablehook__(dropped)


def _interrupt_soon() -> None:
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)  # unlike interrupt_main, it also ends a wait


def _complain(sentence: str) -> None:
    errors.print(Text.assemble(("Error:", "red"), " ", sentence))


def _how_to_resume(folder: Path | None) -> str:
    begun = folder is not None and any((folder / name).is_file() for name in ("config.yaml", "study.json"))
    return f" Resume with: petechia run --resume --out {folder}" if begun else ""


ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another folder",
    errno.EACCES: "check the permissions, or choose another folder",
    errno.EPERM: "check the permissions, or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give a file, not a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "free some memory",
    errno.EIO: "check the disk",
}


def _describe(error: OSError) -> str:
    """What an error of the operating system is, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error) or type(error).__name__
    advice = ADVICE.get(error.errno or 0, "check the path and the device")
    return f"{where}{what}; {advice}."
