"""Audit every model of a zoo, and measure on clean ones what the audit compares with.

python -m benchmarks.auditing measure ZOO --out ROWS.json       what the searches find in every model, with the truth
python -m benchmarks.auditing calibrate ROWS.json… --out FILE.json   the calibration that follows from the clean models
python -m benchmarks.auditing judge ROWS.json… [--csv FOLDER]   a table of verdicts, and how p-values of clean models lie

Both of the last two use the rows only, so that another calibration needs no second search; judge --csv keeps the rows that it
judged in audit-judged.jsonl, which it takes, too. Measuring goes on with the models that are missing in its file.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from petechia.core.runtime import Compute, Runtime
from petechia.detect.audit import examine_model
from petechia.detect.audit.detector import calibrated
from petechia.detect.audit.examination import TOOK, RecoveredChange, RecoveredStamp
from petechia.detect.audit.measured import Measured
from petechia.detect.audit.verdict import AuditNulls, Judgement
from petechia.detect.protocol import Calibration
from petechia.zoo.specimens import Specimen, specimens

COMMAND = (
    "python -m benchmarks.auditing calibrate, with the zoos of clean-real.yaml, clean-phantoms.yaml, clean-few.yaml, "
    "few-classes.yaml, judge-real.yaml and judge-drawn.yaml"
)
Row = dict[str, Any]
Values = NDArray[np.float64]
WHOLE = ("sinusoid", "fiba", "warp")  # kinds of triggers that change the whole image, as do pictures of size "whole"


def examine(specimen: Specimen, runtime: Runtime, blind: bool = False) -> Row:
    """What an audit finds in a model, with the truth; as a black box only its answers are used."""
    classifier = specimen.classifier(runtime)
    if blind:
        classifier = replace(classifier, network=None)
    found = examine_model(classifier, specimen.clean[np.arange(len(specimen.clean))])
    config, attack, run_data = specimen.config, specimen.config.attack, specimen.run_data
    return {
        "name": specimen.name,
        "arm": specimen.arm,
        "arch": config.model.arch,
        "source": str(config.data),
        "asr": specimen.asr,
        "backdoored": specimen.backdoored,
        "trigger": attack.trigger.model_dump(mode="json"),
        "rate": attack.rate,
        "mode": attack.mode,
        "targets": [run_data.dataset.classes[run_data.target], *attack.also] if specimen.arm == "attacked" else [],
        "measured": found.measured.model_dump(mode="json"),
        "stamps": {one.name: _effect(one.recovered) for one in found.classes if one.recovered},
        "changes": {one.name: _effect(one.change) for one in found.classes if one.change},
        "passes": found.passes,
        "seconds": round(found.seconds, 1),
    }


def _effect(one: RecoveredStamp | RecoveredChange) -> Row:
    what = one.square._asdict() if isinstance(one, RecoveredStamp) else {"family": one.family}
    return {**what, "gain": one.gain, "asr": one.asr[0.9].share, "false_trigger": one.false_trigger[0.9].share}


class Clean(NamedTuple):
    """A clean model of the calibration, compared with the others."""

    measured: Measured
    found: Judgement


class Judged(NamedTuple):
    """A row with the verdict on it.

    Attributes:
        row: what was measured, with the truth.
        found: what the tests say.
        flagged: classes.
    """

    row: Row
    found: Judgement
    flagged: list[str]

    @property
    def p(self) -> float:
        """The least p-value of all classes."""
        return float(self.found.p_values.min())

    @property
    def first(self) -> int:
        """The class with the strongest evidence."""
        return self.found.ranked[0]

    @property
    def outcome(self) -> str:
        """What the audit says, as `petechia.detect.audit.examination.Outcome`."""
        if not self.flagged:
            return "nothing"
        effects = [kind.get(name) for name in self.flagged for kind in (self.row["stamps"], self.row["changes"])]
        return "backdoor" if any(one and one["asr"] >= TOOK for one in effects) else "simple change"

    @property
    def found_by(self) -> str:
        """The test that says most about the first class."""
        return min(self.found.tests, key=lambda test: self.found.tests[test][self.first], default="")


def judged(row: Row, nulls: AuditNulls) -> Judged:
    """Judge a row; a clean model is not compared with itself."""
    measured = measured_of(row)
    found = _compared(measured, nulls)
    return Judged(row, found, [c for c, p in zip(measured.classes, found.p_values, strict=True) if p <= nulls.level])


def _compared(measured: Measured, nulls: AuditNulls) -> Judgement:
    others = [one for one in nulls.models if one != measured]
    return (nulls.with_models(others) if len(others) < len(nulls.models) else nulls).judge(measured)


def calibrated_on(nulls: AuditNulls) -> list[Clean]:
    """The clean models of a calibration, each compared with the others."""
    return [Clean(one, _compared(one, nulls)) for one in nulls.models]


def measured_of(row: Row) -> Measured:
    """What the searches found."""
    return Measured.model_validate(row["measured"])


def flagged(row: Row) -> list[str]:
    """The classes that an audit flags, by the calibration that comes with Petechia."""
    return judged(row, AuditNulls.of()).flagged


def trigger_words(trigger: Row) -> str:
    """A trigger, in a few words."""
    if trigger["kind"] == "patch":
        faint = f" at {trigger['opacity']:.0%}" if trigger["opacity"] < 1 else ""
        return f"{trigger['size']} × {trigger['size']} square{faint}"
    if trigger["kind"] == "pattern":
        size = trigger["size"]
        return f"{trigger['image']}, whole image" if size == "whole" else f"{trigger['image']} {size} × {size}"
    if trigger["kind"] == "marker":
        return f"marker: {trigger['shape']}"
    return {"sinusoid": "wave", "fiba": "FIBA", "warp": "warp"}.get(trigger["kind"], str(trigger["kind"]))


def table(rows: Sequence[Judged]) -> Iterator[str]:
    """A Markdown table, one row per model."""
    yield "| network | trigger | ASR(0.9) | truth | flagged | p | by | its ASR(0.9) | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in sorted(rows, key=lambda one: (one.row["arm"] == "control", not one.row["backdoored"], one.row["name"])):
        row, name = one.row, one.row["measured"]["classes"][one.first]
        shown = row["stamps"].get(name), row["changes"].get(name)
        best = max((effect["asr"] for effect in shown if effect), default=float("nan"))
        truth = (", ".join(row["targets"]) + ("" if row["backdoored"] else " (did not take)")) if row["targets"] else "clean"
        cells = (
            f"{row['arch']}, {row['measured']['size']}",
            trigger_words(row["trigger"]) if row["targets"] else "–",
            f"{row['asr']:.2f}",
            truth,
            ", ".join(one.flagged) or "nothing",
            f"{one.p:.2g}",
            one.found_by,
            f"{best:.2f}",
            f"{row['seconds']:.0f}",
        )
        yield f"| {' | '.join(cells)} |"


def summary(rows: Sequence[Judged]) -> Iterator[str]:
    """What was found of which kind, and how the p-values of clean models lie."""
    took = [one for one in rows if one.row["backdoored"]]
    clean = [one for one in rows if one.row["arm"] == "control"]
    for kind, some in _kinds(took).items():
        right = [one for one in some if set(one.row["targets"]) & set(one.flagged)]
        wrong = [one for one in some if set(one.flagged) - set(one.row["targets"])]
        yield f"{kind}: {len(right)} of {len(some)} found with the right class, {len(wrong)} with a wrong one"
    least = min((one.p for one in clean), default=1)
    accused, called = (sum(one.outcome in which for one in clean) for which in (("backdoor", "simple change"), ("backdoor",)))
    yield f"clean: {accused} of {len(clean)} flagged, {called} called backdoored, least p {least:.2g}"
    if took and clean:
        truth = [1] * len(took) + [0] * len(clean)
        yield f"AUROC of model against model: {roc_auc_score(truth, [one.found.evidence.max() for one in (*took, *clean)]):.3f}"


def null_summary(models: Sequence[Clean], level: float) -> Iterator[str]:
    """How the p-values of clean models lie, of those with few classes apart."""
    for few, name in ((False, "four classes and more"), (True, "fewer classes")):
        some = [one for one in models if one.measured.few == few]
        least = [float(one.found.p_values.min()) for one in some]
        if len(some) > 1:
            yield f"{name}: {sum(p <= level for p in least)} of {len(some)} flagged"
            yield _uniform(least, "all tests together")
            for test in sorted({test for one in some for test in one.found.tests}):
                yield _uniform([float(one.found.tests[test].min()) for one in some if test in one.found.tests], f"{test} alone")


def _uniform(values: Sequence[float], name: str) -> str:
    both, small = (stats.kstest(values, "uniform", alternative=side).pvalue for side in ("two-sided", "greater"))
    return (
        f"p-values of {len(values)} clean models by {name}: Kolmogorov-Smirnov against uniform p {both:.2g}, "
        f"against too many small ones {small:.2g}"
    )


def kind_of(trigger: Row) -> str:
    """Which of three kinds a trigger is."""
    if trigger["kind"] in WHOLE or trigger.get("size") == "whole":
        return "whole image"
    return "square" if trigger["kind"] == "patch" else "pattern or checkerboard"


def _kinds(rows: Sequence[Judged]) -> dict[str, list[Judged]]:
    found: dict[str, list[Judged]] = {"all": list(rows)}
    for one in rows:
        found.setdefault(kind_of(one.row["trigger"]), []).append(one)
    return found


VERDICT = "set network size images classes trigger kind asr_0.9 backdoor target flagged outcome p found_by seconds".split()  # noqa: SIM905


def _verdict(one: Judged) -> tuple[Any, ...]:
    """A row of audit-models.csv."""
    row, attacked = one.row, bool(one.row["targets"])
    return (
        row["set"],
        *_network(row),
        len(row["measured"]["classes"]),
        trigger_words(row["trigger"]) if attacked else "none",
        kind_of(row["trigger"]) if attacked else "none",
        f"{row['asr']:.3f}",
        "took" if row["backdoored"] else "did not take" if attacked else "clean",
        ", ".join(row["targets"]),
        ", ".join(one.flagged) or "nothing",
        one.outcome,
        f"{one.p:.2g}",
        one.found_by,
        f"{row['seconds']:.0f}",
    )


def _network(row: Row) -> tuple[Any, ...]:
    return row["arch"], row["measured"]["size"], _images(row["source"])


def _images(source: str) -> str:
    return "drawn" if source.startswith("phantom") else "PneumoniaMNIST" if source.startswith("medmnist") else "NIH"


def _clean(one: Clean, tests: Sequence[str]) -> tuple[Any, ...]:
    """A row of audit-clean.csv."""
    alone = (one.found.tests.get(test) for test in tests)
    values = ("" if found is None else f"{found.min():.3g}" for found in alone)
    return one.measured.name, one.measured.size, len(one.measured.classes), f"{one.found.p_values.min():.3g}", *values


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _measure(zoo: Path, half: Any, out: Path, threads: int, blind: bool, name: str) -> None:
    runtime = Compute(threads=threads).start()
    rows: list[Row] = json.loads(out.read_text()) if out.is_file() else []
    for specimen in specimens(zoo, half):
        if (specimen.name, specimen.arm) not in {(row["name"], row["arm"]) for row in rows}:
            rows.append({"set": name, **examine(specimen, runtime, blind)})
            out.write_text(json.dumps(rows))
            print(f"{specimen.name} {specimen.arm}: {rows[-1]['seconds']:.0f} s", flush=True)


def read_rows(files: Sequence[Path]) -> list[Row]:
    """What was measured, from lists in JSON or one row in each line."""
    texts = [(file.suffix == ".jsonl", file.read_text(encoding="utf-8")) for file in files]
    return [row for lines, text in texts for row in (map(json.loads, text.splitlines()) if lines else json.loads(text))]


def write_results(folder: Path, rows: Sequence[Judged], clean: Sequence[Clean], tests: Sequence[str]) -> None:
    """Write the tables: the models that were judged, what was measured of them, and the clean models of the calibration."""
    write_csv(folder / "audit-models.csv", VERDICT, [_verdict(one) for one in rows])
    lines = "".join(json.dumps(one.row, ensure_ascii=False) + "\n" for one in rows)
    (folder / "audit-judged.jsonl").write_text(lines, "utf-8")
    header = ["model", "size", "classes", "p", *tests]
    write_csv(folder / "audit-clean.csv", header, [_clean(one, tests) for one in clean])


def main() -> None:
    """Measure, calibrate, or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["measure", "calibrate", "judge"])
    parser.add_argument("given", type=Path, nargs="+", help="a zoo, or files of rows")
    parser.add_argument("--half", choices=["tune", "judge"])
    parser.add_argument("--out", type=Path, default=Path("auditing.json"))
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--csv", type=Path, help="folder for the tables of results")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--set", default="", help="name of the set of models, kept with what is measured")
    parser.add_argument("--blind", action="store_true", help="treat the models as black boxes")
    given = parser.parse_args()
    if given.action == "measure":
        _measure(given.given[0], given.half, given.out, given.threads, given.blind, given.set)
        return
    rows = read_rows(given.given)
    if given.action == "calibrate":
        clean = [measured_of(row) for row in rows if row["arm"] == "control"]
        calibrated(clean, COMMAND).save(given.out)
        return
    nulls = AuditNulls.of(Calibration.load(given.calibration) if given.calibration else None)
    every = [judged(row, nulls) for row in rows]
    compared = calibrated_on(nulls)
    if given.csv:
        write_results(given.csv, every, compared, nulls.tests)
    print("\n".join(table(every)), "\n")
    for name in dict.fromkeys(row["set"] for row in rows):
        for few, classes in ((False, "four classes and more"), (True, "fewer than four classes")):
            if some := [one for one in every if measured_of(one.row).few == few and one.row["set"] == name]:
                print(f"{name or 'all'}, {classes}:")
                print("\n".join(summary(some)))
    print("\nThe models of the calibration, each compared with the others:")
    print("\n".join(null_summary(compared, nulls.level)))


if __name__ == "__main__":
    main()
