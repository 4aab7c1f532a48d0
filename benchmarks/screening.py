"""How well the screen separates triggered from clean images, on a zoo: a Markdown table and a JSON file."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess
from petechia.detect.screen import Screen, Suspicions
from petechia.measure import Count
from petechia.models.classifier import Classifier
from petechia.models.model import Architecture, create
from petechia.zoo.design import Half
from petechia.zoo.specimens import Specimen, specimens

RESAMPLES = 500


class Row(NamedTuple):
    """The results of one model."""

    name: str
    kind: str  # "backdoored", "backdoor that did not take" or "clean"
    asr: float
    auroc: float
    interval: tuple[float, float]
    images: int
    caught: int
    alarms: int
    right_class: float
    right_place: float
    parts: dict[str, float]
    milliseconds: float
    warned: bool


def judge(specimen: Specimen, runtime: Runtime, most: int, blind: bool = False) -> Row:
    """Fit on the specimen's clean images; judge on others, with and without the trigger."""
    classifier = specimen.classifier(runtime)
    if blind:
        classifier = Classifier(
            classifier.name, classifier.classes, classifier.preprocess, classifier.answer, runtime, None, classifier.colour
        )
    clean, triggered = (_all(images) for images in specimen.judged(most))
    screen = Screen.fit(classifier, _all(specimen.clean))
    began = time.perf_counter()
    of_clean, of_triggered = screen.score(clean), screen.score(triggered)
    milliseconds = 1000 * (time.perf_counter() - began) / (2 * len(clean))
    kind = "clean" if specimen.arm == "control" else "backdoored" if specimen.backdoored else "did not take"
    low, high = _interval(of_clean.suspicion, of_triggered.suspicion)
    return Row(
        specimen.name,
        kind,
        specimen.asr,
        _auroc(of_clean.suspicion, of_triggered.suspicion),
        (low, high),
        len(clean),
        int(of_triggered.flagged.sum()),
        int(of_clean.flagged.sum()),
        _named(specimen, of_triggered),
        float(np.mean([_overlap(box, a != b) for box, a, b in zip(of_triggered.boxes, clean, triggered, strict=True)])),
        {name: _auroc(of_clean.parts[name], of_triggered.parts[name]) for name in of_clean.parts},
        milliseconds,
        bool(screen.warnings),
    )


def _all(images: Any) -> NDArray[np.uint8]:
    return np.asarray(images[np.arange(len(images))])


def _named(specimen: Specimen, found: Suspicions) -> float:
    """Return the share of the flagged images whose class is one of the attack's targets."""
    classes = specimen.run_data.dataset.classes
    attack = specimen.config.attack
    targets = [classes.index(name) for name in (attack.target, *attack.also)]
    return float(np.isin(found.classes[found.flagged], targets).mean()) if found.flagged.any() else float("nan")


def _overlap(box: Any, changed: NDArray[np.bool_]) -> bool:
    """Whether the box contains a pixel of the trigger."""
    return bool(changed[box.top : box.top + box.height, box.left : box.left + box.width].any())


def _auroc(clean: NDArray[np.float64], triggered: NDArray[np.float64]) -> float:
    truth = np.repeat([0, 1], [len(clean), len(triggered)])
    return float(roc_auc_score(truth, np.concatenate([clean, triggered])))


def _interval(clean: NDArray[np.float64], triggered: NDArray[np.float64]) -> tuple[float, float]:
    """95 %, from resampling images, each clean one with its triggered copy."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(clean), len(clean)) for _ in range(RESAMPLES)]
    low, high = np.percentile([_auroc(clean[draw], triggered[draw]) for draw in draws], (2.5, 97.5))
    return float(low), float(high)


def markdown(rows: Sequence[Row]) -> str:
    """A table for each kind of model, and a table of the parts."""
    return "\n\n".join([*(_table(kind, rows) for kind in ("backdoored", "did not take", "clean")), _parts(rows)])


def _table(kind: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row.kind == kind]
    if not own:
        return f"No model of the kind: {kind}."
    lines = [
        f"**{kind}**: {len(own)} models",
        "",
        "| model | ASR(0.9) | AUROC | TPR | FPR | class | place | ms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in own:
        low, high = row.interval
        lines.append(
            f"| {row.name} | {row.asr:.3f} | {row.auroc:.4f} [{low:.3f} – {high:.3f}] | {_share(row.caught, row.images)} "
            f"| {_share(row.alarms, row.images)} | {row.right_class:.2f} | {row.right_place:.2f} | {row.milliseconds:.0f} |"
        )
    images = sum(row.images for row in own)
    lines.append(
        f"| **all** | | mean {np.mean([row.auroc for row in own]):.4f}, least {min(row.auroc for row in own):.4f} "
        f"| {_share(sum(row.caught for row in own), images)} | {_share(sum(row.alarms for row in own), images)} | | | |"
    )
    return "\n".join(lines)


def _share(count: int, of: int) -> str:
    """Format a share with its Wilson interval."""
    low, high = Count(count, of).interval
    return f"{count / of:.3f} [{low:.3f} – {high:.3f}]"


def _parts(rows: Sequence[Row]) -> str:
    lines = ["| part alone: AUROC, mean (least) | backdoored | clean models |", "|---|--:|--:|"]
    for name in rows[0].parts:
        cells = []
        for kind in ("backdoored", "clean"):
            values = [row.parts[name] for row in rows if row.kind == kind]
            cells.append(f"{np.mean(values):.3f} ({min(values):.3f})" if values else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speed(sizes: Iterable[int], threads: int) -> Iterable[tuple[int, float, float]]:
    """Size, and wall time and CPU time in milliseconds per image, of a DenseNet-121 with random weights."""
    runtime = Compute(threads=threads).start()
    for size in sizes:
        model = create(Architecture(), tuple("ABCDEFGHIJKLMN"), Preprocess(size=size), 0)
        images = np.random.default_rng(0).integers(0, 256, (12, size, size), dtype=np.uint8)
        screen = Screen.fit(Classifier.of(model, runtime), images, fpr=0.1)
        began, worked = time.perf_counter(), time.process_time()
        screen.score(images[:8])
        yield size, 125 * (time.perf_counter() - began), 125 * (time.process_time() - worked)


def main() -> None:
    """Judge every model of one half, print the tables, and write the numbers to a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path, nargs="?")
    parser.add_argument("--half", choices=("tune", "judge"), default="judge")
    parser.add_argument("--most", type=int, default=200, help="number of images to test on")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file; models in it are not judged again")
    parser.add_argument("--blind", action="store_true", help="treat the models as black boxes")
    parser.add_argument("--only", default="", help="test only models whose name contains this")
    given = parser.parse_args()
    runtime = Compute(threads=given.threads).start()
    if given.zoo is None:
        for size, wall, worked in speed((64, 224), given.threads):
            threads = torch.get_num_threads()
            print(f"DenseNet-121, {size} x {size}, {threads} threads: {wall:.0f} ms an image, {worked:.0f} ms of CPU time")
        return
    rows = _read(given.out)
    half: Half = given.half
    for specimen in specimens(given.zoo, half):
        known = {(row.name, row.kind == "clean") for row in rows}
        if given.only in specimen.name and (specimen.name, specimen.arm == "control") not in known:
            rows.append(judge(specimen, runtime, given.most, given.blind))
            if given.out is not None:
                given.out.write_text(json.dumps([row._asdict() for row in rows], indent=1), encoding="utf-8")
    print(markdown(rows))


def _read(file: Path | None) -> list[Row]:
    if file is None or not file.is_file():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    return [Row(**{**row, "interval": tuple(row["interval"])}) for row in content]


if __name__ == "__main__":
    main()
