"""The suite of detectors finds what broken ones do wrong."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.data import Catalog
from petechia.detect.protocol import Calibration, Detector, Finding, Findings
from petechia.testing import check_detector
from tests.testing.test_sources import sound

Change = Callable[[Finding], Finding]


class Brightest:
    """Flags images whose mean is at least a threshold: nothing is wrong with it."""

    name = "brightest"
    examines: Literal["dataset", "model", "images"] = "dataset"

    def __init__(self, change: Change = lambda finding: finding) -> None:
        self.change = change

    def calibrate(self, clean: Sequence[Catalog]) -> Calibration:
        level = max((mean for catalog in clean for mean in means(catalog)), default=200.0) + 1
        return Calibration(detector=self.name, measured_on=f"{len(clean)} datasets", values={"level": level})

    def examine(self, subject: Catalog, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        if calibration.detector != self.name:
            raise PetechiaError("This calibration is another detector's.")
        level = calibration.values["level"]
        found = [
            Finding(about=name, kind="image", score=mean, flagged=mean >= level, threshold=level, reason="it is bright")
            for name, mean in zip(subject.ids.tolist(), means(subject), strict=True)
        ]
        return Findings(detector=self.name, measured_on="x", found=tuple(map(self.change, found)))


def means(catalog: Catalog) -> list[float]:
    return [float(np.mean(image)) for image in catalog.reader.read(np.arange(len(catalog))) if isinstance(image, np.ndarray)]


def bright() -> Catalog:
    catalog = sound()
    catalog.reader.images[2][:] = 255  # type: ignore[attr-defined]
    return catalog


def check(detector: Detector[Any], name: str = "") -> Calibration:
    return check_detector(detector, sound(), [sound()], bright(), name)


def test_a_sound_detector_passes() -> None:
    assert check(Brightest(), name="brightest").detector == "brightest"
    assert check_detector(Brightest(), sound()).values == {"level": 201.0}


def with_(**values: Any) -> Change:
    return lambda finding: finding.model_copy(update=values)


def at_random(finding: Finding) -> Finding:
    return finding.model_copy(update={"score": float(np.random.default_rng().random())})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_(score=float("nan")), "has the score nan"),
        (with_(score=float("inf")), "has the score inf"),
        (with_(about="nobody"), "is about no image of what was examined"),
        (with_(kind="pixel"), "is of kind 'pixel'"),
        (with_(p_value=1.5), "has the p_value 1.5, which is not in 0"),
        (with_(false_positive_rate=-1.0), "has the false_positive_rate -1.0"),
        (with_(flagged=True, threshold=float("nan")), "with neither a p-value nor a threshold"),
        (with_(flagged=True, threshold=1e9), "is flagged with the score .* below the threshold"),
        (with_(flagged=True, threshold=0.0, reason=""), "is flagged without a reason"),
        (with_(flagged=False), "It flags nothing in the suspicious subject"),
        (at_random, "It finds something else the second time"),
    ],
)
def test_broken_findings_are_found(change: Change, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check(Brightest(change))


class Trusting(Brightest):
    def examine(self, subject: Catalog, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        return super().examine(subject, calibration.model_copy(update={"detector": self.name}), progress)


class Nameless(Brightest):
    name = ""


class Foreign(Brightest):
    def calibrate(self, clean: Sequence[Catalog]) -> Calibration:
        return super().calibrate(clean).model_copy(update={"detector": "other"})


class Silent(Brightest):
    def calibrate(self, clean: Sequence[Catalog]) -> Calibration:
        return super().calibrate(clean).model_copy(update={"measured_on": ""})


class Unwritable(Brightest):
    def calibrate(self, clean: Sequence[Catalog]) -> Calibration:
        return super().calibrate(clean).model_copy(update={"values": {"level": float("nan")}})


class Loose(Brightest):
    def examine(self, subject: Catalog, calibration: Calibration, progress: Progress = SILENT) -> Any:
        return SimpleNamespace(findings=[one.model_dump() for one in super().examine(subject, calibration).findings])


class Ungrounded(Brightest):
    examines: Literal["dataset", "model", "images"] = "model"


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (Trusting, "It takes the calibration of another detector"),
        (Nameless, "Its name is ''"),
        (Foreign, "Its calibration is of 'other', not 'brightest'"),
        (Silent, "does not say what it was measured on"),
        (Loose, "A finding is dict, not a Finding"),
        (Unwritable, "cannot be written and read"),
        (Ungrounded, "It examines a model, but is checked on Catalog"),
    ],
)
def test_a_broken_detector_is_found(broken: type[Brightest], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check(broken())


def test_it_is_registered_under_its_name() -> None:
    with pytest.raises(AssertionError, match="It is registered as 'other', but calls itself 'brightest'"):
        check(Brightest(), name="other")
