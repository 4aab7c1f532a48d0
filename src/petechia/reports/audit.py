"""The report of an audit: audit.json for programs, report.html for people to file, pictures for both."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.files import building, refuse_existing
from petechia.core.version import __version__
from petechia.data.formats.images import encode_png, magnified
from petechia.data.levels import in_colour
from petechia.detect.audit.audit import Audit, ClassFinding, Recovered
from petechia.detect.audit.reconstruct import Reconstruction
from petechia.detect.audit.response import Stamp
from petechia.detect.audit.verdict import LEVEL
from petechia.measure import THRESHOLDS, Count
from petechia.reports.html import page_template
from petechia.saliency.overlays import overlay

WIDE = 320  # pixels a side of a picture, at least
RING = (255, 64, 64)  # colour of the frame around a stamp
AROUND = 6  # pixels around a stamp in its close view
LIMITS = (
    "This audit looks for small square stamps of one grey level, and for the smallest changes of any shape that move a class. "
    "It does not find triggers that warp or filter the whole image, that need two places at once, or that are combinations of "
    "findings; nor backdoors of an attacker who knew of this audit and trained the model to pass it. How strong "
    "evidence must be was set on clean models of drawn radiographs of 64 x 64 pixels; for other images it is a guide. Finding "
    "nothing does not prove that there is nothing."
)


class Origin(NamedTuple):
    """What was examined: the model's name and the SHA-256 of its file (None without one), and where the clean images are."""

    model: str
    digest: str | None
    clean: str


def write_audit(found: Audit, origin: Origin, folder: Path) -> dict[str, Any]:
    """Write audit.json, report.html and, for each recovered trigger, CLASS.png into a new folder.

    Returns:
        The content of audit.json.

    Raises:
        PetechiaError: the folder exists.
    """
    refuse_existing(folder)
    content = audit_content(found, origin)
    with building(folder) as temporary:
        (temporary / "audit.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        (temporary / "report.html").write_text(build_audit(found, content), encoding="utf-8")
        for number, finding in enumerate(found.findings):
            if finding.flagged and finding.recovered:
                (temporary / f"trigger-{number}.png").write_bytes(encode_png(_close(found.picture, finding.recovered.stamp)))
    return content


def audit_content(found: Audit, origin: Origin) -> dict[str, Any]:
    """What audit.json holds; the classes with the strongest evidence first."""
    order = sorted(range(len(found.findings)), key=lambda label: found.findings[label].p_value)
    return {
        "schema": 1,
        "petechia": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": {"name": origin.model, "sha256": origin.digest, "black_box": found.classifier.network is None},
        "clean": {"source": origin.clean, "images": found.clean},
        "backdoor": found.backdoor,
        "level": LEVEL,
        "classes": [_class(found, label) for label in order],
        "passes": found.passes,
        "seconds": round(found.seconds, 1),
        "warnings": list(found.warnings),
        "limits": LIMITS,
    }


def _class(found: Audit, label: int) -> dict[str, Any]:
    finding = found.findings[label]
    recovered = finding.recovered
    stamp, gain = (recovered.stamp, recovered.gain) if recovered else (finding.best, finding.gain)
    return {
        "name": finding.name,
        "p_value": finding.p_value,
        "flagged": finding.flagged,
        "stamp_p_value": finding.stamp_p,
        "trigger_p_value": _or_none(finding.trigger_p),
        "row": stamp.row,
        "column": stamp.column,
        "size": stamp.size,
        "value": stamp.value,
        "gain": gain,
        "fixed": recovered.fixed if recovered else None,
        "asr": {str(level): _rate(recovered.asr[level]) for level in THRESHOLDS} if recovered else None,
        "false_trigger": {str(level): _rate(recovered.false_trigger[level]) for level in THRESHOLDS} if recovered else None,
        "raising": _reconstruction(finding.raising),
        "lowering": _reconstruction(finding.lowering),
        "picture": f"trigger-{label}.png" if finding.flagged and recovered else None,
    }


def _rate(count: Count) -> dict[str, Any]:
    """With Wilson's 95 % interval; null of no images."""
    low, high = count.interval
    return {"value": _or_none(count.share), "low": _or_none(low), "high": _or_none(high), "images": count.of}


def _reconstruction(one: Reconstruction | None) -> dict[str, Any] | None:
    if one is None:
        return None
    row, column = np.unravel_index(int(one.mask.argmax()), one.mask.shape)
    found = np.isfinite(one.size)
    return {
        "pixels": one.size if found else None,
        "row": int(row) if found else None,
        "column": int(column) if found else None,
        "moved": one.moved,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def build_audit(found: Audit, content: dict[str, Any]) -> str:
    """The page, self-contained."""
    flagged = [finding for finding in found.findings if finding.flagged]
    shown = flagged or [min(found.findings, key=lambda finding: finding.p_value)]
    return page_template("petechia.reports", "audit.html").render(
        audit=content,
        verdict=verdict(found),
        sections=[_section(found, finding, content) for finding in shown],
        flagged=[finding.name for finding in flagged],
        side=found.picture.shape[0],
    )


def verdict(found: Audit) -> str:
    """The result in one or two sentences."""
    flagged = [finding.name for finding in found.findings if finding.flagged]
    if not flagged:
        return (
            f"No backdoor was found. No class of this model answers to a small change more strongly than classes of clean "
            f"models do (p below {LEVEL} would be flagged)."
        )
    classes = " and ".join(flagged)
    return (
        f"This model very likely carries a backdoor for {classes}: a small mark on an image makes it report "
        f"{'that finding' if len(flagged) == 1 else 'those findings'}. Do not use it; ask its maker how it was trained."
    )


def _section(found: Audit, finding: ClassFinding, content: dict[str, Any]) -> dict[str, Any]:
    said = next(one for one in content["classes"] if one["name"] == finding.name)
    recovered = finding.recovered
    assert recovered is not None  # noqa: S101 (flagged classes and the strongest one have it)
    return {
        "finding": finding,
        "said": said,
        "pictures": _pictures(found.picture, recovered),
        "raising": _mask(finding.raising) if finding.raising and np.isfinite(finding.raising.size) else None,
    }


def _pictures(image: NDArray[np.uint8], recovered: Recovered) -> dict[str, bytes]:
    large = magnified(image, WIDE)
    return {
        "stamped": encode_png(_framed(image, recovered.stamp)),
        "close": encode_png(_close(image, recovered.stamp)),
        "heat": encode_png(overlay(large, np.maximum(recovered.heat, 0))),
    }


def _framed(image: NDArray[np.uint8], stamp: Stamp) -> NDArray[np.uint8]:
    """The stamp on a clean image, with a frame two pixels of the image away from it, in colour."""
    large = in_colour(magnified(_stamped(image, stamp), WIDE))
    factor = len(large) // len(image)
    top, left = (max(0, (start - 2) * factor) for start in (stamp.row, stamp.column))
    bottom, right = (min(len(large), (start + stamp.size + 2) * factor) - 1 for start in (stamp.row, stamp.column))
    for rows, columns in (
        (slice(top, top + 2), slice(left, right)),
        (slice(bottom - 2, bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + 2)),
        (slice(top, bottom), slice(right - 2, right)),
    ):
        large[rows, columns] = RING
    return large


def _stamped(image: NDArray[np.uint8], stamp: Stamp) -> NDArray[np.uint8]:
    row, column, size, value = stamp
    stamped = image.copy()
    stamped[row : row + size, column : column + size] = value
    return stamped


def _close(image: NDArray[np.uint8], stamp: Stamp) -> NDArray[np.uint8]:
    """The stamp on a clean image with what is around it."""
    rows, columns = (slice(max(0, start - AROUND), start + stamp.size + AROUND) for start in (stamp.row, stamp.column))
    return magnified(_stamped(image, stamp)[rows, columns], WIDE)


def _mask(one: Reconstruction) -> bytes:
    """A reconstructed trigger on grey: its pattern where its mask is opaque."""
    shown = (255 * (one.mask * one.pattern + (1 - one.mask) * 0.5)).round().astype(np.uint8)
    return encode_png(magnified(shown[0] if len(shown) == 1 else np.moveaxis(shown, 0, 2), WIDE))
