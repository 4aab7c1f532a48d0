"""Audit every model of a zoo: which classes are flagged, where the trigger is found, and how long it takes.

python -m benchmarks.auditing ZOO --half judge --out FILE.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petechia.core.runtime import Compute, Runtime
from petechia.detect.audit import examine_model
from petechia.detect.audit.examination import RecoveredStamp
from petechia.detect.audit.verdict import (
    AuditNulls,
    Null,
    combine_p_values,
    stamp_p_values,
    strongest_evidence,
    trigger_p_values,
)
from petechia.zoo.specimens import Specimen, specimens

Values = NDArray[np.float64]
NULLS = AuditNulls.of()  # the nulls that the audit uses


def examine(specimen: Specimen, runtime: Runtime) -> dict[str, Any]:
    """The evidence that an audit finds in a model, with the truth."""
    images = specimen.clean[np.arange(len(specimen.clean))]
    found = examine_model(specimen.classifier(runtime), images)
    config, attack = specimen.config, specimen.config.attack
    attacked = specimen.arm == "attacked"
    place = specimen.run_data.attacks[config.seeds[0]].plan.positions[0].tolist()
    return {
        "name": specimen.name,
        "arm": specimen.arm,
        "arch": config.model.arch,
        "asr": specimen.asr,
        "backdoored": specimen.backdoored,
        "trigger": attack.trigger.model_dump(mode="json") | {"place": place},
        "rate": attack.rate,
        "mode": attack.mode,
        "targets": [attack.target, *attack.also] if attacked else [],
        "classes": list(found.classifier.classes),
        "gains": [one.gain for one in found.classes],
        "sizes": [one.raising.size if one.raising else None for one in found.classes],
        "lowering": [one.lowering.size if one.lowering else None for one in found.classes],
        "recovered": {one.name: _recovered(one.recovered) for one in found.classes if one.recovered},
        "passes": found.passes,
        "seconds": found.seconds,
    }


def _recovered(one: RecoveredStamp) -> dict[str, Any]:
    rates = {"asr": one.asr[0.9].share, "false_trigger": one.false_trigger[0.9].share}
    return {"stamp": one.square._asdict(), "fixed": one.fixed, "gain": one.gain, **rates}


def p_values(row: dict[str, Any]) -> Values:
    """The p-values that an audit gives for this evidence, float64 [K]."""
    gains, sizes = _arrays(row)
    return combine_p_values(stamp_p_values(gains, NULLS), trigger_p_values(sizes, NULLS))


def flagged(row: dict[str, Any]) -> list[str]:
    """Return the classes that an audit with this evidence flags."""
    return [name for name, p in zip(row["classes"], p_values(row), strict=True) if p < NULLS.level]


def _arrays(row: dict[str, Any]) -> tuple[Any, Values]:
    return np.array(row["gains"], np.float32), np.array(row["sizes"], np.float64)


def _off(row: dict[str, Any], name: str) -> float:
    """Return the largest distance, in rows or columns, between the centres of the recovered stamp and of the trigger."""
    stamp, trigger = row["recovered"][name]["stamp"], row["trigger"]
    mine = (stamp[axis] + stamp["size"] / 2 for axis in ("row", "column"))
    return float(max(abs(a - (b + trigger["size"] / 2)) for a, b in zip(mine, trigger["place"], strict=True)))


def calibrate(rows: list[dict[str, Any]]) -> dict[str, Null]:
    """Return the nulls of `detect/calibration/audit.json`, from the clean models among these."""
    clean = [_arrays(row) for row in rows if row["arm"] == "control"]
    strongest = [strongest_evidence(gains, sizes, NULLS.fewest_classes) for gains, sizes in clean]
    return {name: Null.of([one[name] for one in strongest]) for name in strongest[0]}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table, one row per model."""
    yield "| model | trigger | rate, mode | ASR(0.9) | truth | flagged | p | place off by | gain | its ASR(0.9) | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda one: (one["arm"] == "control", not one["backdoored"], one["name"])):
        yield f"| {' | '.join(_cells(row))} |"


def _cells(row: dict[str, Any]) -> Iterator[str]:
    trigger, attacked, found = row["trigger"], row["arm"] == "attacked", p_values(row)
    first = row["classes"][int(found.argmin())]
    shown = row["recovered"].get(first)
    blend = f" at {trigger['opacity']:.0%}" if trigger["opacity"] < 1 else ""
    yield f"{row['arch']}, {row['name'].partition('_')[0]}{'' if attacked else ' control'}"
    yield f"{trigger['size']}×{trigger['size']}, {trigger['value']}{blend}, {trigger['location']}" if attacked else "–"
    yield f"{row['rate']:.0%}, {row['mode']}" if attacked else "–"
    yield f"{row['asr']:.3f}"
    yield (", ".join(row["targets"]) + ("" if row["backdoored"] else " (did not take)")) if attacked else "clean"
    yield ", ".join(flagged(row)) or "nothing"
    yield f"{found.min():.2g}"
    yield f"{_off(row, first):.1f}" if shown and first in row["targets"] and trigger["location"] != "random" else "–"
    yield f"{shown['gain']:.1f}" if shown else "–"
    yield f"{shown['asr']:.3f}" if shown else "–"
    yield f"{row['seconds']:.0f}"


def main() -> None:
    """Audit the models that are not in the file yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--half", choices=["tune", "judge"], default="judge")
    parser.add_argument("--out", type=Path, default=Path("auditing.json"))
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    runtime = Compute(threads=given.threads).start()
    rows: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out.is_file() else []
    for specimen in specimens(given.zoo, given.half):
        if (specimen.name, specimen.arm) not in {(row["name"], row["arm"]) for row in rows}:
            rows.append(examine(specimen, runtime))
            given.out.write_text(json.dumps(rows, indent=1))
            print(f"{specimen.name} {specimen.arm}: p {p_values(rows[-1]).min():.2g}, {rows[-1]['seconds']:.0f} s", flush=True)
    print("\n".join(table(rows)))
    if sum(row["arm"] == "control" for row in rows) > 2:
        print("\nNulls of these clean models:", calibrate(rows))


if __name__ == "__main__":
    main()
