"""What repairs do to the backdoored models of a zoo: python -m benchmarks.repairing ZOO [--half tune] [--out OUT.md]."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from petechia.compute import Compute, Machine
from petechia.detect.repair import CleanSet, Repairing, Stamp, read_clean, repair
from petechia.measure import auroc, exceedance
from petechia.model import Model, predict
from petechia.zoo.specimens import Specimen, specimens

CLEAN = "phantom:images=800,size=64,seed=77"  # drawn for the defender; no model was trained or tested on it
OFF = 2  # pixels, each way, by which a place is wrong where the trigger is not known exactly


class Way(NamedTuple):
    """One way of repairing: its name in the table, its settings, and how well the trigger is known."""

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


def figures(model: Model, specimen: Specimen, machine: Machine) -> Figures:
    """Measured as the run was, on its own test images."""
    material = specimen.material
    seed, target = specimen.config.seeds[0], material.target
    labels = material.dataset.labels[material.test]
    clean = predict(machine.place(model), material.clean_images(), machine)
    triggered = predict(model, material.triggered_images(seed), machine)[:, target]
    rise = np.median((_logit(triggered) - _logit(clean[:, target]))[labels[:, target] == 0])
    asr_9, asr_6 = (exceedance(triggered, labels[:, target], p) for p in (0.9, 0.6))
    return Figures(asr_9, asr_6, auroc(clean, labels), float(rise))


def _logit(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    sure = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(sure / (1 - sure)))


def stamps_of(specimen: Specimen, off: int) -> tuple[Stamp, ...]:
    """The run's trigger, known exactly or with its place off by some pixels; a blended one is taken for an opaque one."""
    attack, size = specimen.config.attack, specimen.config.preprocess.size
    trigger = attack.trigger
    places = specimen.material.attacks[specimen.config.seeds[0]].plan.positions
    row, column = np.clip(places[0] + (off, -off), 0, size - trigger.size).tolist()
    box: dict[str, Any] = {"row": row, "column": column, "height": trigger.size, "width": trigger.size}
    fixed = trigger.location != "random"
    return (Stamp(target=attack.target, value=trigger.value, fixed=fixed, **box),)


def rows_of(specimen: Specimen, clean: CleanSet, machine: Machine) -> Iterator[list[str]]:
    """A row of the table for every way; wandering triggers have no place to be off."""
    before = figures(Model.load(specimen.file), specimen, machine)
    control = figures(Model.load(_control(specimen)), specimen, machine)
    for way in WAYS:
        stamps = stamps_of(specimen, way.off)
        if way.off and not stamps[0].fixed:
            continue
        repaired = repair(Model.load(specimen.file), clean, machine, way.how, stamps if way.how.method == "unlearn" else ())
        after = figures(repaired, specimen, machine)
        pairs = [f"{a:.3f} → {b:.3f}" for a, b in zip(before[:3], after[:3], strict=True)]
        yield [
            specimen.name,
            way.name,
            pairs[0],
            f"{control.asr_9:.3f}",
            pairs[1],
            f"{control.asr_6:.3f}",
            pairs[2],
            f"{before.rise:.1f} → {after.rise:.1f}",
        ]


def _control(specimen: Specimen) -> Path:
    return sorted(specimen.directory.network("control", specimen.config.seeds[0]).checkpoints.glob("epoch-*.safetensors"))[-1]


def main(zoo: Path, half: str = "judge", out: Path | None = None) -> None:
    """Print a Markdown table, row by row; rows that are in OUT.md.json are not computed again."""
    machine = Compute(threads=1, precision="fp32").open()
    kept = out.with_suffix(".json") if out else None
    known: dict[str, list[list[str]]] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    heads = ("model", "method", "ASR(0.9)", "control", "ASR(0.6)", "control", "AUROC-NN", "rise of the logit")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    print("\n".join(lines), flush=True)
    for specimen in specimens(zoo, "tune" if half == "tune" else "judge"):
        if not specimen.backdoored:
            continue
        if specimen.name not in known:
            clean = read_clean(CLEAN, specimen.material.dataset.classes, specimen.config.preprocess)
            known[specimen.name] = list(rows_of(specimen, clean.split()[0], machine))
        new = ["| " + " | ".join(row) + " |" for row in known[specimen.name]]
        print("\n".join(new), flush=True)
        lines += new
        if out and kept:
            kept.write_text(json.dumps(known))
            out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
