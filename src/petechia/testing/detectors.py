"""What every detector must do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT
from petechia.data.catalog import Catalog
from petechia.detect.protocol import Calibration, Detector, Finding, ImagesUnderTest, ModelUnderTest
from petechia.testing.assertions import require

SUBJECTS: dict[str, type] = {"dataset": Catalog, "model": ModelUnderTest, "images": ImagesUnderTest}
KINDS = ("image", "class", "model")


class Counted:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.counts: list[int] = []

    def phase(self, name: str, total: int = 0) -> None:
        """Note the name of a phase."""
        self.phases.append(name)

    def advance(self, count: int = 1) -> None:
        """Note a step."""
        self.counts.append(count)


def check_detector(
    detector: Detector[Any], subject: Any, clean: Sequence[Any] = (), suspicious: Any = None, name: str = ""
) -> Calibration:
    """Check a detector: its calibration can be kept in a file, and its findings can be read and compared.

    Args:
        detector: to check.
        subject: what it examines: a `Catalog`, a `ModelUnderTest` or `ImagesUnderTest`.
        clean: subjects to calibrate on; none where it has a calibration without any.
        suspicious: a subject of which something must be flagged; None does not check that.
        name: under which it is registered, if it is.

    Returns:
        The calibration.

    Raises:
        AssertionError: says what it does wrong.
    """
    require(isinstance(detector.name, str) and detector.name, f"Its name is {detector.name!r}.")
    require(not name or detector.name == name, f"It is registered as {name!r}, but calls itself {detector.name!r}.")
    require(detector.examines in SUBJECTS, f"It examines {detector.examines!r}; it is one of {', '.join(SUBJECTS)}.")
    for one in (subject, *clean, *([] if suspicious is None else [suspicious])):
        fits = isinstance(one, SUBJECTS[detector.examines])
        require(fits, f"It examines a {detector.examines}, but is checked on {type(one).__name__}.")
    calibration = check_calibration(detector, detector.calibrate(clean))
    heard = Counted()
    findings = detector.examine(subject, calibration, heard).findings
    require(not any(count < 0 for count in heard.counts), "It tells its progress of a negative count.")
    check_findings(findings, subject)
    again = detector.examine(subject, calibration, SILENT).findings
    require(_described(again) == _described(findings), "It finds something else the second time; use a seed.")
    _check_foreign(detector, subject, calibration)
    if suspicious is not None:
        flagged = [one for one in detector.examine(suspicious, calibration, SILENT).findings if one.flagged]
        require(flagged, "It flags nothing in the suspicious subject.")
    return calibration


def check_calibration(detector: Detector[Any], calibration: Calibration) -> Calibration:
    """It is the detector's, says what it was measured on, and comes back from its file as it was.

    Returns:
        The calibration as it is read back.

    Raises:
        AssertionError: says what is wrong.
    """
    require(isinstance(calibration, Calibration), f"calibrate() gives {type(calibration).__name__}, not a Calibration.")
    require(calibration.detector == detector.name, f"Its calibration is of {calibration.detector!r}, not {detector.name!r}.")
    require(calibration.measured_on, "Its calibration does not say what it was measured on.")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "calibration.json"
        try:
            json.dumps(dict(calibration.values), allow_nan=False)
            calibration.save(file)
            read = Calibration.load(file)
        except (PetechiaError, TypeError, ValueError) as error:
            raise AssertionError(f"Its calibration cannot be written and read ({error}); keep plain finite values.") from error
    same = read.model_dump(mode="json") == calibration.model_dump(mode="json")
    require(same, "Its calibration is not read back as it was written.")
    return read


def check_findings(findings: Sequence[Finding], subject: Any) -> None:
    """Each is about something that is there, has a score that can be compared, and says why it is flagged.

    Raises:
        AssertionError: says what is wrong.
    """
    known = _names(subject)
    for finding in findings:
        require(isinstance(finding, Finding), f"A finding is {type(finding).__name__}, not a Finding.")
        where = f"The finding about {finding.about!r}"
        require(finding.kind in KINDS, f"{where} is of kind {finding.kind!r}; it is one of {', '.join(KINDS)}.")
        names = known.get(finding.kind)
        require(names is None or finding.about in names, f"{where} is about no {finding.kind} of what was examined.")
        require(math.isfinite(finding.score), f"{where} has the score {finding.score}; scores are compared, so give a number.")
        for name in ("p_value", "false_positive_rate"):
            value = getattr(finding, name)
            require(math.isnan(value) or 0 <= value <= 1, f"{where} has the {name} {value}, which is not in 0 … 1.")
        if finding.flagged:
            decided = not (math.isnan(finding.p_value) and math.isnan(finding.threshold))
            require(decided, f"{where} is flagged with neither a p-value nor a threshold.")
            low = finding.score < finding.threshold
            require(not low, f"{where} is flagged with the score {finding.score}, below the threshold {finding.threshold}.")
            require(finding.reason, f"{where} is flagged without a reason.")


def _check_foreign(detector: Detector[Any], subject: Any, calibration: Calibration) -> None:
    """The calibration of another detector is refused."""
    foreign = calibration.model_copy(update={"detector": f"not {detector.name}"})
    try:
        detector.examine(subject, foreign, SILENT)
    except PetechiaError:
        return
    except Exception as error:
        raise AssertionError(f"The calibration of another detector makes it raise {type(error).__name__}.") from error
    raise AssertionError("It takes the calibration of another detector; raise PetechiaError.")


def _names(subject: Any) -> dict[str, set[str] | None]:
    """Kind of a finding → the names that one can be about; None is any."""
    if isinstance(subject, Catalog):
        return {"image": set(subject.ids.tolist()), "class": set(subject.classes)}
    classes = set(subject.classifier.classes)
    ids = set(np.asarray(subject.ids).tolist()) if isinstance(subject, ImagesUnderTest) and len(subject.ids) else None
    return {"image": ids, "class": classes}


def _described(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [finding.model_dump(mode="json", exclude={"evidence"}) for finding in findings]
