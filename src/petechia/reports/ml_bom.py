"""The bill of materials of an audited model, CycloneDX 1.7: what it is, and how it behaved in the audit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from petechia.core.files import refuse_existing, write_text
from petechia.core.version import __version__
from petechia.detect.audit.result import AuditedClass, AuditResult, Rate

MODEL = "model"  # the reference of the model within the file
POISONED = 506  # CWE: Embedded Malicious Code


def write_ml_bom(result: AuditResult, path: str | Path) -> Path:
    """Write an audited model's bill of materials.

    Args:
        result: of the audit.
        path: of a new JSON file.

    Returns:
        The path.

    Raises:
        PetechiaError: the file exists already.
    """
    file = Path(path)
    refuse_existing(file, "--ml-bom")
    write_text(file, json.dumps(to_ml_bom(result), indent=1, allow_nan=False) + "\n")
    return file


def to_ml_bom(result: AuditResult) -> dict[str, Any]:
    """The content of the file. The same audit of the same model has the same serial number."""
    serial = uuid5(NAMESPACE_URL, f"petechia:audit:{result.model.sha256 or result.model.name}:{result.to_json()}")
    vulnerabilities = [_vulnerability(one) for one in result.flagged if one.called_backdoor]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": f"{result.date}T00:00:00Z",
            "tools": {"components": [{"type": "application", "name": "Petechia", "version": __version__}]},
            "component": _component(result),
        },
        **({"vulnerabilities": vulnerabilities} if vulnerabilities else {}),
    }


def _component(result: AuditResult) -> dict[str, Any]:
    told = {
        "petechia:outcome": result.outcome,
        "petechia:level": f"{result.level:g}",
        "petechia:clean-models": str(result.compared),
        "petechia:clean-images": str(result.clean.images),
        "petechia:file-format": Path(result.model.name).suffix.removeprefix(".") or "unknown",
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": result.model.name,
        **({"hashes": [{"alg": "SHA-256", "content": result.model.sha256}]} if result.model.sha256 else {}),
        "modelCard": {
            "modelParameters": {
                "task": "image classification",
                "inputs": [{"format": "image"}],
                "outputs": [{"format": f"score of {one.name}"} for one in result.classes],
            },
            "quantitativeAnalysis": {"performanceMetrics": [metric for one in result.classes for metric in _metrics(one)]},
            "considerations": {"technicalLimitations": [result.limits, *result.warnings]},
        },
        "properties": [{"name": name, "value": value} for name, value in told.items()],
    }


def _metrics(one: AuditedClass) -> Iterator[dict[str, Any]]:
    yield {"type": "p-value of a backdoor", "slice": one.name, "value": f"{one.p_value:.4g}"}
    for what, asr, false in (
        ("the recovered stamp", one.asr, one.false_trigger),
        *([("the recovered change of the image", one.change.asr, one.change.false_trigger)] if one.change else []),
    ):
        for threshold, rate in (asr or {}).items():
            yield _metric(f"attack success rate of {what} at {threshold}", one.name, rate)
        for threshold, rate in (false or {}).items():
            yield _metric(f"clean images that score {threshold} without {what}", one.name, rate)


def _metric(kind: str, name: str, rate: Rate) -> dict[str, Any]:
    bounds = {"lowerBound": f"{rate.low:.4f}", "upperBound": f"{rate.high:.4f}"}
    return {"type": kind, "slice": name, "value": f"{rate.value:.4f}", "confidenceInterval": bounds}


def _vulnerability(one: AuditedClass) -> dict[str, Any]:
    return {
        "bom-ref": f"backdoor-{one.name}",
        "id": f"backdoor for {one.name}",
        "description": one.reason,
        "cwes": [POISONED],
        "recommendation": "Do not use the model. Compare it with one that was trained on the same data, and ask its maker.",
        "affects": [{"ref": MODEL}],
        "analysis": {"state": "in_triage"},
    }
