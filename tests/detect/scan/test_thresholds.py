from pathlib import Path
from typing import Any

import pytest

from petechia.core.errors import PetechiaError
from petechia.detect.protocol import Calibration
from petechia.detect.scan.thresholds import ScanThresholds, packaged_calibration


def changed(**values: Any) -> Calibration:
    packaged = packaged_calibration()
    return packaged.model_copy(update={"values": dict(packaged.values) | values})


def test_the_packaged_calibration_says_what_it_was_measured_on() -> None:
    calibration = packaged_calibration()
    assert (calibration.detector, calibration.command) == ("scan", "python -m benchmarks.scan_table")
    assert "NIH sample" in calibration.measured_on
    assert ScanThresholds.of(calibration).clean is None


def test_a_calibration_survives_its_file(tmp_path: Path) -> None:
    packaged_calibration().save(tmp_path / "scan.json")
    assert ScanThresholds.of(Calibration.load(tmp_path / "scan.json")) == ScanThresholds.of(packaged_calibration())


@pytest.mark.parametrize(
    "values", [{"search": {"contrast": 6}}, {"labels": {"level": 2, "excess_weight": 1, "jump_weight": 0}}, {"unknown": 1}]
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(PetechiaError, match=rf"calibration of the scan is not valid \(.*{next(iter(values))}"):
        ScanThresholds.of(changed(**values))


def test_the_calibration_of_another_detector_is_refused() -> None:
    other = packaged_calibration().model_copy(update={"detector": "screen"})
    with pytest.raises(PetechiaError, match="detector 'screen'"):
        ScanThresholds.of(other)
