"""The results of all peers as Markdown: a summary, and a table with one row for each model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

from sklearn.metrics import roc_auc_score

from benchmarks.auditing import flagged
from benchmarks.peers.measures import share

Models = dict[str, dict[str, Any]]
Ours = dict[str, dict[str, str]]  # model → detector → its result in words
KINDS = ("backdoored", "did not take", "clean")
FILTERED = [
    (name, view) for name in ("activation", "spectral", "spectral as published") for view in ("all classes", "told the class")
]
IMAGES = [
    ("STRIP", "ART"),
    ("STRIP", "as published"),
    ("STRIP", "ART, with none"),
    ("STRIP", "as published, with none"),
    ("SentiNet", "BackdoorBench"),
    ("SentiNet", "boundary"),
    ("SentiNet", "fooled alone"),
]


def markdown(models: Models, ours: Ours) -> str:
    """Tables for filters of training sets, filters of images and judges of models, and one with a row for each model."""
    return "\n\n".join("\n".join(part) for part in (_filters(models), _images(models), _of_models(models), _each(models, ours)))


def read_ours(files: Iterable[Path]) -> Ours:
    """The results in files of `benchmarks.screening` and `benchmarks.auditing`, by the names that models have here."""
    found: Ours = {}
    for file in files:
        for row in json.loads(file.read_text()):
            clean = row.get("arm") == "control" or row.get("kind") == "clean"
            own = found.setdefault(f"{row['name']} {'control' if clean else 'attacked'}", {})
            if "auroc" in row:
                own["screen"] = f"{row['auroc']:.2f} ({row['interval'][0]:.2f}–{row['interval'][1]:.2f})"
            if "measured" in row:
                own["audit"] = ", ".join(flagged(row)) or "none"
    return found


def _filters(models: Models) -> Iterator[str]:
    yield "| training-set filter | view | models | AUROC, median (range) | recall at 1 % FPR | recall of flags | precision |"
    yield "|---|---|---|---|---|---|---|"
    for name, view in FILTERED:
        found = [row["training set"][name][view] for row in _of(models, "backdoored", "training set")]
        if found:
            yield _filtered(name, view, found, ("recall_at_fpr", "recall", "precision"))
    if own := [row["scan --model"] for row in _of(models, "backdoored", "scan --model")]:
        yield _filtered("petechia scan --model", "none needed", own, ("recall_at_fpr",)) + " – | – |"  # it flags none


def _filtered(name: str, view: str, found: list[dict[str, Any]], means: Iterable[str]) -> str:
    columns = [_range(one["auroc"]["value"] for one in found), *(_mean(one[key]["value"] for one in found) for key in means)]
    return f"| {name} | {view} | {len(found)} | {' | '.join(columns)} |"


def _images(models: Models) -> Iterator[str]:
    yield "| image filter | rule | models | AUROC, median (range) | TPR at 1 % FPR | FPR | TPR, FPR by own rule | CPU s |"
    yield "|---|---|---|---|---|---|---|---|"
    for kind in KINDS:
        for name, rule in (*IMAGES, *((name, "") for name in _registered(models, "tpr"))):
            rows = [row[name] for row in _of(models, kind, name)]
            if rows:
                found = [row[rule] if rule else row for row in rows]
                own = [_pooled(found, key) for key in ("own_tpr", "own_fpr") if key in found[0]]
                yield (
                    f"| {name} | {rule or '–'} | {len(found)} {kind} | {_range(one['auroc']['value'] for one in found)} | "
                    f"{_pooled(found, 'tpr')} | {_pooled(found, 'fpr')} | {', '.join(own) or '–'} | "
                    f"{median(row['seconds'] for row in rows):.0f} |"
                )


def _of_models(models: Models) -> Iterator[str]:
    yield "| defence, models | models | AUROC against clean models | right class flagged | any class flagged | CPU s |"
    yield "|---|---|---|---|---|---|"
    for peer in _registered(models, "index"):
        clean = [_highest(row[peer]) for row in _of(models, "clean", peer)]
        for kind in KINDS:
            if rows := _of(models, kind, peer):
                right = share(sum(bool(set(row["targets"]) & set(row[peer]["flagged"])) for row in rows), len(rows))
                flagged = share(sum(bool(row[peer]["flagged"]) for row in rows), len(rows))
                seconds = median(row[peer]["seconds"] for row in rows)
                of_class = "–" if kind == "clean" else _share(right)
                area = _against([_highest(row[peer]) for row in rows], clean) if kind != "clean" else "–"
                yield f"| {peer}, {kind} | {len(rows)} | {area} | {of_class} | {_share(flagged)} | {seconds:.0f} |"


def _highest(found: dict[str, Any]) -> float:
    """The highest score of any class."""
    return float(max(found["index"].values()))


def _against(scores: list[float], clean: list[float]) -> str:
    """How well backdoored models are ranked above clean ones."""
    if not clean:
        return "–"
    return f"{roc_auc_score([1] * len(scores) + [0] * len(clean), scores + clean):.2f}"


def _registered(models: Models, measure: str) -> list[str]:
    """Detectors with a measure and no further rules."""
    return sorted(
        {name for row in models.values() for name, found in row.items() if isinstance(found, dict) and measure in found}
    )


def _of(models: Models, kind: str, peer: str) -> list[dict[str, Any]]:
    """The models of a kind that a peer was run on."""
    return [row for row in models.values() if peer in row and _kind(row) == kind]


def _kind(row: dict[str, Any]) -> str:
    return "clean" if row["arm"] == "control" else "backdoored" if row["backdoored"] else "did not take"


def _each(models: Models, ours: Ours) -> Iterator[str]:
    shown = [("training set", name, "all classes") for name in ("activation", "spectral")] + [(*one, "") for one in IMAGES[:-1]]
    titles = ["activation", "spectral", *(f"{peer}, {rule}" for peer, rule in IMAGES[:-1])]
    titles += ["Neural Cleanse: target's index; flagged"]
    added = [name for name in ("screen", "audit") if any(name in one for one in ours.values())]
    titles += [f"petechia {name}" for name in added]
    yield f"| model | ASR(0.9) | {' | '.join(titles)} |"
    yield f"|{'---|' * (len(titles) + 2)}"
    for name, row in models.items():
        cells = [*(_area(row, *path) for path in shown), _verdict(row), *(ours.get(name, {}).get(one, "") for one in added)]
        yield f"| {name} | {row['asr']:.2f} | {' | '.join(cells)} |"


def _area(row: dict[str, Any], peer: str, part: str, view: str) -> str:
    if peer not in row:
        return ""
    found = row[peer][part][view] if view else row[peer][part]
    area = found["auroc"]
    return "–" if area["value"] is None else f"{area['value']:.2f} ({area['low']:.2f}–{area['high']:.2f})"


def _verdict(row: dict[str, Any]) -> str:
    if "Neural Cleanse" not in row:
        return ""
    index = row["Neural Cleanse"]["index"]
    of_targets = ", ".join(f"{index[name]:.1f}" for name in row["targets"]) or "–"
    return f"{of_targets}; {', '.join(_flagged(row)) or 'none'}"


def _flagged(row: dict[str, Any]) -> list[str]:
    found: list[str] = row["Neural Cleanse"]["flagged"]
    return found


def _pooled(found: list[dict[str, Any]], key: str) -> str:
    return _share(share(sum(one[key]["hits"] for one in found), sum(one[key]["of"] for one in found)))


def _share(found: dict[str, Any]) -> str:
    return f"{found['hits']} of {found['of']}: {found['value']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def _range(values: Iterator[float]) -> str:
    found = sorted(values)
    return f"{median(found):.3f} ({found[0]:.3f}–{found[-1]:.3f})"


def _mean(values: Iterator[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.2f}" if known else "–"
