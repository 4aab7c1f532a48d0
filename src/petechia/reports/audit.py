"""The report of an audit: a page for people to file, and a picture of each recovered trigger."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data.formats.images import encode_png, magnified
from petechia.detect.audit.examination import ExaminedClass, ModelExamination, RecoveredStamp
from petechia.detect.audit.pictures import WIDE, close_view, framed
from petechia.detect.audit.result import AuditResult
from petechia.reports.html import page_template
from petechia.saliency.overlays import overlay


def attach_report(result: AuditResult) -> None:
    """Let `AuditResult.save` write report.html and a picture of each recovered trigger beside audit.json.

    Raises:
        PetechiaError: the result was read from a file, so there is nothing to make pictures from.
    """
    examination = _examined(result)
    result.attach("report.html", lambda: render_audit(result).encode(errors="replace"))
    for one, (_, found) in zip(result.classes, examination.ranked, strict=True):
        if one.picture and found.recovered:
            result.attach(one.picture, partial(_close_png, examination.picture, found.recovered))
        if one.change and found.change:
            result.attach(one.change.picture, partial(encode_png, found.change.picture))


def render_audit(result: AuditResult) -> str:
    """The page, one HTML file that needs no other; errors are those of `attach_report`."""
    examination = _examined(result)
    content = result.to_dict()
    both = list(zip(content["classes"], (found for _, found in examination.ranked), strict=True))
    shown = [(one, found) for one, found in both if found.flagged] or both[:1]
    return page_template("petechia.reports", "audit.html").render(
        audit=content,
        verdict=result.verdict,
        not_read=str(result.clean.not_read) if result.clean.not_read else "",
        sections=[_section(examination.picture, one, found) for one, found in shown],
        squares={one.name: one.square for one in result.classes},
        words={one.name: one.change.words for one in result.classes if one.change},
        side=examination.picture.shape[0],
    )


def _examined(result: AuditResult) -> ModelExamination:
    if result.examination is None:
        raise PetechiaError("This audit was read from its file, which holds no pictures; audit the model again for a report.")
    return result.examination


def _section(image: NDArray[np.uint8], one: dict[str, Any], found: ExaminedClass) -> dict[str, Any]:
    assert found.recovered is not None  # noqa: S101 (flagged classes and the strongest one have it)
    return {
        "found": one,
        "pictures": _pictures(image, found.recovered),
        "change": _changed(image, found.change.picture) if found.change else None,
    }


def _pictures(image: NDArray[np.uint8], recovered: RecoveredStamp) -> dict[str, bytes]:
    return {
        "stamped": encode_png(framed(image, recovered.square)),
        "close": _close_png(image, recovered),
        "heat": encode_png(overlay(magnified(image, WIDE), np.maximum(recovered.heat, 0))),
    }


def _changed(image: NDArray[np.uint8], changed: NDArray[np.uint8]) -> dict[str, bytes]:
    """An image, the same with a change of the image, and the difference on grey, as large as it can be shown."""
    difference = changed.astype(np.int16) - image
    scale = 127 / max(1, int(np.abs(difference).max()))
    pictures = {"clean": image, "changed": changed, "difference": (128 + scale * difference).round().astype(np.uint8)}
    return {name: encode_png(magnified(picture, WIDE)) for name, picture in pictures.items()}


def _close_png(image: NDArray[np.uint8], recovered: RecoveredStamp) -> bytes:
    return encode_png(close_view(image, recovered.square))
