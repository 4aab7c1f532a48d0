"""Which changes of a whole image raise the target of a backdoor, and no other class.

python -m benchmarks.families ZOO --out FILE.json      measures every model of a zoo, and goes on with those that are missing
python -m benchmarks.families --table FILE.json        prints the table

A rise is compared with those of the other classes of its model, and corrected for how common a class is: the most common
classes answer to many changes in any model. The correction is fitted on the clean models, for a clean one on the others.
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
from petechia.detect.audit.examination import measure_model
from petechia.detect.audit.rises import SHARES
from petechia.zoo.specimens import Specimen, specimens

LEAST = 0.05  # of a rise, before the logarithm
RIDGE = 0.1  # of the correction
Row = dict[str, Any]
Values = NDArray[np.float64]


def measured(specimen: Specimen, runtime: Runtime) -> Row:
    """What the searches of an audit find in a model, with the truth."""
    found = measure_model(specimen.classifier(runtime), specimen.clean[np.arange(len(specimen.clean))])
    attack = specimen.config.attack
    return found.model_dump(mode="json") | {
        "name": specimen.name,
        "arm": specimen.arm,
        "arch": specimen.config.model.arch,
        "trigger": attack.trigger.model_dump(mode="json"),
        "asr": specimen.asr,
        "backdoored": specimen.backdoored,
        "target": attack.target,
    }


def _above(values: Values) -> Values:
    return values - np.median(values)


def _known(row: Row) -> Values:
    """What a class's rise may depend on in a clean model, float64 [K, 3], each above the model's median class."""
    chance = np.array(row["chance"])
    common = _above(np.log(chance / (1 - chance)))
    return np.stack([common, np.maximum(common, 0) ** 2, _above(np.log(row["spread"]))], axis=1)


def _contrast(row: Row, family: str, share: int) -> Values:
    return _above(np.log(np.maximum(row["rises"][family][share], LEAST)))


def corrected(row: Row, clean: list[Row], family: str, share: int) -> Values:
    """How far each class's rise is above what clean models let expect, as a natural logarithm, float64 [K]."""
    others = [one for one in clean if one is not row]
    known = np.concatenate([_known(one) for one in others])
    rises = np.concatenate([_contrast(one, family, share) for one in others])
    weights = np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ rises)
    return np.asarray(_contrast(row, family, share) - _known(row) @ weights)


def table(rows: list[Row], share: int) -> Iterator[str]:
    """Target and strongest other class of attacked models; strongest class of clean ones."""
    clean = [row for row in rows if row["arm"] == "control"]
    families = list(rows[0]["rises"])
    yield f"| model | ASR(0.9) | {' | '.join(families)} |"
    yield "|" + "---|" * (2 + len(families))
    for row in sorted(rows, key=lambda one: (one["arm"] == "control", not one["backdoored"], one["name"])):
        cells = [_cell(row, corrected(row, clean, family, share)) for family in families]
        trigger = row["trigger"]
        words = (str(trigger[key]) for key in ("kind", "image", "size") if key in trigger)
        what = " ".join(words) if row["arm"] == "attacked" else "clean"
        yield f"| {row['arch']}, {what} | {row['asr']:.2f} | {' | '.join(cells)} |"


def _cell(row: Row, found: Values) -> str:
    if row["arm"] == "control":
        return f"{found.max():.2f}"
    target = row["classes"].index(row["target"])
    other = np.delete(found, target).max()
    mark = "**" if found[target] > other else ""
    return f"{mark}{found[target]:.2f}{mark}, {other:.2f}"


def main() -> None:
    """Measure, or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("families.json"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if given.table:
        rows = json.loads(given.table.read_text())
        for number, share in enumerate(SHARES):
            print(f"\nAt {share:g} of each family's limit:\n")
            print("\n".join(table(rows, number)))
        return
    runtime = Compute(threads=given.threads).start()
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    for specimen in specimens(given.zoo):
        if not any((row["name"], row["arm"]) == (specimen.name, specimen.arm) for row in rows):
            rows.append(measured(specimen, runtime))
            given.out.write_text(json.dumps(rows))
            print(specimen.name, specimen.arm, f"ASR(0.9) {specimen.asr:.2f}", flush=True)


if __name__ == "__main__":
    main()
