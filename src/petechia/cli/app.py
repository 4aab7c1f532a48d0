"""Mount, measure, explain and catch backdoor attacks on medical-imaging classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from petechia.core.errors import PetechiaError, alternatives
from petechia.data.sources.registry import source_forms
from petechia.models.registry import model_forms, short_model_forms
from petechia.saliency.registry import METHODS

if TYPE_CHECKING:
    from petechia.study import Config

# What is heavy is imported by the command that needs it: --help must not wait for torch.

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

FORMS = source_forms()
ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="Configuration; its keys win over the preset's.")
]
Data = Annotated[str | None, typer.Option(metavar="SOURCE", help=f"{FORMS}; see docs/data.md.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One key, as in attack.rate=0.1; repeatable.")
]
Preset = Annotated[str, typer.Option(help="desk: minutes on two cores; paper: the paper's geometry and training.")]
Ray = Annotated[
    str | None, typer.Option(metavar="auto|ADDRESS", help="Train on a Ray cluster: one found or started here, or its address.")
]
Track = Annotated[
    str | None, typer.Option(metavar="mlflow:URI", help="Record finished runs, as in mlflow:sqlite:///mlflow.db.")
]
Missing = Annotated[str | None, typer.Option(metavar="error|skip", help="Images that the table lists and the folder lacks.")]
MODELS = f"{short_model_forms()}; see docs/models.md"
Threads = Annotated[int, typer.Option(min=0, help="Of the processor; 0 is all.")]
OnError = Annotated[str | None, typer.Option(metavar="error|skip", help="Images that cannot be decoded.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Mount, measure, explain and catch backdoor attacks on medical-imaging classifiers."""
    if version:
        from petechia.core.version import __version__

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
    ray: Ray = None,
    track: Track = None,
) -> None:
    """Poison a dataset, train the attacked model and its controls, measure them, and write a report.

    With a grid in the configuration, do so for every combination of its values.
    """
    with reported():
        import petechia
        from petechia.cli.console import ConsoleProgress, print_result
        from petechia.core.processes import ProcessInfo
        from petechia.study import free_directory, load_config

        console.quiet = not ProcessInfo.of_this_process().is_main  # of torchrun's processes one talks

        given = _overrides(set_, missing, on_error)
        asked = config is not None or data is not None or bool(given) or preset != "desk"
        if resume and out is None:
            raise PetechiaError("--resume needs --out, the folder of the run to go on with.")
        settings = load_config(config, preset, data, given) if asked or not resume else None
        if (settings is not None and settings.grid) or (settings is None and out and (out / "study.json").is_file()):
            _run_study(settings, out, resume, ray, track)
            return
        if ray is not None:
            raise PetechiaError("--ray shares out the runs of a grid; this configuration has none.")
        folder = out or free_directory(settings or load_config()).path
        with reported(folder), ConsoleProgress(console).live() as progress:
            finished = petechia.run(settings, folder, resume, progress, track)
        print_result(console, finished.summary)
        console.print(f"Report: {finished.directory.report}", soft_wrap=True)


def _run_study(settings: Config | None, out: Path | None, resume: bool, ray: str | None, track: str | None) -> None:
    import petechia
    from petechia.cli.console import ConsoleProgress, print_study
    from petechia.study import free_directory, load_config

    folder = out or free_directory(settings or load_config()).path
    with reported(folder), ConsoleProgress(console).live() as progress:
        study = petechia.run_study(settings, folder, resume, progress, ray, track)
    print_study(console, study)
    if study.failures:
        raise typer.Exit(1)


@app.command()
def reproduce(
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="[PART]...", help="table-1, table-2, table-3, figure-1, figure-3 or all.")
    ] = None,
    preset: Annotated[str, typer.Option(help="desk: an hour or so on two cores; paper: the authors' pipeline.")] = "desk",
    data: Data = None,
    set_: Set = None,
    missing: Missing = None,
    on_error: OnError = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Study directory; else runs/reproduce-PRESET.")] = None,
    ray: Ray = None,
    track: Track = None,
) -> None:
    """Make the paper's tables and figures, and say claim by claim whether it holds.

    What the directory holds already is not done again, so a study that was stopped goes on with the same command.
    """
    with reported():
        import petechia
        from petechia.cli.console import ConsoleProgress, print_reproduction
        from petechia.paper import PARTS

        wanted = [part for part in PARTS if not parts or "all" in parts or part in parts]
        if unknown := set(parts or ()) - {*PARTS, "all"}:
            raise PetechiaError(f"{min(unknown)!r} is not a part of the paper; the parts are {', '.join(PARTS)} and all.")
        given = _overrides(set_, missing, on_error)
        with ConsoleProgress(console).live() as progress:
            made = petechia.reproduce(wanted, preset, data, given, out, progress, ray, track)
        print_reproduction(console, made)


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
        from petechia.core.files import write_text
        from petechia.reports import build_report
        from petechia.study import RunDirectory

        found = RunDirectory(directory)
        target = out or found.report
        write_text(target, build_report(found, pictures))
        console.print(f"Report: {target}", soft_wrap=True)


@app.command()
def poison(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"{FORMS}.")],
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
        from petechia.cli.console import ConsoleProgress
        from petechia.study import load_config

        settings = load_config(config, preset, source, _overrides(set_, missing, on_error))
        with ConsoleProgress(console).live() as progress:
            plan = petechia.poison(settings, out, seed, progress)
        cover = f", and {int(plan.cover.sum()):,} are cover" if plan.cover.any() else ""
        console.print(
            f"{int(plan.triggered.sum()):,} of {len(plan.ids):,} training images carry the trigger{cover}: {out}",
            soft_wrap=True,
        )


@app.command()
def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODELS}.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, TIFF or DICOM.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for overlays, maps and explanations.json.")],
    target: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="Class to explain; repeatable. Else each image's highest.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(metavar="LAYER", help="last, middle or a module's name; repeatable. Else both.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help=f"{alternatives(METHODS)}."),
    ] = "gradcam",
    dicom: Annotated[bool, typer.Option("--dicom", help="Write overlays as DICOM secondary captures too.")] = False,
) -> None:
    """Show where a model looks in some images."""
    with reported():
        from petechia.cli.console import ConsoleProgress, print_explanations
        from petechia.core.runtime import Compute
        from petechia.saliency.activation_maps import LAYERS
        from petechia.saliency.files import Request, explain_files

        request = Request(tuple(target or ()), tuple(layer or LAYERS), method, dicom)
        with ConsoleProgress(console).live() as progress:
            progress.phase("explaining images", len(images))
            content = explain_files(model, images, out, request, Compute().start(), progress)
        print_explanations(console, content, out)


@app.command()
def scan(
    source: Annotated[str, typer.Argument(metavar="DATASET", help=f"{FORMS}.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for suspects.csv, scan.json and stamps.")],
    clean_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for the dataset without what is flagged.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A classifier, trained on the images or not; its features add to the ranking."),
    ] = None,
    missing: Missing = None,
    on_error: OnError = None,
) -> None:
    """Was a dataset tampered with? Exit status 0: nothing found; 3: images are flagged."""
    with reported():
        from petechia.cli.console import ConsoleProgress, print_scan
        from petechia.core.files import refuse_existing
        from petechia.data import open_source
        from petechia.detect.scan.files import write_clean, write_scan
        from petechia.detect.scan.suspects import scan as scan_catalog

        for folder, option in ((out, "--out"), (clean_to, "--clean-to")):
            if folder is not None:
                refuse_existing(folder, option)
        classifier = None
        if model is not None:
            from petechia.core.runtime import Compute
            from petechia.models.openers import open_classifier

            classifier = open_classifier(model, Compute().start())
        catalog = open_source(source, _one_of(missing, "--missing"))
        with ConsoleProgress(console).live() as progress:
            found = scan_catalog(catalog, _one_of(on_error, "--on-error"), progress, classifier)
        print_scan(console, write_scan(found, out), out)
        if clean_to is not None:
            console.print(f"Clean dataset: {clean_to}, {write_clean(found, clean_to):,} images", soft_wrap=True)
        if found.found:
            raise typer.Exit(3)


@app.command()
def audit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODELS}.")],
    clean: Annotated[
        list[str], typer.Option(metavar="DIR|SOURCE", help="Clean images: a folder, or a data source; repeatable.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for audit.json and report.html.")],
    images: Annotated[int, typer.Option(min=1, help="Clean images to use, at most.")] = 100,
    stamps_only: Annotated[
        bool, typer.Option("--stamps-only", help="Look for square stamps alone: quicker, and blind to wide and faint triggers.")
    ] = False,
    threads: Threads = 0,
) -> None:
    """Does a model carry a backdoor? Exit status 0: nothing found; 3: found."""
    with reported():
        from petechia.cli.console import ConsoleProgress, print_audit
        from petechia.core.files import refuse_existing, sha256
        from petechia.core.runtime import Compute
        from petechia.detect.audit.audit import audit as examine
        from petechia.detect.audit.reconstruct import STEPS
        from petechia.detect.collection import read_collection
        from petechia.models.openers import open_classifier
        from petechia.reports.audit import Origin, write_audit

        refuse_existing(out)
        classifier = open_classifier(model, Compute(threads=threads).start())
        with ConsoleProgress(console).live() as progress:
            progress.phase("reading clean images", images)
            collection = read_collection(clean, classifier, images, progress)
            found = examine(classifier, collection.images, 0 if stamps_only else STEPS, progress)
        file = Path(model)
        origin = Origin(file.name, sha256(file), ", ".join(clean)) if file.is_file() else Origin(model, None, ", ".join(clean))
        print_audit(console, write_audit(found, origin, out), out)
        if found.backdoor:
            raise typer.Exit(3)


@app.command()
def zoo(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the zoo; what it holds already is not made again.")],
    design: Annotated[
        Path | None, typer.Option(metavar="DESIGN.yaml", help="Which models; else 32 attacks on 14 networks, for two cores.")
    ] = None,
    set_: Set = None,
    ray: Ray = None,
    describe: Annotated[bool, typer.Option("--describe", help="Make nothing; list the models that are there.")] = False,
) -> None:
    """Make a set of models, clean and backdoored, to try detectors on: one half to tune them, the other to judge them."""
    with reported():
        from petechia.api import executor
        from petechia.cli.console import ConsoleProgress, print_zoo
        from petechia.study.study import StudyDirectory, run_study
        from petechia.zoo.design import load_design, members, runs_of
        from petechia.zoo.specimens import listing

        if not describe:
            runs = runs_of(members(load_design(design), tuple(set_ or ())))
            with reported(out), ConsoleProgress(console).live() as progress:
                study = run_study(runs, StudyDirectory(out), progress, executor(ray))
            if study.failures:
                print_zoo(console, [], study.failures)
        print_zoo(console, list(listing(out)), {})


def _one_of(given: str | None, option: str) -> Literal["error", "skip"]:
    if given not in (None, "error", "skip"):
        raise PetechiaError(f"{option} is {given!r}; it is error or skip.")
    return "skip" if given == "skip" else "error"


@app.command()
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
    with reported():
        from petechia.cli.console import ConsoleProgress, print_repair
        from petechia.core.runtime import Compute
        from petechia.detect.repair.files import repair_file
        from petechia.detect.repair.known_trigger import parse_stamp, read_stamps
        from petechia.detect.repair.methods import Repairing

        stamps = (*(read_stamps(trigger) if trigger else ()), *map(parse_stamp, stamp or ()))
        how = Repairing(method=method, epochs=epochs, **({} if lr is None else {"lr": lr}))
        with ConsoleProgress(console).live() as progress:
            content = repair_file(model, clean, out, Compute().start(), how, stamps, images, seed, progress)
        print_repair(console, content, out)


@app.command()
def screen(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help=f"A{model_forms()[1:]}."),
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, TIFF or DICOM files, folders, or a source.")
    ],
    clean: Annotated[str, typer.Option(metavar="DIR", help="Clean images, 50 to 200: a folder, a file or a source.")],
    fpr: Annotated[float, typer.Option(metavar="RATE", help="Share of clean images that may be flagged.")] = 0.01,
    target: Annotated[str | None, typer.Option(metavar="CLASS", help="The one class to look at; else any.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for screen.json, screen.csv and pictures.")
    ] = None,
) -> None:
    """Is a single image carrying a trigger? Exit status 0: nothing found; 3: images are flagged."""
    with reported():
        from petechia.cli.console import ConsoleProgress, print_screen
        from petechia.core.files import refuse_existing
        from petechia.core.runtime import Compute
        from petechia.detect.collection import read_collection
        from petechia.detect.screen import Screen
        from petechia.detect.screen.files import CLEAN, report_of, write_screen
        from petechia.models.openers import open_classifier

        if out is not None:
            refuse_existing(out)
        classifier = open_classifier(model, Compute().start())
        with ConsoleProgress(console).live() as progress:
            trusted = read_collection([clean], classifier, CLEAN)
            given = read_collection(images, classifier)
            progress.phase("examining clean images", len(trusted.ids))
            fitted = Screen.fit(classifier, trusted.images, fpr, target, progress=progress)
            progress.phase("screening images", len(given.ids))
            evidence = fitted.evidence(given.images, progress)
        content = report_of(fitted, given, evidence)
        if out is not None:
            write_screen(content, given, evidence, out)
        print_screen(console, content, out)
        if content["flagged"]:
            raise typer.Exit(3)


@app.command()
def serve(
    subject: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_MODEL", help="A run directory, or a model, as explain takes it."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to bind to; all but loopback ones can be reached by others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    clean: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Clean images, 50 to 200, to screen others with; else a run's test images."),
    ] = None,
) -> None:
    """Look at a run and read images with its models, in the browser."""
    with reported():
        from petechia.viewer import serve as serve_viewer

        def tell(address: str, private: bool) -> None:
            console.print(f"Viewer: {address} (Ctrl-C ends it)", soft_wrap=True)
            if not private:
                console.print("[yellow]Note:[/yellow] there is no password: who can reach this address sees the images.")

        serve_viewer(subject, host, port, tell, clean)


def _overrides(given: list[str] | None, missing: str | None, on_error: str | None) -> list[str]:
    named = {"missing": missing, "on_error": on_error}
    return [*(given or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


@contextmanager
def reported(run_folder: Path | None = None) -> Iterator[None]:
    """Turn what goes wrong into one sentence and an exit status: 1 for a problem, 130 for Ctrl-C."""

    def hint() -> str:
        begun = run_folder is not None and any((run_folder / name).is_file() for name in ("config.yaml", "study.json"))
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
