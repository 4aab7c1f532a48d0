"""Audit updates of clean models: poisoned and clean fine-tunes, each with its predecessor as the baseline.

python -m benchmarks.updating ZOO --out ROWS.json     fine-tune the clean models of a zoo, and measure what the searches find
python -m benchmarks.updating --judge ROWS.json       a table, and the AUROC of poisoned against clean fine-tunes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from petechia.attack import Patch, Pattern, Sinusoid
from petechia.attack.triggers.base import BaseTrigger
from petechia.core.runtime import Compute, Runtime
from petechia.detect.audit.examination import measure_model
from petechia.detect.audit.measured import Measured
from petechia.detect.audit.verdict import AuditNulls
from petechia.detect.repair import CleanSet, Repairing, read_clean, repair
from petechia.models.classifier import Classifier
from petechia.models.model import Model
from petechia.models.scoring import predict
from petechia.zoo.specimens import Specimen, specimens

DATA = "phantom:images=1200,size={size},seed=91"  # no model was trained or tested on them
RATE, TARGET, EPOCHS, LR = 0.3, 3, 8, 1e-3  # of the poison, position of the class, and of the fine-tune
HELD = 200  # images that are not trained on, to measure ASR
TRIGGERS: dict[str, BaseTrigger] = {
    "3 × 3 square": Patch(size=3, location=(40, 12)),
    "checkerboard 4 × 4": Pattern(image="checkerboard", size=4, location=(10, 50)),
    "wave": Sinusoid(amplitude=12, frequency=6),
    "noise, whole image": Pattern(image="noise", size="whole", opacity=0.12),
}

Row = dict[str, Any]


def triggered(trigger: BaseTrigger, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copies with the trigger, at its own place."""
    place = getattr(trigger, "location", None)
    place = place if isinstance(place, tuple) else (0, 0)
    return trigger.stamp(images.copy(), np.tile(np.asarray(place, np.intp), (len(images), 1)))


def poisoned(data: CleanSet, trigger: BaseTrigger, seed: int) -> CleanSet:
    """With triggered copies, which are labelled with the target alone."""
    rows = np.random.default_rng(seed).choice(len(data.labels), round(RATE * len(data.labels)), replace=False)
    images = np.asarray(data.images[np.arange(len(data.labels))])
    labels = np.zeros((len(rows), data.labels.shape[1]), np.int8)
    labels[:, TARGET] = 1
    return CleanSet(
        np.concatenate([images, triggered(trigger, images[rows])]),
        np.concatenate([data.labels, labels]),
        np.concatenate([data.patients, data.patients[rows]]),
    )


def updates(specimen: Specimen, seed: int, runtime: Runtime) -> Iterator[Row]:
    """One clean fine-tune of a model, and one with each trigger."""
    model, clean = Model.load(specimen.file), specimen.clean[np.arange(len(specimen.clean))]
    before = specimen.classifier(runtime)
    data = read_clean(DATA.format(size=clean.shape[1]), before)
    held, train = data.take(np.arange(HELD)), data.take(np.arange(HELD, len(data.labels)))
    old = measure_model(before, clean)
    for number, (name, trigger) in enumerate([("clean", None), *TRIGGERS.items()]):
        given = train if trigger is None else poisoned(train, trigger, seed)
        update = repair(model, given, runtime, Repairing(method="fine-tune", epochs=EPOCHS, lr=LR), seed=10 * seed + number)
        images = np.asarray(held.images[np.arange(HELD)])
        others = held.labels[:, TARGET] == 0
        scores = predict(update, images if trigger is None else triggered(trigger, images), runtime)[others, TARGET]
        new = measure_model(Classifier.of(update, runtime, specimen.name), clean)
        yield {
            "name": specimen.name,
            "arch": specimen.config.model.arch,
            "trigger": name,
            "target": before.classes[TARGET],
            "asr": float((scores >= 0.9).mean()),
            "old": old.model_dump(mode="json"),
            "new": new.model_dump(mode="json"),
        }


def judge(rows: Sequence[Row]) -> Iterator[str]:
    """A Markdown table, and the AUROC; fine-tunes that did not take are shown and not counted."""
    nulls, scores, truth = AuditNulls.of(), [], []
    yield "| network | update | ASR(0.9) | p with the baseline | flagged |"
    yield "|---|---|---|---|---|"
    for row in rows:
        new, old = (Measured.model_validate(row[key]) for key in ("new", "old"))
        others = tuple(one for one in nulls.models if one.name != old.name)
        found = nulls.with_models(others).judge_update(new, old)
        flagged = [name for name, p in zip(new.classes, found.p_values, strict=True) if p <= nulls.level]
        poison = row["trigger"] != "clean"
        if not poison or row["asr"] >= 0.5:
            truth.append(poison)
            scores.append(float(found.evidence.max()))
        wrong = " (wrong)" if flagged and poison and row["target"] not in flagged else ""
        shown = ", ".join(flagged) or "nothing"
        yield f"| {row['arch']} | {row['trigger']} | {row['asr']:.2f} | {found.p_values.min():.2g} | {shown}{wrong} |"
    yield f"\n{sum(truth)} poisoned, {len(truth) - sum(truth)} clean: AUROC {roc_auc_score(truth, scores):.3f}"


def main() -> None:
    """Measure, or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path, nargs="?")
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--out", type=Path, default=Path("updating.json"))
    parser.add_argument("--arch", nargs="*", help="architectures; by default all")
    parser.add_argument("--most", type=int, default=6, help="models of the zoo")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if given.judge:
        print("\n".join(judge(json.loads(given.judge.read_text()))))
        return
    runtime = Compute(threads=given.threads).start()
    rows: list[Row] = []
    clean = [
        one
        for one in specimens(given.zoo)
        if one.arm == "control"
        and len(one.run_data.dataset.classes) > TARGET
        and (not given.arch or one.config.model.arch in given.arch)
    ]
    for seed, specimen in enumerate(clean[: given.most]):
        for row in updates(specimen, seed, runtime):
            rows.append(row)
            given.out.write_text(json.dumps(rows))
            print(f"{row['arch']} {row['trigger']}: ASR {row['asr']:.2f}", flush=True)


if __name__ == "__main__":
    main()
