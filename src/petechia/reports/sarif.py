"""Findings as SARIF 2.1.0, the format in which pipelines and code-scanning services take results of tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import singledispatch
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from petechia.core.errors import PetechiaError
from petechia.core.files import refuse_existing, write_text
from petechia.core.results import Result
from petechia.core.version import __version__
from petechia.detect.audit.result import AuditResult
from petechia.detect.protocol import Finding, Findings
from petechia.detect.scan.result import ScanResult
from petechia.detect.screen.result import ScreenResult

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
TAXONOMIES = {
    "MITRE ATLAS": {
        "AML.T0010": "AI Supply Chain Compromise",
        "AML.T0018.000": "Manipulate AI Model: Poison AI Model",
        "AML.T0020": "Poison Training Data",
        "AML.T0043.004": "Craft Adversarial Data: Insert Backdoor Trigger",
    },
    "NIST AI 100-2": {"NISTAML.023": "Backdoor Poisoning"},
}


class Rule(NamedTuple):
    """What a finding says.

    Attributes:
        id: stable name.
        level: "error" or "warning".
        says: one sentence.
        taxa: ids of what it is evidence of, in `TAXONOMIES`.
    """

    id: str
    level: str
    says: str
    taxa: tuple[str, ...]


BACKDOOR = Rule(
    "audit/backdoor",
    "error",
    "A small change of an image makes the model report a class, as a backdoor does.",
    ("AML.T0018.000", "AML.T0010", "NISTAML.023"),
)
SIMPLE_CHANGE = Rule(
    "audit/simple-change",
    "warning",
    "A class of the model answers to a small change of an image, planted or natural.",
    ("AML.T0018.000", "NISTAML.023"),
)
POISONED = Rule(
    "scan/poisoned-image",
    "error",
    "An image of the dataset carries what looks like a trigger.",
    ("AML.T0020", "AML.T0010", "NISTAML.023"),
)
TRIGGERED = Rule(
    "screen/triggered-image",
    "error",
    "An image seems to carry a trigger to which the model answers.",
    ("AML.T0043.004", "NISTAML.023"),
)
OTHER = Rule("detector/finding", "warning", "A detector of another package reports this.", ("AML.T0010",))
RULES = (BACKDOOR, SIMPLE_CHANGE, POISONED, TRIGGERED, OTHER)


class _Reported(NamedTuple):
    """A finding with its rule, the file that it is about, and what tells it from the same finding about another subject."""

    rule: Rule
    finding: Finding
    file: str
    subject: str


def write_sarif(result: Result, path: str | Path) -> Path:
    """Write what is flagged as a SARIF 2.1.0 file.

    Args:
        result: of an audit, a scan, a screen, or of another package's detector (`Findings`).
        path: of a new file.

    Returns:
        The path.

    Raises:
        PetechiaError: the file exists already, or the result has no findings.
    """
    file = Path(path)
    refuse_existing(file, "--sarif")
    write_text(file, json.dumps(to_sarif(result), indent=1, allow_nan=False) + "\n")
    return file


def to_sarif(result: Result) -> dict[str, Any]:
    """What is flagged as the content of a SARIF 2.1.0 file; the same findings have the same fingerprints in every run.

    Raises:
        PetechiaError: the result has no findings.
    """
    reported = list(_reported(result))
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": _driver()},
                "taxonomies": [_taxonomy(name, taxa) for name, taxa in TAXONOMIES.items()],
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": list(_notes(result))}],
                "results": [_result(one) for one in reported],
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


@singledispatch
def _reported(result: Result) -> Iterator[_Reported]:
    raise PetechiaError(f"A {type(result).__name__} has no findings to write as SARIF; give an audit, a scan or a screen.")


@_reported.register
def _(result: AuditResult) -> Iterator[_Reported]:
    for one in result.flagged:
        rule = BACKDOOR if one.called_backdoor else SIMPLE_CHANGE
        yield _Reported(rule, one.finding, result.model.name, result.model.sha256 or result.model.name)


@_reported.register
def _(result: ScanResult) -> Iterator[_Reported]:
    yield from (_Reported(POISONED, one, one.about, result.dataset) for one in result.findings if one.flagged)


@_reported.register
def _(result: ScreenResult) -> Iterator[_Reported]:
    yield from (_Reported(TRIGGERED, one, one.about, result.model) for one in result.findings if one.flagged)


@_reported.register
def _(result: Findings) -> Iterator[_Reported]:
    yield from (_Reported(OTHER, one, one.about, result.detector) for one in result.flagged)


def _notes(result: Result) -> Iterator[dict[str, Any]]:
    unread = getattr(result, "not_read", None) or getattr(getattr(result, "clean", None), "not_read", None)
    for sentence in (*getattr(result, "warnings", ()), *([str(unread)] if unread else [])):
        yield {"level": "note", "message": {"text": sentence}}


def _driver() -> dict[str, Any]:
    return {
        "name": "Petechia",
        "semanticVersion": __version__,
        "rules": [_described(rule) for rule in RULES],
        "supportedTaxonomies": [{"name": name, "index": index} for index, name in enumerate(TAXONOMIES)],
    }


def _described(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.says},
        "defaultConfiguration": {"level": rule.level},
        "relationships": [_relationship(taxon) for taxon in rule.taxa],
        "properties": {"tags": ["security", *rule.taxa]},
    }


def _relationship(taxon: str) -> dict[str, Any]:
    index, name = next((index, name) for index, (name, taxa) in enumerate(TAXONOMIES.items()) if taxon in taxa)
    return {"target": {"id": taxon, "toolComponent": {"name": name, "index": index}}, "kinds": ["relevant"]}


def _taxonomy(name: str, taxa: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "taxa": [{"id": taxon, "shortDescription": {"text": text}} for taxon, text in taxa.items()]}


def _result(one: _Reported) -> dict[str, Any]:
    finding = one.finding
    numbers = {
        "score": finding.score,
        "pValue": finding.p_value,
        "threshold": finding.threshold,
        "falsePositiveRate": finding.false_positive_rate,
    }
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": quote(one.file.replace("\\", "/"), errors="replace")}}
    }
    if finding.kind == "class":
        location["logicalLocations"] = [{"name": finding.about, "kind": "class of the model"}]
    return {
        "ruleId": one.rule.id,
        "ruleIndex": RULES.index(one.rule),
        "level": one.rule.level,
        "message": {"text": finding.reason or f"{finding.about}: {one.rule.says}"},
        "locations": [location],
        "partialFingerprints": {"finding/v1": _fingerprint(one.rule.id, one.subject, finding.about)},
        "properties": {name: value for name, value in numbers.items() if isfinite(value)},
    }


def _fingerprint(*parts: str) -> str:
    return sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()
