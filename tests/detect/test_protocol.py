from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.core.registry import Registry
from petechia.detect import protocol
from petechia.detect.protocol import Calibration, Detector, Finding, Findings, ModelUnderTest
from petechia.detect.screen import ImageScreen
from tests.conftest import unasked

FULL = Calibration(
    detector="brightness",
    measured_on="12 clean models of 64 x 64 pixels",
    command="python -m benchmarks.brightness",
    values={"threshold": 0.1 + 0.2, "null": [1.5, -2.0], "by class": {"Mass": 3.0}},
)


class Brightness:
    """A detector of another package: the brighter the clean images, the more suspicious the model."""

    name: str = "brightness"
    examines: Literal["dataset", "model", "images"] = "model"

    def calibrate(self, clean: Sequence[ModelUnderTest]) -> Calibration:
        highest = max((float(one.clean.mean()) for one in clean), default=200.0)
        return Calibration(detector=self.name, measured_on=f"{len(clean)} models", values={"threshold": highest})

    def examine(self, subject: ModelUnderTest, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        threshold = calibration.require(self.name).values["threshold"]
        score = float(subject.clean.mean())
        found = Finding(about="model", kind="model", score=score, flagged=score > threshold, threshold=threshold)
        return Findings(detector=self.name, measured_on=calibration.measured_on, found=(found,))


def test_a_calibration_is_read_as_it_was_saved(tmp_path: Path) -> None:
    FULL.save(tmp_path / "one.json")
    assert Calibration.load(tmp_path / "one.json") == FULL
    content = json.loads((tmp_path / "one.json").read_text())
    assert list(content) == ["schema", "detector", "measured_on", "command", "values"]
    assert content["schema"] == 1
    assert content["values"]["threshold"] == 0.30000000000000004


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read (No such file or directory); check the path of the calibration"),
        ("{}", "is not a calibration file"),
        ("no JSON", "is not a calibration file"),
        ('{"detector": "audit", "measured_on": "", "values": {}, "more": 1}', "is not a calibration file"),
    ],
)
def test_what_is_not_a_calibration(tmp_path: Path, content: str | None, sentence: str) -> None:
    file = tmp_path / "calibration.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(PetechiaError) as error:
        Calibration.load(file)
    assert str(error.value).startswith(str(file))
    assert sentence in str(error.value)


def test_those_that_come_with_petechia_say_where_they_are_from() -> None:
    folder = Path(protocol.__file__).parent / "calibration"
    names = sorted(file.stem for file in folder.glob("*.json"))
    assert "screen" in names
    for name in names:
        packaged = Calibration.packaged(name)
        assert packaged == Calibration.load(folder / f"{name}.json")
        assert packaged.require(name) is packaged
        assert packaged.measured_on


def test_a_calibration_of_another_detector_is_refused() -> None:
    assert FULL.require("brightness") is FULL
    with pytest.raises(PetechiaError, match="is for the detector 'brightness', not for 'audit'"):
        FULL.require("audit")


def test_findings_are_read_as_they_were_saved(tmp_path: Path) -> None:
    flagged = Finding(about="Mass", kind="class", score=3.5, flagged=True, p_value=0.01, reason="why", evidence={"row": 4})
    flagged = flagged.model_copy(update={"threshold": 2.0, "false_positive_rate": 0.05})
    unknown = Finding(about="Hernia", kind="class", score=float("nan"), flagged=False)
    findings = Findings(detector="brightness", measured_on="12 models", found=(flagged, unknown))
    folder = findings.save(tmp_path / "out")
    again = Findings.load(folder)
    assert again.to_dict() == findings.to_dict()
    assert again.found[0] == flagged
    assert np.isnan(again.found[1].score)
    assert np.isnan(again.found[1].threshold)
    assert json.loads((folder / "findings.json").read_text())["found"][1]["score"] is None
    assert again.findings == again.found
    assert [one.about for one in again.flagged] == ["Mass"]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """The registry of detectors with an entry point of another package; it is removed afterwards."""
    entry = EntryPoint("brightness", f"{__name__}:Brightness", "petechia.detectors")
    monkeypatch.setattr("petechia.core.registry._all_entry_points", lambda: EntryPoints((entry,)))
    fresh: Registry[Any] = Registry(protocol.DETECTORS.kind, protocol.DETECTORS.group)
    fresh.add("screen", protocol.DETECTORS["screen"])
    monkeypatch.setattr(protocol.DETECTORS, "__dict__", fresh.__dict__)
    return protocol.DETECTORS


def test_a_detector_of_another_package_is_found_and_used(plugins: Registry[Any]) -> None:
    assert {"brightness", "screen"} <= set(plugins)
    assert plugins.origin("brightness") != plugins.origin("screen") == "petechia"
    detector: Detector[ModelUnderTest] = plugins["brightness"]()
    dark, bright = (ModelUnderTest(unasked("A"), np.full((3, 8, 8), level, np.uint8)) for level in (40, 90))
    calibration = detector.calibrate([dark])
    assert [detector.examine(one, calibration).findings[0].flagged for one in (dark, bright)] == [False, True]
    with pytest.raises(PetechiaError, match="not for 'brightness'"):
        detector.examine(dark, Calibration.packaged("screen"))
    with pytest.raises(PetechiaError, match="no detector 'brightnes'; did you mean 'brightness'"):
        plugins["brightnes"]


def test_our_detectors_are_registered_with_their_own_settings() -> None:
    screen = protocol.DETECTORS["screen"]()
    assert isinstance(screen, ImageScreen)
    assert (screen.name, screen.examines) == ("screen", "images")
