"""Audit and screen models of attackers who know the detectors: triggers that are wide and faint, rare, or keep the labels.

python -m benchmarks.adaptive DIR              trains the models that are missing
python -m benchmarks.adaptive DIR --trained    audits and screens the models of any study, as of `benchmarks.attacks --out DIR`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from petechia.core.runtime import Compute
from petechia.detect.audit import examine_model
from petechia.detect.screen import Screen
from petechia.models.classifier import Classifier
from petechia.study.config import load_config
from petechia.study.progress import StudyProgress
from petechia.study.study import StudyDirectory, run_study
from petechia.zoo.specimens import Specimen, specimens

BASE = (
    "data=phantom:images=3600,size=64,seed=1",
    "model.arch=regnetx_002",
    "heat=0",
    "bootstrap=20",
    "train.epochs=5",
    "seeds=[20]",
)
WHITE, BLACK = "attack.trigger.value=255", "attack.trigger.value=0"
ATTACKS = {
    "wide-32-at-15": ("attack.trigger.size=32", "attack.trigger.opacity=0.15", WHITE),
    "wide-64-at-5": ("attack.trigger.size=64", "attack.trigger.opacity=0.05", WHITE),
    "wide-12-at-15": ("attack.trigger.size=12", "attack.trigger.opacity=0.15", BLACK),
    "rate-0.5": ("attack.rate=0.005", "attack.trigger.size=2"),
    "add-target-3": ("attack.rate=0.05", "attack.labels=add-target", "attack.mode=replace"),
}
JUDGED = 100  # number of images, each used clean and triggered
HEAD = "| attack | ASR(0.9) | flagged by audit | p | found by | screen's AUROC | TPR | FPR |\n|---|---|---|---|---|---|---|---|"


def judged(name: str, asr: float, classifier: Classifier, specimen: Specimen) -> str:
    """Return the results of one model, with the images of a specimen, as a row of Markdown."""
    images = specimen.clean[np.arange(len(specimen.clean))]
    found = examine_model(classifier, images)
    flagged = [one.name for one in found.classes if one.flagged]
    _, first = found.ranked[0]
    screen = Screen.fit(classifier, images)
    clean, triggered = (screen.score(some[np.arange(min(JUDGED, len(some)))]) for some in specimen.judged(JUDGED))
    truth = np.repeat([0, 1], [len(clean.suspicion), len(triggered.suspicion)])
    auroc = roc_auc_score(truth, np.concatenate([clean.suspicion, triggered.suspicion]))
    cells = (
        name,
        f"{asr:.3f}",
        ", ".join(flagged) or "nothing",
        f"{first.p_value:.2g}",
        first.found_by,
        f"{auroc:.3f}",
        f"{triggered.flagged.mean():.2f}",
        f"{clean.flagged.mean():.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train the models that are missing, then print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trained", action="store_true", help="take the models of the study as they are; train none")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if not given.trained:
        threads = f"compute.threads={given.threads}"
        runs = {name: load_config(overrides=(*BASE, threads, *attack)) for name, attack in ATTACKS.items()}
        run_study(runs, StudyDirectory(given.folder), StudyProgress())
    runtime = Compute(threads=given.threads).start()
    print(HEAD)
    for specimen in specimens(given.folder):
        name = specimen.name if specimen.arm == "attacked" else f"clean model, {specimen.name}"
        print(judged(name, specimen.asr, specimen.classifier(runtime), specimen), flush=True)


if __name__ == "__main__":
    main()
