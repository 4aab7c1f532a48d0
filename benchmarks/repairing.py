"""Repair the backdoored models of a zoo: python -m benchmarks.repairing ZOO [--half tune] [--out OUT.json]."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from safetensors.numpy import load_file

from petechia.attack import Patch
from petechia.core.runtime import Compute, Runtime
from petechia.detect.repair import CleanSet, KnownTrigger, Repairing, read_clean, repair
from petechia.measure import auroc, exceedance
from petechia.models.model import Model
from petechia.models.openers import open_classifier
from petechia.models.scoring import predict
from petechia.zoo.specimens import Specimen, specimens

CLEAN = "phantom:images=800,size=64,seed=77"  # the defender's; no model was trained or tested on them
OFF = 2  # pixels, each way, by which a place is wrong where the trigger is not known exactly


class Way(NamedTuple):
    """One way to repair: its name in the table, its settings, and how well the trigger is known."""

    name: str
    how: Repairing
    off: int = 0


WAYS = (
    Way("unlearn", Repairing(method="unlearn")),
    Way(f"unlearn, {OFF} px off", Repairing(method="unlearn"), OFF),
    Way("fine-prune", Repairing(method="fine-prune")),
    Way("fine-tune", Repairing(method="fine-tune")),
)


class Figures(NamedTuple):
    """ASR(0.9) and ASR(0.6) on the run's test images, AUROC on the clean ones, and the median rise of the target's logit."""

    asr_9: float
    asr_6: float
    auroc: float
    rise: float


def figures(clean: NDArray[np.float32], triggered: NDArray[np.float32], specimen: Specimen) -> Figures:
    """From scores [N, K] for the run's test images, clean and with its trigger."""
    run_data = specimen.run_data
    labels, target = run_data.dataset.labels[run_data.test], run_data.target
    of_target = triggered[:, target]
    rise = np.median((_logit(of_target) - _logit(clean[:, target]))[labels[:, target] == 0])
    asr_9, asr_6 = (exceedance(of_target, labels[:, target], p) for p in (0.9, 0.6))
    return Figures(asr_9, asr_6, auroc(clean, labels), float(rise))


def scored(model: Model, specimen: Specimen, runtime: Runtime) -> Figures:
    """Of a model, measured on the run's test images as the run was."""
    placed, run_data = runtime.to_device(model), specimen.run_data
    triggered = predict(placed, run_data.triggered_images(specimen.config.seeds[0]), runtime)
    return figures(predict(placed, run_data.clean_images(), runtime), triggered, specimen)


def stored(specimen: Specimen, arm: str) -> Figures:
    """Compute the figures of the attacked network or its control from the scores that the run wrote."""
    files = specimen.directory.network(arm, specimen.config.seeds[0])
    scores = load_file(files.scores_of(int(specimen.file.stem.removeprefix("epoch-"))))
    return figures(scores["clean"], scores["triggered"], specimen)


def _logit(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    sure = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(sure / (1 - sure)))


def triggers_of(specimen: Specimen, off: int) -> tuple[KnownTrigger, ...]:
    """Return the run's trigger, exact or displaced by some pixels; a blended trigger is treated as opaque."""
    attack, size = specimen.config.attack, specimen.config.preprocess.size
    trigger = attack.trigger
    assert isinstance(trigger, Patch)
    places = specimen.run_data.attacks[specimen.config.seeds[0]].plan.positions
    row, column = np.clip(places[0] + (off, -off), 0, size - trigger.size).tolist()
    box: dict[str, Any] = {"row": row, "column": column, "height": trigger.size, "width": trigger.size}
    fixed = not trigger.wanders
    return (KnownTrigger(target=attack.target, value=trigger.value, fixed=fixed, **box),)


def row_of(specimen: Specimen, way: Way, clean: CleanSet, runtime: Runtime) -> list[str]:
    """Return a row of the table."""
    before, control = stored(specimen, "attacked"), stored(specimen, "control")
    triggers = triggers_of(specimen, way.off) if way.how.method == "unlearn" else ()
    after = scored(repair(Model.load(specimen.file), clean, runtime, way.how, triggers), specimen, runtime)
    asr_9, asr_6, area = (f"{old:.3f} → {new:.3f}" for old, new in zip(before[:3], after[:3], strict=True))
    rise = f"{before.rise:.1f} → {after.rise:.1f}"
    return [specimen.name, way.name, asr_9, f"{control.asr_9:.3f}", asr_6, f"{control.asr_6:.3f}", area, rise]


def main(zoo: Path, half: str = "judge", out: Path | None = None, method: str = "") -> None:
    """Print a Markdown table, row by row. Rows in OUT.json are not computed again."""
    runtime = Compute(threads=1, precision="fp32").start()
    known: dict[str, list[str]] = json.loads(out.read_text()) if out and out.exists() else {}
    heads = ("model", "method", "ASR(0.9)", "control", "ASR(0.6)", "control", "AUROC-NN", "rise of the logit")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    for specimen in specimens(zoo, "tune" if half == "tune" else "judge"):
        wanders = specimen.config.attack.trigger.wanders
        for way in WAYS:
            if not specimen.backdoored or (wanders and way.off) or not way.name.startswith(method):
                continue  # a trigger at random places has no place to displace
            key = f"{specimen.name}, {way.name}"
            if key not in known:
                clean = read_clean(CLEAN, open_classifier(str(specimen.file), runtime))
                known[key] = row_of(specimen, way, clean.split()[0], runtime)
            print("| " + " | ".join(known[key]) + " |", flush=True)
            if out:
                out.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    typer.run(main)
