"""What a repair writes: the model, and a JSON file about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petechia.core.errors import PetechiaError
from petechia.core.files import sha256, write_text
from petechia.core.progress import SILENT, Progress
from petechia.core.runtime import Runtime
from petechia.core.version import __version__
from petechia.detect.repair.clean import CleanSet, read_clean
from petechia.detect.repair.known_trigger import KnownTrigger
from petechia.detect.repair.methods import Repairing, check, repair
from petechia.detect.repair.outcome import measure
from petechia.detect.repair.result import MeasuredModel, RepairedFile, RepairResult, auroc_change
from petechia.models.model import Model
from petechia.models.openers import open_classifier


def record_beside(out: Path) -> Path:
    """The JSON file of a repaired model: NAME.repair.json beside NAME.safetensors."""
    return out.with_suffix(".repair.json")


def refuse_existing(out: Path) -> None:
    """Check that a repair overwrites nothing.

    Raises:
        PetechiaError: a file of that name exists, or the name is not that of a model.
    """
    if out.suffix != ".safetensors":
        raise PetechiaError(f"--out is {out}; a model's file ends in .safetensors.")
    for path in (out, record_beside(out)):
        if path.exists():
            raise PetechiaError(f"{path} exists, and a repair overwrites nothing; give another --out.")


def repair_file(
    model: str,
    source: str,
    out: Path,
    runtime: Runtime,
    how: Repairing,
    triggers: Sequence[KnownTrigger] = (),
    images: int = 1000,
    seed: int = 0,
    progress: Progress = SILENT,
) -> RepairResult:
    """Repair a model with clean images, measure it before and after, and write both.

    Args:
        model: a file of Petechia, or a network of timm, see `open_classifier`. It is not changed.
        source: of the clean images, see `read_clean`; a third of the patients is kept to measure on.
        out: a new file; what was done and measured is written beside it, last.
        runtime: where to compute.
        how: the method and its settings.
        triggers: to unlearn and to measure.
        images: clean images to use, at most.
        seed: of the order of images and of places.
        progress: told of phases, of images that are read and of images that are trained.

    Returns:
        What was written beside the model.

    Raises:
        PetechiaError: the model cannot be trained, the images or triggers do not fit it, or a file would be overwritten.
    """
    refuse_existing(out)
    classifier = open_classifier(model, runtime)
    given = classifier.network
    if not isinstance(given, Model):
        raise PetechiaError(f"{model} cannot be trained further; give a .safetensors file of Petechia, or a network of timm.")
    check(given, how, triggers)
    progress.phase("preparing images", images)
    fit, test = read_clean(source, classifier, images, progress).split()
    repaired = repair(given, fit, runtime, how, triggers, seed, progress)
    progress.phase("measuring")
    result = _measured(RepairedFile(file=model, sha256=_digest(model)), source, given, repaired, test, triggers, runtime)
    refuse_existing(out)  # another process may have written it meanwhile
    repaired.save(out)
    write_text(record_beside(out), result.to_json())
    return result


def _measured(
    file: RepairedFile,
    source: str,
    given: Model,
    repaired: Model,
    test: CleanSet,
    triggers: Sequence[KnownTrigger],
    runtime: Runtime,
) -> RepairResult:
    before, after = measure(given, test, triggers, runtime), measure(repaired, test, triggers, runtime)
    settings = repaired.description.provenance["repaired"][-1]
    return RepairResult(
        petechia=__version__,
        model=file,
        clean=source,
        method=settings["method"],
        settings=settings,
        before=MeasuredModel.of(before),
        after=MeasuredModel.of(after),
        auroc_nn_change=auroc_change(before, after),
    )


def _digest(model: str) -> str | None:
    """Of the file that a model was opened from, the weights' of timm:NAME:FILE; None where there is none."""
    files = (Path(model), Path(model.rpartition(":")[2]))
    return next((sha256(file) for file in files if file.is_file()), None)
