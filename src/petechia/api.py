"""The Python API: one function a command. `import petechia` gives all of them.

Every function takes plain arguments: paths, the names of data sources and models that the command line takes, arrays, a
`torch.nn.Module`, or what `open_dataset` and `open_model` gave. Every result has the fields of its JSON file, `to_dict()`,
`save(directory)`, and shows itself in a notebook.

`progress` is any object with `phase(name, total)` and `advance(count)`, see `petechia.core.progress.Progress`. `device`,
`precision` and `threads` are as on the command line; a model that is already open keeps those that it was opened with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from petechia.attack.export import check_export, write_poisoned
from petechia.attack.result import Poisoned
from petechia.core.cluster import connected
from petechia.core.errors import PetechiaError
from petechia.core.files import refuse_existing, refuse_unwritable, write_text
from petechia.core.processes import ProcessInfo
from petechia.core.progress import SILENT, Progress
from petechia.core.runtime import Compute, Precision, Runtime
from petechia.core.settings import first_problem
from petechia.core.task import Task
from petechia.data.catalog import Catalog
from petechia.data.formats.locate import Missing
from petechia.data.preprocess import Preprocess
from petechia.data.shards import OnError, ReadShards, on_cluster, on_ray, on_this_machine
from petechia.data.sources import open_source
from petechia.data.sources.arrays import as_images, of_arrays
from petechia.data.sources.registry import named_source
from petechia.detect.audit import AuditResult, Origin, examine_model
from petechia.detect.audit.detector import ModelAudit, calibrated
from petechia.detect.audit.examination import families_of, measure_model
from petechia.detect.audit.verdict import FEWEST_MODELS, AuditNulls
from petechia.detect.collection import Images, collect, described
from petechia.detect.protocol import DETECTORS, Calibration, Detector, Findings, ImagesUnderTest, ModelUnderTest
from petechia.detect.repair import Known, Repairing, RepairResult, read_triggers, triggers_of
from petechia.detect.repair.files import repair_model
from petechia.detect.repair.methods import Method as RepairMethod
from petechia.detect.scan import DatasetScan, ScanResult
from petechia.detect.screen.detector import CLEAN, ImageScreen
from petechia.detect.screen.result import ScreenResult
from petechia.models.classifier import Classifier
from petechia.models.openers import open_classifier
from petechia.models.openers.card import Card, OutputMeaning
from petechia.models.openers.in_memory import Network, of_module
from petechia.pacs.result import Round
from petechia.paper import PARTS, Part, Reproduction
from petechia.paper.reproduction import reproduce as reproduce_paper
from petechia.reports import build_report
from petechia.reports.audit import attach_report
from petechia.reports.html import Pictures
from petechia.saliency.files import Request, explain_files
from petechia.saliency.result import Explanations
from petechia.study import Config, Run, RunDirectory, free_directory
from petechia.study.config import make_config
from petechia.study.grid import expand
from petechia.study.progress import StudyProgress
from petechia.study.run_data import read_data
from petechia.study.runner import run as execute_run
from petechia.study.study import Executor, Study, StudyDirectory, locally
from petechia.study.study import run_study as execute_study
from petechia.tracking import Tracker
from petechia.zoo.design import load_design, members, runs_of
from petechia.zoo.result import Zoo
from petechia.zoo.specimens import list_models

Dataset = str | Path | Catalog | ArrayLike
Model = str | Path | Classifier | Network
Settings = Config | Mapping[str, Any] | None
Resample = Literal["nearest", "bilinear", "bicubic", "area"]


def open_dataset(
    source: Dataset,
    labels: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    missing: Missing = "error",
) -> Catalog:
    """Open a dataset. Nothing is decoded yet.

    Args:
        source: a data source, such as "nih:/data/ChestX-ray14", "folder:labels.csv" or "phantom:images=200"; or images in
            memory, uint8 [N, H, W] or [N, H, W, 3], or floating point in 0…1.
        labels: of images in memory, [N, K]: 1 present, 0 absent, -1 unknown.
        classes: names of their K classes.
        ids: names of the N images.
        patients: of the N images; patients never straddle a split.
        missing: what to do about images that a table lists and the folder lacks.

    Raises:
        PetechiaError: there is no such source, it cannot be read, or the arrays do not fit together.

    Example:
        >>> import petechia
        >>> catalog = petechia.open_dataset("phantom:images=200,size=64")
        >>> len(catalog), catalog.classes[0]
        (200, 'Atelectasis')
    """
    if isinstance(source, Catalog):
        return source
    if isinstance(source, str | Path):
        return open_source(str(source), missing)
    return of_arrays(source, labels, classes, ids, patients)


def open_model(
    model: Model,
    classes: Sequence[str] = (),
    size: int | None = None,
    crop: float | Literal["square"] = 1.0,
    resample: Resample = "bilinear",
    channels: Literal[1, 3] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    outputs: OutputMeaning | None = None,
    task: Task = "multi-label",
    name: str = "model",
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
    output: str | int | None = None,
) -> Classifier:
    """Open a model, whoever made it.

    Args:
        model: a file (.safetensors of Petechia, .onnx, .pt2), "timm:NAME", "timm:NAME:FILE", "encoder:FOLDER", "hf:FOLDER",
            "hf:ORG/NAME", "clip:FOLDER", "mlflow:MODEL/VERSION" or "xrv:NAME", which say
            themselves what the following arguments say; or a `torch.nn.Module`, which is copied and left as it is; or any
            function from float32 [B, C, H, W] to scores [B, K], which is examined as a black box.
        classes: names of the K classes; else "class 0", "class 1", …
        size: side of the images that the network takes, in pixels.
        crop: share of height and width of an image that is kept before it is resized, or "square" for its central square.
        resample: how it is resized.
        channels: of the images; else those of the first convolution.
        mean: of each channel, subtracted from images in 0…1.
        std: of each channel, by which they are then divided.
        outputs: "logits" or "probabilities"; else decided by asking the network about a few images.
        task: "multi-class" where the classes exclude each other, so that logits are meant for a softmax.
        name: to call it by in results.
        device: "auto" is a GPU where there is one.
        precision: "auto" is bf16 where the hardware is fast at it, else fp32.
        threads: CPU threads; 0 uses all.
        output: which output of a network that returns several contains the scores: its key, field or position; else chosen by
            name and shape.

    Raises:
        PetechiaError: there is no such model, it is a pickle, or it does not fit what is said of it.

    Example:
        >>> import petechia, torch
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> petechia.open_model(network, classes=["A", "B", "C", "D"], size=32).classes
        ('A', 'B', 'C', 'D')
    """
    if isinstance(model, Classifier):
        return model
    runtime = _runtime(device, precision, threads)
    if isinstance(model, str | Path):
        return open_classifier(str(model), runtime)
    if isinstance(model, Mapping):
        raise PetechiaError("This is a state dict, which has no network; give the torch.nn.Module that it was loaded into.")
    said: dict[str, Any] = {"crop": crop, "resample": resample} | ({} if size is None else {"size": size})
    with _sentence("open_model"):
        card = Card(
            classes=tuple(classes),
            preprocess=Preprocess.model_validate(said),
            mean=tuple(mean),
            std=tuple(std),
            outputs=outputs,
            task=task,
            channels=channels,
            output=output,
        )
    return of_module(model, card, runtime, name)


def run(
    config: Settings = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    track: str | None = None,
    ray: str | None = None,
) -> Run:
    """Mount an attack, train every arm, measure it and write the run directory with its report.

    Args:
        config: a configuration, or a nested mapping of the keys that differ from the defaults, as in
            `{"data": "nih:/data/ChestX-ray14", "attack": {"rate": 0.1}}`.
        out: the run directory; by default a new one below runs/.
        resume: resume the run in `out`, if there is one.
        progress: told what happens; a `petechia.study.StudyProgress` also hears of epochs.
        track: where to record the run, as in "mlflow:sqlite:///mlflow.db".
        ray: where images are prepared, as for `scan`; networks are trained by this process.

    Raises:
        PetechiaError: something in the configuration, the data or the run directory does not allow it.
    """
    wanted = None if config is None else _config(config)
    if wanted is not None and wanted.grid:
        raise PetechiaError("The configuration has a grid, which makes a study of it; use petechia.run_study.")
    directory = RunDirectory(Path(out)) if out else free_directory(wanted or Config())
    tracker = _tracker(track)
    finished = execute_run(wanted, directory, resume, StudyProgress.of(progress), _reading(ray))
    if not ProcessInfo.of_this_process().is_main:
        return finished
    _write_report(finished)
    if tracker:
        tracker.record(finished, finished.directory.path.name)
    return finished


def run_study(
    config: Settings = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    ray: str | None = None,
    track: str | None = None,
) -> Study:
    """Run a grid: one run for every combination of its values. Networks that come out the same are trained once.

    Args:
        config: as for `run`, with a grid, as in `{"grid": {"attack.trigger.size": [1, 2, 3, 4]}}`; None resumes the runs that
            `out` holds.
        out: the study directory; by default a new one below runs/.
        resume: resume the study in `out`, if there is one; its finished runs stay as they are.
        progress: as for `run`.
        ray: where images are prepared and networks are trained: None is this process, "auto" a Ray cluster that is found or
            started here, else the address of one.
        track: as for `run`; the runs stand below one parent.

    Raises:
        PetechiaError: the configuration, the directory or the cluster does not allow it. A run that fails raises nothing: see
            `Study.failures`.
    """
    _refuse_torchrun()
    wanted = None if config is None else _config(config)
    directory = StudyDirectory(Path(out) if out else free_directory(wanted or Config()).path)
    if directory.run_is_here:
        raise PetechiaError(f"{directory.path} holds a single run, not a study; choose another --out.")
    if directory.exists and not resume:
        raise PetechiaError(f"{directory.path} already holds a study; add --resume to go on with it, or choose another --out.")
    runs = directory.runs() if wanted is None else expand(wanted)
    tracker = _tracker(track)
    with _where(ray) as (execute, read):
        study = execute_study(runs, directory, StudyProgress.of(progress), execute, _write_report, read)
    if tracker:
        tracker.record_study(directory.path, study.runs)
    return study


def reproduce(
    parts: Sequence[Part] = PARTS,
    preset: Literal["desk", "paper"] = "desk",
    data: str | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    progress: Progress | None = None,
    ray: str | None = None,
    track: str | None = None,
) -> Reproduction:
    """Make the paper's tables, figures and claims on any data, from as many runs as they need.

    Args:
        parts: "table-1", "table-2", "table-3", "figure-1", "figure-3"; the claims are checked when all are asked for.
        preset: "desk" for two cores, "paper" for the authors' pipeline.
        data: a data source in place of the preset's.
        overrides: KEY=VALUE for all runs.
        out: the study directory; by default runs/reproduce-PRESET. Finished work in it is kept.
        progress: as for `run`.
        ray: as for `run_study`.
        track: as for `run_study`.

    Raises:
        PetechiaError: as `run_study`, or no run could be finished.
    """
    _refuse_torchrun()
    directory = StudyDirectory(Path(out) if out else Path("runs") / f"reproduce-{preset}")
    tracker = _tracker(track)
    with _where(ray) as (execute, read):
        made = reproduce_paper(parts, preset, data, list(overrides), directory, StudyProgress.of(progress), execute, read)
    if tracker:
        tracker.record_study(directory.path, made.runs)
    return made


def report(run: str | Path | Run, out: str | Path | None = None, pictures: Pictures = "own") -> Path:
    """Write the report of a finished run.

    Args:
        run: its directory, or its result.
        out: where to write it; by default report.html in the run directory.
        pictures: "own" shows test images of the run; "phantom" the same attack on drawn images, to share; "none" no images.

    Returns:
        The file.

    Raises:
        PetechiaError: there is no finished run.
    """
    directory = run.directory if isinstance(run, Run) else RunDirectory(Path(run))
    target = Path(out) if out else directory.report
    _refuse_input(directory, target)
    content = build_report(directory, pictures)
    with nullcontext() if out else directory.locked():
        write_text(target, content)
    return target


def poison(
    config: Settings | str,
    out: str | Path,
    seed: int = 0,
    progress: Progress | None = None,
    ray: str | None = None,
) -> Poisoned:
    """Write a poisoned copy of a dataset, in its own layout and with the plan, for any other trainer.

    Args:
        config: as for `run`; its data, geometry and attack matter. Or a data source, for the default attack.
        out: a new folder.
        seed: of the choice of images and places.
        progress: told what happens.
        ray: where images are prepared, as for `scan`.

    Raises:
        PetechiaError: as `run`, or `out` exists.
    """
    heard = StudyProgress.of(progress)
    settings = _config({"data": config} if isinstance(config, str) else config or {})
    check_export(settings.attack, Path(out))
    dataset, catalog = read_data(settings, heard, colours=True, read=_reading(ray))
    plan = settings.attack.plan(dataset, settings.preprocess, seed)
    heard.phase("writing images", len(plan.ids) + int((dataset.split != "train").sum()))
    plan = write_poisoned(catalog, settings.attack, plan, Path(out), heard)
    made = Poisoned(
        directory=str(out),
        data=settings.data,
        trigger=settings.attack.trigger.describe(),
        target=settings.attack.target_name(dataset.classes),
        images=len(plan.ids),
        triggered=int(plan.triggered.sum()),
        cover=int(plan.cover.sum()),
        not_read=catalog.not_read,
    )
    made._plan = plan
    return made


def scan(
    dataset: Dataset,
    model: Model | None = None,
    missing: Missing = "error",
    on_error: OnError = "error",
    calibration: str | Path | Calibration | None = None,
    progress: Progress = SILENT,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
    ray: str | None = None,
) -> ScanResult:
    """Was a dataset tampered with?

    Args:
        dataset: as for `open_dataset`.
        model: a classifier, trained on the images or not; its features add to the ranking.
        missing: what to do about images that a table lists and the folder lacks.
        on_error: what to do about images that cannot be decoded.
        calibration: thresholds in place of the packaged ones, or their file.
        progress: told what happens.
        device: as for `open_model`, for the model.
        precision: as for `open_model`.
        threads: as for `open_model`.
        ray: address of a Ray cluster whose workers read the images, under the same paths as this process; "auto" finds or
            starts one.

    Returns:
        What was found; `suspects` ranks every image, `write_clean(folder)` writes the dataset without the flagged ones.

    Raises:
        PetechiaError: there is no image, or one cannot be decoded and `on_error` is "error".

    Example:
        >>> import petechia
        >>> petechia.scan("phantom:images=60,size=64").tampered
        False
    """
    classifier = None if model is None else open_model(model, device=device, precision=precision, threads=threads)
    catalog = open_dataset(dataset, missing=missing)
    detector = DatasetScan(on_error, classifier, _reading(ray))
    return detector.examine(catalog, _calibration(calibration, detector), progress)


def audit(
    model: Model,
    clean: Images,
    images: int = 100,
    quick: bool = False,
    calibration: str | Path | Calibration | None = None,
    progress: Progress = SILENT,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
    reference: Model | None = None,
    baseline: Model | None = None,
) -> AuditResult:
    """Does a model carry a backdoor?

    Args:
        model: as for `open_model`. A `torch.nn.Module` needs what `open_model` asks for: open it first.
        clean: 20 to 200 clean images, without labels: a folder, files, a data source, a catalog, or an array.
        images: how many of them are used at most.
        quick: leave out the search for free shapes and warps, which few triggers need.
        calibration: another calibration than the packaged one, or its file.
        progress: told what happens.
        device: as for `open_model`.
        precision: as for `open_model`.
        threads: as for `open_model`.
        reference: a clean model of the same data: what it answers to likewise is natural, and no backdoor.
        baseline: the trusted model that this one is an update of: only what changed since is judged.

    Returns:
        The evidence for each class; `save(directory)` writes audit.json, report.html and pictures.

    Raises:
        PetechiaError: there are too few clean images, they are all the same to the model, or it answers with NaN.
    """
    classifier = open_model(model, device=device, precision=precision, threads=threads)
    progress.phase("reading clean images", images)
    collection = collect(clean, classifier, images, progress)
    nulls = _calibration(calibration, ModelAudit())

    def beside(other: Model | None) -> ModelUnderTest | None:
        if other is None:
            return None
        second = open_model(other, device=device, precision=precision, threads=threads)
        return ModelUnderTest(second, collect(clean, second, images, progress).images)

    found = examine_model(classifier, collection.images, quick, nulls, progress, beside(reference), beside(baseline))
    result = AuditResult.of(
        found, Origin(*classifier.identified(), described(clean, public=True), collection.not_read, collection.notes)
    )
    attach_report(result)
    return result


def calibrate(
    models: Sequence[Model],
    clean: Images,
    out: str | Path | None = None,
    images: int = 100,
    quick: bool = False,
    progress: Progress = SILENT,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
) -> Calibration:
    """Measure clean models of your own, so that an audit compares with them.

    Args:
        models: clean ones, as for `audit`; 60 or more, as no p-value is smaller than 1 in as many and one.
        clean: clean images, as for `audit`.
        out: file, .json, written after every model from the second on. Models that it has already, by their file or else by
            their name, are not measured again, and stay.
        images: how many of them are used at most.
        quick: for quick audits.
        progress: told what happens.
        device: as for `open_model`.
        precision: as for `open_model`.
        threads: as for `open_model`.

    Returns:
        What `audit` takes as its calibration.

    Raises:
        PetechiaError: there is only one model, one cannot be audited, or the file is no calibration of an audit.
    """
    found = list(AuditNulls.of(Calibration.load(out)).models) if out is not None and Path(out).exists() else []
    known = {one.sha256 or one.name: set(one.rises) for one in found}
    for number, model in enumerate(models, 1):
        classifier = open_model(model, device=device, precision=precision, threads=threads)
        named, digest = classifier.identified()
        name, wanted = digest or named, {one.name for one in families_of(classifier, quick)}
        if name in known and wanted <= known[name]:
            continue
        known[name] = wanted
        found = [one for one in found if (one.sha256 or one.name) != name]
        progress.phase(f"model {number} of {len(models)}: {classifier.name}")
        given = collect(clean, classifier, images, progress).images
        measured = measure_model(classifier, given, quick, progress)
        found.append(measured.model_copy(update={"sha256": digest, "name": named}))
        if out is not None and len(found) >= FEWEST_MODELS:
            calibrated(found, "petechia calibrate").save(out)
    return calibrated(found, "petechia calibrate")


def screen(
    model: Model,
    images: Images,
    clean: Images,
    fpr: float = 0.01,
    target: str | None = None,
    progress: Progress = SILENT,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
) -> ScreenResult:
    """Do images carry a trigger?

    Args:
        model: as for `open_model`.
        images: to screen: a folder, files, a data source, a catalog, or an array.
        clean: clean images, likewise, on which the threshold is set: 100 to 200, at least 99 at the default rate.
        fpr: share of clean images that may be flagged.
        target: the one class to look at; by default, for each image, the class that stands out most.
        progress: told what happens.
        device: as for `open_model`.
        precision: as for `open_model`.
        threads: as for `open_model`.

    Raises:
        PetechiaError: there are too few clean images for the rate, there is no such class, or the model answers with NaN.
    """
    classifier = open_model(model, device=device, precision=precision, threads=threads)
    progress.phase("reading clean images")
    trusted = collect(clean, classifier, CLEAN, progress)
    progress.phase("reading images to screen")
    given = collect(images, classifier, None, progress)
    detector = ImageScreen(fpr, target)
    calibration = detector.calibrate([ImagesUnderTest(classifier, trusted.images)], progress)
    found = detector.examine(ImagesUnderTest(classifier, given.images, given.ids, given.shapes), calibration, progress)
    told = {
        "not_read": given.not_read,
        "clean_not_read": trusted.not_read,
        "warnings": tuple(dict.fromkeys((*found.warnings, *trusted.notes, *given.notes))),
    }
    return found.model_copy(update=told)


def watch(
    source: str,
    model: Model,
    clean: Images,
    out: str | Path,
    fpr: float = 0.01,
    target: str | None = None,
    interval: float = 30,
    once: bool = False,
    port: int | None = None,
    started: Callable[[str], None] | None = None,
    say: Callable[[str], None] = print,
    progress: Progress = SILENT,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
) -> Round:
    """Screen every new image of a PACS, and store reports about flagged ones beside them, until Ctrl-C or SIGTERM.

    Args:
        source: "dicomweb:URL", with options that say which images are watched.
        model: as for `open_model`; one in memory is told apart by its name.
        clean: clean images, as for `screen`.
        out: folder of the journal and the calibration; made if need be. A watch that was ended goes on there.
        fpr: share of clean images that may be flagged.
        target: the one class to look at; by default, for each image, the class that stands out most.
        interval: seconds between two lists of the PACS.
        once: end after one list, and raise where the PACS is away.
        port: of the address of metrics and health on loopback; 0 takes a free one; None serves neither.
        started: called with that address.
        say: told, in a sentence, of each image that is flagged or cannot be screened, and of a PACS that is away.
        progress: told what happens before the first list.
        device: as for `open_model`.
        precision: as for `open_model`.
        threads: as for `open_model`.

    Returns:
        How many images were screened, flagged, and could not be screened.

    Raises:
        PetechiaError: the extra `dicomweb` is not installed, the PACS refuses, the folder is another watch's, or as for
            `screen`.
    """
    try:
        from petechia.pacs.start import watch_pacs
    except ImportError as error:
        raise PetechiaError(f"A watch needs {error.name}; install it with pip install 'petechia[dicomweb]'.") from None
    classifier = open_model(model, device=device, precision=precision, threads=threads)
    return watch_pacs(source, classifier, clean, Path(out), fpr, target, interval, once, port, started, say, progress)


def repair(
    model: Model,
    clean: Dataset,
    method: RepairMethod = "unlearn",
    triggers: AuditResult | str | Path | Sequence[Known] = (),
    images: int = 1000,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
) -> RepairResult:
    """Remove a backdoor from a model, and measure it before and after on images that it was not repaired with.

    Args:
        model: a model of Petechia, or a network of timm; it is left as it is.
        clean: clean images: a data source, a folder of images without labels, a catalog, or an array.
        method: "unlearn" needs triggers, "fine-prune" and "fine-tune" need labels.
        triggers: those that an audit found (its result or its audit.json), or any others.
        images: how many clean images are used at most.
        epochs: of training; by default as many as make 200 steps.
        lr: learning rate; by default 0.0005.
        seed: of the order of images and of places.
        progress: told what happens.
        device: as for `open_model`.
        precision: as for `open_model`.
        threads: as for `open_model`.

    Returns:
        What was measured; `repaired_model` is the model, and `save(directory)` writes both.

    Raises:
        PetechiaError: the model cannot be trained, or the images or triggers do not fit it.
    """
    known = _triggers(triggers)
    how = Repairing(method=method, epochs=epochs, **({} if lr is None else {"lr": lr}))
    classifier = open_model(model, device=device, precision=precision, threads=threads)
    source = clean if isinstance(clean, str | Path | Catalog) else open_dataset(clean)
    return repair_model(classifier, source, how, known, images, seed, progress)


def explain(
    model: Model,
    images: Images,
    targets: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    method: str = "gradcam",
    dicom: bool = False,
    out: str | Path | None = None,
    progress: Progress = SILENT,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
) -> Explanations:
    """Show where a model looks in some images.

    Args:
        model: as for `open_model`; a black box only with a method that needs no layers.
        images: PNG, JPEG, TIFF or DICOM files, a data source, a catalog, or images in memory, uint8 [N, H, W] or [N, H, W, 3].
        targets: names of the classes to explain; else each image's highest-scoring class.
        layers: "last", "middle", or names of modules; None is "middle", where the network has one, and "last".
        method: of the maps; `petechia.saliency.METHODS` lists them.
        dicom: also make DICOM secondary captures.
        out: a new folder to write to while it works; without it, `save` writes the same.
        progress: told what happens.
        device: as for `open_model`.
        precision: as for `open_model`.
        threads: as for `open_model`.

    Raises:
        PetechiaError: the model or an image cannot be read, or the model has no such class or layer.
    """
    if out is not None:
        refuse_existing(Path(out))
    classifier = open_model(model, device=device, precision=precision, threads=threads)
    request = Request(tuple(targets), None if layers is None else tuple(layers), method, dicom)
    given = _pictures(images)
    progress.phase("explaining images", len(given))
    return explain_files(classifier, given, None if out is None else Path(out), request, progress)


def make_zoo(
    out: str | Path,
    design: str | Path | None = None,
    overrides: Sequence[str] = (),
    ray: str | None = None,
    describe: bool = False,
    progress: Progress | None = None,
) -> Zoo:
    """Train a set of clean and backdoored models to try detectors on: one half to tune them, the other to judge them.

    Args:
        out: folder of the zoo; models that it holds are not trained again.
        design: a YAML file that says which models; by default 32 attacks on 14 networks, for two cores.
        overrides: KEY=VALUE for all runs.
        ray: as for `run_study`.
        describe: train nothing; list the models that are there.
        progress: as for `run`.

    Raises:
        PetechiaError: the design is not one, or the folder holds no finished model.
    """
    folder, failures = Path(out), {}
    if not describe:
        runs = runs_of(members(load_design(Path(design) if design else None), tuple(overrides)))
        with _where(ray) as (execute, read):
            study = execute_study(runs, StudyDirectory(folder), StudyProgress.of(progress), execute, read=read)
        failures = study.failures
    return list_models(folder, failures)


def serve(
    subject: str | Path,
    host: str = "127.0.0.1",
    port: int = 8765,
    clean: str | None = None,
    started: Callable[[str, bool], None] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
    trigger: str | Path | None = None,
    pacs: str | None = None,
) -> None:
    """Serve the viewer of a run or a model until Ctrl-C.

    Args:
        subject: a run directory, or a model's file or name.
        host: address to bind to; others can reach all but loopback addresses.
        port: 0 takes a free one.
        clean: at least 20 clean images to screen others with, better 100; by default test images of the run.
        started: called with the address, which holds the token that lets readers in, and whether only this computer can
            reach it.
        device: as for `open_model`.
        precision: as for `open_model`.
        threads: as for `open_model`.
        trigger: the audit.json of an audit of the model, whose first trigger readers can then stamp.
        pacs: "dicomweb:URL"; readers can then open its images, by /read?study=UID.

    Raises:
        PetechiaError: the extra `web` is not installed, there is no such run or model, there are too few clean images, or the
            port is taken.
    """
    from petechia.viewer.server import serve as serve_viewer

    serve_viewer(
        subject,
        host,
        port,
        started or (lambda _address, _private: None),
        clean,
        Compute(device=device, precision=precision, threads=threads),
        None if trigger is None else Path(trigger),
        pacs,
    )


def run_detector(
    name: str,
    dataset: Dataset | None = None,
    model: Model | None = None,
    images: Images | None = None,
    clean: Images | None = None,
    calibration: str | Path | Calibration | None = None,
    progress: Progress = SILENT,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
) -> Findings:
    """Run any registered detector, ours or that of another package, see docs/extending.md.

    Args:
        name: of the detector in `petechia.detect.protocol.DETECTORS`.
        dataset: for a detector that examines datasets, as for `open_dataset`.
        model: for a detector that examines models or images, as for `open_model`.
        images: for a detector that examines images, as for `screen`.
        clean: clean images, for a detector that examines models or images.
        calibration: a calibration or its file; by default the detector's own, which for images is set on the clean ones.
        progress: told what happens.
        device: as for `open_model`.
        precision: as for `open_model`.
        threads: as for `open_model`.

    Raises:
        PetechiaError: there is no such detector, what it examines is not given, or it cannot be examined.
    """
    detector = DETECTORS[name]()
    subject: Any
    reference: list[Any] = []
    if detector.examines == "dataset" and dataset is not None:
        subject = open_dataset(dataset, missing="skip")
        not_read = subject.not_read
    elif detector.examines != "dataset" and model is not None and clean is not None:
        classifier = open_model(model, device=device, precision=precision, threads=threads)
        trusted = collect(clean, classifier, CLEAN, progress)
        subject, not_read = ModelUnderTest(classifier, trusted.images), trusted.not_read
        if detector.examines == "images" and images is not None:
            given = collect(images, classifier, None, progress)
            subject = ImagesUnderTest(classifier, given.images, given.ids, given.shapes)
            not_read = given.not_read + trusted.not_read
            reference = [ImagesUnderTest(classifier, trusted.images)]
    else:
        raise PetechiaError(f"The detector {name!r} examines {detector.examines}, which was not given; use another detector.")
    used = calibration if isinstance(calibration, Calibration) else None
    if used is None:
        used = detector.calibrate(reference) if calibration is None else Calibration.load(calibration)  # type: ignore[arg-type]
    found = detector.examine(subject, used, progress)
    return Findings(detector=name, measured_on=used.measured_on, found=tuple(found.findings), not_read=not_read)


def _reading(ray: str | None) -> ReadShards:
    """Where images are read: in this process, or on a Ray cluster."""
    return on_this_machine if ray is None else on_ray(ray)


@contextmanager
def _where(ray: str | None) -> Iterator[tuple[Executor, ReadShards]]:
    """Where the networks of a study are trained, and where its images are read, with one connection to a cluster."""
    if ray is None:
        yield locally, on_this_machine
        return
    from petechia.study.cluster import on_cluster as train_on_cluster

    with connected(ray):
        yield train_on_cluster, on_cluster


def _pictures(images: Images) -> list[Path | NDArray[np.uint8]] | Catalog:
    if isinstance(images, Catalog):
        return images
    names = [images] if isinstance(images, str | Path) else images
    if not (isinstance(names, list | tuple) and all(isinstance(one, str | Path) for one in names)):
        return list(as_images(images))  # type: ignore[arg-type]
    source = named_source([str(one) for one in names])
    return open_source(source, "skip") if source else [Path(one) for one in names]


def _calibration(given: str | Path | Calibration | None, detector: Detector[Any]) -> Calibration:
    if isinstance(given, Calibration):
        return given
    return detector.calibrate([]) if given is None else Calibration.load(given)


def _triggers(given: AuditResult | str | Path | Sequence[Known]) -> tuple[Known, ...]:
    if isinstance(given, AuditResult):
        return triggers_of(given)
    return read_triggers(Path(given)) if isinstance(given, str | Path) else tuple(given)


def _runtime(device: str, precision: Precision, threads: int) -> Runtime:
    with _sentence("the arguments"):
        compute = Compute(device=device, precision=precision, threads=threads)
    return compute.start()


@contextmanager
def _sentence(where: str) -> Iterator[None]:
    """Turn what pydantic says of an argument into one sentence."""
    try:
        yield
    except ValidationError as error:
        raise PetechiaError(f"An argument of {where} is not allowed: {first_problem(error)}.") from None


def _refuse_input(run: RunDirectory, target: Path) -> None:
    """Check that a report can be written, and replaces no file that it is made from."""
    if target.is_dir():
        raise PetechiaError(f"{target} is a folder; give a file as --out.")
    inside = target.parent.resolve().is_relative_to(run.path.resolve()) and target.exists()
    if inside and target.resolve() != run.report.resolve():
        raise PetechiaError(f"{target} is a file of the run; choose another --out.")
    refuse_unwritable(target.parent)


def _write_report(finished: Run) -> None:
    if not finished.directory.report.is_file():
        write_text(finished.directory.report, build_report(finished.directory))


def _refuse_torchrun() -> None:
    if ProcessInfo.of_this_process().world_size > 1:
        raise PetechiaError("torchrun divides one training among processes; distribute the runs of a study with --ray.")


def _tracker(track: str | None) -> Tracker | None:
    return Tracker(track) if track else None


def _config(given: Config | Mapping[str, Any]) -> Config:
    return given if isinstance(given, Config) else make_config(given, "the configuration")
