"""Audit every model of a zoo: what is flagged, where the trigger is said to be, and how long it takes.

python -m benchmarks.auditing ZOO --half judge --out FILE.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from petechia.compute import Compute, Machine
from petechia.detect.audit.audit import Audit, audit
from petechia.detect.audit.verdict import Null, stamp_evidence, trigger_evidence
from petechia.zoo.specimens import Specimen, specimens

LEAST = 0.1  # standard deviation of logarithms that a few clean models may not fall below by luck


def examine(specimen: Specimen, machine: Machine) -> dict[str, Any]:
    """What an audit says of a model, beside the truth."""
    images = specimen.clean[np.arange(len(specimen.clean))]
    found = audit(specimen.classifier(machine), images)
    config, classes = specimen.config, found.classifier.classes
    attack = config.attack
    targets = {attack.target, *attack.also} if specimen.arm == "attacked" else set()
    flagged = [finding for finding in found.findings if finding.flagged]
    first = min(found.findings, key=lambda finding: finding.p_value)
    place = specimen.material.attacks[config.seeds[0]].plan.positions[0].tolist() if targets else None
    return {
        "name": specimen.name,
        "arm": specimen.arm,
        "arch": config.model.arch,
        "asr": specimen.asr,
        "backdoored": specimen.backdoored,
        "trigger": attack.trigger.model_dump(mode="json"),
        "rate": attack.rate,
        "mode": attack.mode,
        "targets": [name for name in classes if name in targets],
        "flagged": [finding.name for finding in flagged],
        "p_value": first.p_value,
        "stamp_p": first.stamp_p,
        "trigger_p": first.trigger_p,
        "off": _off(first.recovered.stamp, place, attack.trigger.size) if first.recovered and place else None,
        "stamp": first.recovered.stamp._asdict() if first.recovered else None,
        "fixed": first.recovered.fixed if first.recovered else None,
        "gain": first.recovered.gain if first.recovered else None,
        "recovered_asr": first.recovered.asr[0.9].value if first.recovered else None,
        "strongest_stamp": _strongest(found, images),
        "sizes": [finding.raising.size for finding in found.findings if finding.raising],
        "lowering": [finding.lowering.size for finding in found.findings if finding.lowering],
        "passes": found.passes,
        "seconds": found.seconds,
    }


def _off(stamp: Any, place: list[int], size: int) -> float:
    """Largest distance, in rows or columns, between the centres of the recovered stamp and of the trigger."""
    mine = stamp.row + stamp.size / 2, stamp.column + stamp.size / 2
    return max(abs(a - (b + size / 2)) for a, b in zip(mine, place, strict=True))


def _strongest(found: Audit, images: Any) -> float:
    gains = np.array([[finding.gain for finding in found.findings]], np.float32)
    return float(stamp_evidence(gains, found.classifier.logits(images).std(dim=0).numpy()).max())


def calibrate(rows: list[dict[str, Any]]) -> tuple[Null, Null]:
    """The nulls of `petechia.detect.audit.verdict`, from the clean models among these."""
    clean = [row for row in rows if row["arm"] == "control"]
    triggers = [float(trigger_evidence(np.array(row["sizes"])).max()) for row in clean]
    return Null.of([row["strongest_stamp"] for row in clean], LEAST), Null.of(triggers, LEAST)


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown, a row a model."""
    yield "| model | trigger | rate, mode | ASR(0.9) | truth | flagged | p | place off by | gain | its ASR(0.9) | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda one: (one["arm"] == "control", not one["backdoored"], one["name"])):
        trigger, attacked = row["trigger"], row["arm"] == "attacked"
        size = f"{trigger['size']}×{trigger['size']}, {trigger['value']}"
        if trigger["opacity"] < 1:
            size += f" at {trigger['opacity']:.0%}"
        what = f"{size}, {trigger['location']}" if attacked else "–"
        off = "–" if row["off"] is None or not row["flagged"] or trigger["location"] == "random" else f"{row['off']:.1f}"
        cells = (
            f"{row['arch']}, {row['name'].partition('_')[0]}{'' if attacked else ' control'}",
            what,
            f"{row['rate']:.0%}, {row['mode']}" if attacked else "–",
            f"{row['asr']:.3f}",
            (", ".join(row["targets"]) + ("" if row["backdoored"] else " (did not take)")) if attacked else "clean",
            ", ".join(row["flagged"]) or "nothing",
            f"{row['p_value']:.2g}",
            off,
            f"{row['gain']:.1f}" if row["gain"] is not None else "–",
            f"{row['recovered_asr']:.3f}" if row["recovered_asr"] is not None else "–",
            f"{row['seconds']:.0f}",
        )
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Audit what is not in the file yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--half", choices=["tune", "judge"], default="judge")
    parser.add_argument("--out", type=Path, default=Path("auditing.json"))
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    machine = Compute(threads=given.threads).open()
    rows: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out.is_file() else []
    for specimen in specimens(given.zoo, given.half):
        if (specimen.name, specimen.arm) not in {(row["name"], row["arm"]) for row in rows}:
            rows.append(examine(specimen, machine))
            given.out.write_text(json.dumps(rows, indent=1))
            print(f"{specimen.name} {specimen.arm}: {rows[-1]['flagged']}, {rows[-1]['seconds']:.0f} s", flush=True)
    print("\n".join(table(rows)))
    if sum(row["arm"] == "control" for row in rows) > 2:
        print("Nulls of these clean models, stamps and triggers:", *calibrate(rows))


if __name__ == "__main__":
    main()
