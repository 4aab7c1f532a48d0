"""How well the screen separates triggered from clean images, on the models of zoos.

python -m benchmarks.screening ZOO --out ROWS.json              screens the models that are missing in the file
python -m benchmarks.screening ROWS.json… --csv FOLDER          tables of several files
python -m benchmarks.screening                                  how long it takes
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.auditing import kind_of, trigger_words, write_csv
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
    kind: str  # "backdoored", "did not take" or "clean"
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
    network: str
    size: int
    source: str  # "drawn" or "NIH"
    trigger: str
    trigger_kind: str


def judge(specimen: Specimen, runtime: Runtime, most: int, blind: bool = False) -> Row:
    """Fit on the specimen's clean images; judge on others, with and without the trigger."""
    classifier = specimen.classifier(runtime)
    if blind:
        classifier = replace(classifier, network=None)
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
        **looks(specimen),
    )


def looks(specimen: Specimen) -> dict[str, Any]:
    """What a table says of a model besides its results."""
    config, trigger = specimen.config, specimen.config.attack.trigger.model_dump(mode="json")
    return {
        "network": config.model.arch,
        "size": config.preprocess.size,
        "source": "drawn" if str(config.data).startswith("phantom") else "NIH",
        "trigger": trigger_words(trigger),
        "trigger_kind": kind_of(trigger),
    }


def _all(images: Any) -> NDArray[np.uint8]:
    return np.asarray(images[np.arange(len(images))])


def _named(specimen: Specimen, found: Suspicions) -> float:
    """Return the share of the flagged images whose class is one of the attack's targets."""
    run_data = specimen.run_data
    targets = [run_data.target, *map(run_data.dataset.classes.index, specimen.config.attack.also)]
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
    """Tables of models, groups and parts."""
    return "\n\n".join(_markdown(name, *content) for name, content in tables(rows).items())


def tables(rows: Sequence[Row]) -> dict[str, tuple[Sequence[str], list[tuple[Any, ...]]]]:
    """File → its header and rows."""
    models = [_model(row) for row in sorted(rows, key=lambda row: (row.kind, row.trigger_kind, row.network))]
    groups = [_group(*group) for group in _groups(rows)]
    names = list(dict.fromkeys(name for row in rows for name in row.parts))
    return {
        "screen-models": (MODELS, models),
        "screen-groups": (GROUPED, groups),
        "screen-parts": (
            ("part", *(f"{kind}_auroc_{value}" for kind in PARTED for value in ("mean", "least"))),
            _parts(rows, names),
        ),
    }


MODELS = (
    *(
        "model",
        "backdoor",
        "trigger",
        "trigger_kind",
        "network",
        "size",
        "images",
        "asr_0.9",
        "auroc",
        "auroc_low",
        "auroc_high",
    ),
    *("triggered_flagged", "triggered", "clean_flagged", "clean", "class_named", "place_named", "milliseconds"),
)
GROUPED = (
    *("group", "models", "auroc_mean", "auroc_least", "triggered_flagged", "triggered", "tpr", "tpr_low", "tpr_high"),
    *("clean_flagged", "clean", "fpr", "fpr_low", "fpr_high"),
)
PARTED = ("part", "whole", "clean")  # backdoors with a trigger in a part of the image or over all of it; clean models


def _model(row: Row) -> tuple[Any, ...]:
    (low, high), kind = row.interval, {"backdoored": "took"}.get(row.kind, row.kind)
    return (
        *(row.name, kind, row.trigger, row.trigger_kind, row.network, row.size, row.source, f"{row.asr:.3f}"),
        *(f"{value:.4f}" for value in (row.auroc, low, high)),
        *(row.caught, row.images, row.alarms, row.images),
        *(f"{value:.2f}" for value in (row.right_class, row.right_place)),
        f"{row.milliseconds:.0f}",
    )


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Backdoors that took, all and by their kind of trigger; the others; clean models."""
    took = [row for row in rows if row.kind == "backdoored"]
    yield "took", took
    for kind in sorted({row.trigger_kind for row in took}):
        yield f"took: {kind}", [row for row in took if row.trigger_kind == kind]
    for kind in ("did not take", "clean"):
        if some := [row for row in rows if row.kind == kind]:
            yield kind, some


def _group(name: str, rows: Sequence[Row]) -> tuple[Any, ...]:
    if not rows:
        return (name, 0, *[""] * (len(GROUPED) - 2))
    areas, images = [row.auroc for row in rows], sum(row.images for row in rows)
    found: list[Any] = [name, len(rows), f"{np.mean(areas):.4f}", f"{min(areas):.4f}"]
    for count in (sum(row.caught for row in rows), sum(row.alarms for row in rows)):
        found += [count, images, *(f"{value:.3f}" for value in (count / images, *Count(count, images).interval))]
    return tuple(found)


def _parts(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Each part of the suspicion alone."""
    took = [row for row in rows if row.kind == "backdoored"]
    groups = {
        "part": [row for row in took if row.trigger_kind != "whole image"],
        "whole": [row for row in took if row.trigger_kind == "whole image"],
        "clean": [row for row in rows if row.kind == "clean"],
    }
    found = []
    for name in names:
        areas = ([row.parts[name] for row in groups[kind] if name in row.parts] for kind in PARTED)
        found.append(
            (name, *(value for some in areas for value in ((f"{np.mean(some):.3f}", f"{min(some):.3f}") if some else ("", ""))))
        )
    return found


def _markdown(name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"**{name}**", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


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
    """Judge the models of a zoo, or print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", type=Path, nargs="*", help="a zoo, or files of rows")
    parser.add_argument("--csv", type=Path, help="folder for the tables")
    parser.add_argument("--half", choices=("tune", "judge"))
    parser.add_argument("--most", type=int, default=200, help="number of images to test on")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file; models in it are not judged again")
    parser.add_argument("--blind", action="store_true", help="treat the models as black boxes")
    parser.add_argument("--only", default="", help="test only models whose name contains this")
    given = parser.parse_args()
    runtime = Compute(threads=given.threads).start()
    if not given.given:
        for size, wall, worked in speed((64, 224), given.threads):
            threads = torch.get_num_threads()
            print(f"DenseNet-121, {size} x {size}, {threads} threads: {wall:.0f} ms an image, {worked:.0f} ms of CPU time")
        return
    measured = given.given[0].is_dir()
    rows = _screen(given, runtime) if measured else [row for file in given.given for row in _read(file)]
    for name, (header, table) in tables(rows).items() if given.csv else ():
        write_csv(given.csv / f"{name}.csv", header, table)
    print(markdown(rows))


def _screen(given: argparse.Namespace, runtime: Runtime) -> list[Row]:
    rows = _read(given.out)
    half: Half | None = given.half
    for specimen in specimens(given.given[0], half):
        known = {(row.name, row.kind == "clean") for row in rows}
        if given.only in specimen.name and (specimen.name, specimen.arm == "control") not in known:
            rows.append(judge(specimen, runtime, given.most, given.blind))
            if given.out is not None:
                given.out.write_text(json.dumps([row._asdict() for row in rows], indent=1), encoding="utf-8")
    return rows


def _read(file: Path | None) -> list[Row]:
    if file is None or not file.is_file():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    return [Row(**{**row, "interval": tuple(row["interval"])}) for row in content]


if __name__ == "__main__":
    main()
