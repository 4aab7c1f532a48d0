"""What a repair writes: the model, and a JSON file about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from numpy.typing import ArrayLike

from petechia.core.errors import PetechiaError
from petechia.core.files import claimed, refuse_existing, write_text
from petechia.core.progress import SILENT, Progress
from petechia.core.runtime import Runtime
from petechia.core.version import __version__
from petechia.data.catalog import Catalog
from petechia.detect.collection import described
from petechia.detect.repair.clean import CleanSet, read_clean
from petechia.detect.repair.known_trigger import Known
from petechia.detect.repair.methods import Repairing, check, repair
from petechia.detect.repair.outcome import measure
from petechia.detect.repair.result import MeasuredModel, RepairedFile, RepairResult, auroc_change
from petechia.models.classifier import Classifier
from petechia.models.model import Model


def record_beside(out: Path) -> Path:
    """The JSON file of a repaired model: NAME.repair.json beside NAME.safetensors."""
    return out.with_suffix(".repair.json")


def refuse_existing_model(out: Path) -> None:
    """Check that a repair overwrites nothing.

    Raises:
        PetechiaError: a file of that name exists or cannot be made, or the name is not that of a model.
    """
    if out.suffix != ".safetensors":
        raise PetechiaError(f"--out is {out}; a model's file ends in .safetensors.")
    refuse_existing(out)


def repair_model(
    classifier: Classifier,
    clean: str | Path | Catalog | ArrayLike,
    how: Repairing,
    triggers: Sequence[Known] = (),
    images: int = 1000,
    seed: int = 0,
    progress: Progress = SILENT,
) -> RepairResult:
    """Repair a model with clean images, and measure it before and after.

    Args:
        classifier: a model of Petechia, or a network of timm. It is not changed.
        clean: see `read_clean`; a third of the patients is kept to measure on.
        how: the method and its settings.
        triggers: to unlearn and to measure.
        images: clean images to use, at most.
        seed: of the order of images and of places.
        progress: told of phases, of images that are read and of images that are trained.

    Raises:
        PetechiaError: the model cannot be trained, or the images or triggers do not fit it.
    """
    given, name = classifier.network, classifier.name
    if not isinstance(given, Model):
        raise PetechiaError(f"{name} cannot be trained further; give a .safetensors file of Petechia, or a network of timm.")
    check(given, how, triggers)
    progress.phase("preparing images")  # there may be fewer than may be taken
    fit, test = read_clean(clean, classifier, images, progress).split()
    repaired = repair(given, fit, classifier.runtime, how, triggers, seed, progress)
    progress.phase("measuring")
    file, digest = classifier.identified()
    source = described(clean, public=True)
    result = _measured(RepairedFile(file=file, sha256=digest), source, given, repaired, test, triggers, classifier.runtime)
    result.keep_model(repaired)
    return result


def write_repaired(result: RepairResult, out: Path) -> None:
    """Write the result, and the repaired model beside it as a new file, last: a result without a model is a killed repair's.

    Raises:
        PetechiaError: a file would be overwritten.
    """
    with claimed(out):
        refuse_existing_model(out)
        write_text(record_beside(out), result.to_json())
        result.repaired_model.save(out)


def _measured(
    file: RepairedFile,
    source: str,
    given: Model,
    repaired: Model,
    test: CleanSet,
    triggers: Sequence[Known],
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
        not_read=test.not_read,
    )
