import base64
import importlib
import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.data import Catalog
from petechia.detect.protocol import DETECTORS, Finding
from petechia.detect.scan import DatasetScan, ScanResult, scan_catalog
from petechia.detect.scan.thresholds import packaged_calibration
from tests.conftest import InMemory

STAMPED = 30


def stamped_catalog(stamped: int = STAMPED, classes: tuple[str, ...] = ("A", "<b>B</b>", "C")) -> Catalog:
    """200 images of noise; the first few have a white stamp of 3 x 3 pixels at row 20, column 10, and one label."""
    rng = np.random.default_rng(0)
    images = [np.asarray(rng.integers(90, 110, (40, 40)), np.uint8) for _ in range(200)]
    labels = np.asarray(rng.random((200, 3)) < 0.2, np.int8)
    for n in range(stamped):
        labels[n] = [0, 1, 0]
        images[n][20:23, 10:13] = 255
    names = np.array([f"{n}" for n in range(200)])
    return Catalog("noise", classes, names, names, np.full(200, "train"), labels, InMemory(images))


@pytest.fixture(scope="module")
def found() -> ScanResult:
    return scan_catalog(stamped_catalog())


def test_a_result_survives_its_files(found: ScanResult, tmp_path: Path) -> None:
    folder = found.save(tmp_path / "found")
    assert sorted(path.name for path in folder.iterdir()) == ["scan.json", "stamp-1.png", "suspects.csv"]
    for path in (folder, folder / "scan.json"):
        loaded = ScanResult.load(path)
        assert loaded.to_dict() == found.to_dict() == json.loads((folder / "scan.json").read_text())
        assert loaded.suspects.equals(found.suspects)
        assert sorted(loaded.flagged_ids) == sorted(found.flagged_ids) == sorted(f"{n}" for n in range(STAMPED))
        again = loaded.save(tmp_path / f"again-{path.name}")
        assert {one.name: one.read_bytes() for one in again.iterdir()} == {
            one.name: one.read_bytes() for one in folder.iterdir()
        }


def test_the_findings_of_a_loaded_result_are_the_same_in_the_order_of_its_table(found: ScanResult, tmp_path: Path) -> None:
    loaded = ScanResult.load(found.save(tmp_path / "found"))
    assert [finding.about for finding in found.findings] == [f"{n}" for n in range(200)]
    assert [finding.about for finding in loaded.findings] == found.suspects["id"].to_list()
    by_id = {finding.about: finding for finding in found.findings}
    assert [_told(finding) for finding in loaded.findings] == [_told(by_id[finding.about]) for finding in loaded.findings]


def _told(finding: Finding) -> tuple[object, ...]:
    return finding.about, finding.kind, finding.score, finding.flagged, finding.reason, finding.evidence


def test_what_was_not_saved_is_asked_for_in_a_sentence(found: ScanResult, tmp_path: Path) -> None:
    folder = found.save(tmp_path / "found")
    (folder / "suspects.csv").unlink()
    loaded = ScanResult.load(folder)
    for name in ("findings", "suspects", "flagged_ids"):
        with pytest.raises(PetechiaError, match=r"suspects\.csv, which is not beside its scan\.json"):
            getattr(loaded, name)
    with pytest.raises(PetechiaError, match="were not saved"):
        loaded.write_clean(tmp_path / "clean")
    (folder / "suspects.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PetechiaError, match="is not the table of a scan"):
        ScanResult.load(folder)


def test_a_file_of_the_first_version_is_refused(found: ScanResult, tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text(json.dumps(found.to_dict() | {"schema": 1}))
    with pytest.raises(PetechiaError, match=r"is not a scan\.json of this version"):
        ScanResult.load(tmp_path)


def test_the_schema_describes_the_file(found: ScanResult) -> None:
    content = json.loads(found.to_json())
    assert content["schema"] == 3
    assert {"near_duplicates", "weakly_associated"} < set(content)
    schema = ScanResult.model_json_schema()
    if importlib.util.find_spec("jsonschema"):
        jsonschema = importlib.import_module("jsonschema")
        jsonschema.validate(content, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | {"images": "many"}, schema)
    else:
        assert set(schema["properties"]) == set(content)
        ScanResult.model_validate(content)


def test_a_stamp_is_described(found: ScanResult) -> None:
    (stamp,) = found.stamps
    assert (stamp.height, stamp.width, stamp.row, stamp.column, stamp.images) == (3, 3, 20, 10, STAMPED)
    assert stamp.pixels == ((255,) * 3,) * 3
    assert stamp.label == "<b>B</b> as the only finding"


def test_a_notebook_shows_the_stamp_and_no_code_of_the_dataset(found: ScanResult) -> None:
    shown = found._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;B&lt;/b&gt; as the only finding" in shown
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", shown)
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))) == 255).all()
    assert f"flagged: {STAMPED}" in str(found)
    assert "<img" not in scan_catalog(stamped_catalog(stamped=0))._repr_html_()


def test_the_clean_copy_has_all_but_the_flagged_images(found: ScanResult, tmp_path: Path) -> None:
    assert found.write_clean(tmp_path / "clean") == 200 - STAMPED
    assert sorted(pl.read_csv(tmp_path / "clean/labels.csv")["image"]) == sorted(range(STAMPED, 200))


def test_the_scan_is_a_detector_that_gives_a_finding_an_image(found: ScanResult) -> None:
    detector = DETECTORS["scan"]()
    assert (detector.name, detector.examines) == ("scan", "dataset")
    result = detector.examine(stamped_catalog(), detector.calibrate(()))
    assert [_told(finding) for finding in result.findings] == [_told(finding) for finding in found.findings]
    assert {finding.about for finding in result.findings if finding.flagged} == set(found.flagged_ids)
    assert {finding.kind for finding in result.findings} == {"image"}


def test_clean_datasets_add_the_share_that_is_flagged_to_the_calibration() -> None:
    detector = DatasetScan()
    assert detector.calibrate(()) == packaged_calibration()
    calibration = detector.calibrate([stamped_catalog(0), stamped_catalog(STAMPED)])  # not all that clean
    assert calibration.values["clean"] == {"images": 400, "flagged": STAMPED, "share": STAMPED / 400}
    assert calibration.measured_on.endswith(f"{STAMPED} of 400 are flagged.")
    assert {**calibration.values, "clean": None} == {**packaged_calibration().values, "clean": None}
    finding = detector.examine(stamped_catalog(), calibration).findings[0]
    assert finding.false_positive_rate == STAMPED / 400


def test_the_thresholds_of_a_calibration_decide() -> None:
    packaged = packaged_calibration()
    strict = packaged.model_copy(update={"values": {**packaged.values, "stamps": {**packaged.values["stamps"], "odds": 1e9}}})
    strict.values["stamps"]["overwritten_odds"] = 1e9
    assert not DatasetScan().examine(stamped_catalog(), strict).tampered
