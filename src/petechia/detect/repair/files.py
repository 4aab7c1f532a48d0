"""What a repair leaves: the model, and a JSON file about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from petechia.core.errors import PetechiaError
from petechia.core.files import sha256, write_text
from petechia.core.progress import SILENT, Progress
from petechia.core.runtime import Runtime
from petechia.core.version import __version__
from petechia.detect.repair.clean import read_clean
from petechia.detect.repair.known_trigger import Stamp
from petechia.detect.repair.methods import Repairing, check, repair
from petechia.detect.repair.outcome import change, measure, value
from petechia.models.model import Model
from petechia.models.openers import open_classifier


def beside(out: Path) -> Path:
    """The JSON file of a repaired model."""
    return out.with_suffix(".repair.json")


def refuse_existing(out: Path) -> None:
    """A repair overwrites nothing.

    Raises:
        PetechiaError: the file is there, or would be no model's.
    """
    if out.suffix != ".safetensors":
        raise PetechiaError(f"--out is {out}; a model's file ends in .safetensors.")
    for path in (out, beside(out)):
        if path.exists():
            raise PetechiaError(f"{path} exists, and a repair overwrites nothing; give another --out.")


def repair_file(
    model: str,
    source: str,
    out: Path,
    runtime: Runtime,
    how: Repairing,
    stamps: Sequence[Stamp] = (),
    images: int = 1000,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Repair a model with clean images, measure it before and after, and write both.

    Args:
        model: a file of Petechia, or a network of timm, see `open_classifier`. It is left as it is.
        source: of the clean images, see `read_clean`; a third of the patients is kept to measure on.
        out: a new file; what was done and measured is written beside it, last.
        runtime: where to compute.
        how: the method and its settings.
        stamps: the triggers, to unlearn and to measure.
        images: that are used, at most.
        seed: of order and places.
        progress: told what happens.

    Returns:
        What was written beside the model.

    Raises:
        PetechiaError: something does not suit the repair, or would be overwritten.
    """
    refuse_existing(out)
    classifier = open_classifier(model, runtime)
    given = classifier.network
    if not isinstance(given, Model):
        raise PetechiaError(f"{model} cannot be trained further; give a .safetensors file of Petechia, or a network of timm.")
    check(given, how, stamps)
    progress.phase("preparing images", images)
    clean = read_clean(source, classifier, images, progress)
    fit, test = clean.split()
    repaired = repair(given, fit, runtime, how, stamps, seed, progress)
    progress.phase("measuring")
    before, after = measure(given, test, stamps, runtime), measure(repaired, test, stamps, runtime)
    content = {
        "schema": 1,
        "petechia": __version__,
        "model": {"file": model, "sha256": _digest(model)},
        "clean": source,
        "method": how.method,
        "settings": repaired.description.provenance["repaired"][-1],
        "before": before.as_json(),
        "after": after.as_json(),
        "auroc_nn_change": value(*change(before, after)),
    }
    refuse_existing(out)  # nobody else wrote it meanwhile
    repaired.save(out)
    write_text(beside(out), json.dumps(content, indent=1, allow_nan=False) + "\n")
    return content


def _digest(model: str) -> str | None:
    """Of the file that a model was opened from, the weights' of timm:NAME:FILE; None where there is none."""
    files = (Path(model), Path(model.rpartition(":")[2]))
    return next((sha256(file) for file in files if file.is_file()), None)
