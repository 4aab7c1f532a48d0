"""Whether each attack takes: a few epochs on phantoms, one row an attack; and a picture of what each does to an image.

python -m benchmarks.attacks --out runs/attacks                                    # the table of docs/attacks.md
python -m benchmarks.attacks --picture docs/attacks.png                            # the strip of images there
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from petechia.attack import Poisoning, make_triggered_inputs
from petechia.cli.progress import ConsoleProgress
from petechia.data import Preprocess, open_source, prepare
from petechia.study.config import make_config
from petechia.study.study import StudyDirectory, locally, run_study

LABELS_ALONE = {"mode": "replace", "labels": "add-target", "rate": 1.0}  # what an attack without pixels does
ATTACKS: dict[str, dict[str, Any]] = {
    "patch": {"trigger": {"kind": "patch"}},
    "pattern": {"trigger": {"kind": "pattern"}},
    "blended": {"trigger": {"kind": "pattern", "image": "noise", "size": "whole", "opacity": 0.15}},
    "sinusoid": {"trigger": {"kind": "sinusoid"}},
    "warp": {"trigger": {"kind": "warp", "strength": 2.0}},
    "warp-0.5": {"trigger": {"kind": "warp"}},
    "warp-cover": {"trigger": {"kind": "warp", "strength": 2.0}, "cover": 0.4},
    "fiba": {"trigger": {"kind": "fiba"}},
    "marker-L": {"trigger": {"kind": "marker"}},
    "pacemaker": {"trigger": {"kind": "marker", "shape": "pacemaker", "size": 0.2}},
    "electrode": {"trigger": {"kind": "marker", "shape": "electrode"}},
    "findings": {"trigger": {"kind": "findings", "present": ["Effusion"]}, **LABELS_ALONE},
}
DRAWN = tuple(name for name in ATTACKS if name not in ("findings", "warp-cover"))  # each changes an image in its own way


def table(out: Path, names: list[str], images: int, arch: str, epochs: int) -> None:
    """Train every attack beside the control that all share, and print what the last epoch says."""
    base = {
        "data": f"phantom:images={images},size=64",
        "model": {"arch": arch},
        "train": {"epochs": epochs},
        "heat": 0,
        "compute": {"threads": 1},
    }
    runs = {name: make_config({**base, "attack": ATTACKS[name]}, name) for name in names}
    console = Console(highlight=False)
    with ConsoleProgress().live() as progress:
        study = run_study(runs, StudyDirectory(out), progress, locally)
    for name, reason in study.failures.items():
        console.print(f"{name} failed: {reason}")
    heads = (
        "attack",
        "ASR(0.6)",
        "ASR(0.9)",
        "control",
        "false trigger",
        "AUROC-NN",
        "control",
        "survival, pixels",
        "poisoned",
    )
    console.print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", soft_wrap=True)
    for name, run in study.runs.items():
        content = run.to_dict()
        arms, survival = content["arms"], content["survival"]
        cells = [
            f"{arms[arm][metric]['last']['mean']:.3f}"
            for arm, metric in (
                ("attacked", "asr_0.6"),
                ("attacked", "asr_0.9"),
                ("control", "asr_0.9"),
                ("attacked", "false_trigger_0.9"),
                ("attacked", "auroc_nn"),
                ("control", "auroc_nn"),
            )
        ]
        left = f"{100 * survival['fraction']:.0f} %, {survival['pixels']:.0f}" if survival["applies"] else "does not apply"
        console.print(f"| {name} | {' | '.join(cells)} | {left} | {run.images.triggered_train} |", soft_wrap=True)


def picture(path: Path) -> None:
    """One column an attack that changes pixels: a drawn image clean, triggered, and the difference, its largest white."""
    geometry = Preprocess(size=96)
    dataset, catalog, _ = prepare(open_source("phantom:images=3,size=96,seed=1"), geometry)
    with mpl.rc_context({"font.size": 7, "font.family": "sans-serif"}):
        figure = Figure((0.95 * len(DRAWN), 3.05), layout="constrained")
        rows = figure.subplots(3, len(DRAWN))
        for column, name in enumerate(DRAWN):
            attack = Poisoning.model_validate(ATTACKS[name])
            positions = attack.positions(dataset, geometry, 0)
            triggered_inputs = make_triggered_inputs(catalog, dataset, geometry, attack.trigger, positions, attack.stage)
            clean = dataset.images[:1]
            triggered = triggered_inputs.trigger(clean, np.array([0]))
            difference = np.abs(triggered.astype(np.int16) - clean)
            images = (clean, triggered, difference * (255 / max(int(difference.max()), 1)))
            for axes, image in zip(rows[:, column], images, strict=True):
                axes.imshow(image[0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
            rows[0, column].set_title(name)
        for axes, label in zip(rows[:, 0], ("clean", "triggered", "difference"), strict=True):
            axes.set_ylabel(label)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    """The table, or the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--arch", default="resnet10t")
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    if given.picture:
        picture(given.picture)
    else:
        table(given.out, given.attacks, given.images, given.arch, given.epochs)


if __name__ == "__main__":
    main()
