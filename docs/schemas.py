"""Writes the JSON Schema of every result into docs/schemas/. Run it after a result has changed: python docs/schemas.py."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from petechia.attack.result import Poisoned
from petechia.detect.audit import AuditResult
from petechia.detect.protocol import Calibration, Findings
from petechia.detect.repair import RepairResult
from petechia.detect.scan.result import ScanResult
from petechia.detect.screen.result import ScreenResult
from petechia.paper import Reproduction
from petechia.saliency.result import Explanations
from petechia.study import Run
from petechia.study.study import Study
from petechia.zoo.result import Zoo

FOLDER = Path(__file__).parent / "schemas"
RESULTS: dict[str, type[BaseModel]] = {
    "summary": Run,
    "study-results": Study,
    "reproduction": Reproduction,
    "poison": Poisoned,
    "explanations": Explanations,
    "scan": ScanResult,
    "audit": AuditResult,
    "screen": ScreenResult,
    "repair": RepairResult,
    "zoo": Zoo,
    "findings": Findings,
    "calibration": Calibration,
}


def schemas() -> dict[str, str]:
    """File name → JSON Schema, of all results."""
    return {f"{name}.schema.json": _schema(name, model) for name, model in RESULTS.items()}


def _schema(name: str, model: type[BaseModel]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"{name}.json of Petechia"}
    made = model.model_json_schema(mode="serialization")
    made.pop("title")
    return json.dumps(schema | made, indent=1) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
