import numpy as np
import pytest

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT
from petechia.detect.audit import AuditResult, ModelAudit, examine_model
from petechia.detect.audit.detector import calibrated
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.response import stamp_response
from petechia.detect.audit.rises import SHARES
from petechia.detect.audit.transforms import FAMILIES
from petechia.detect.audit.verdict import AuditNulls
from petechia.detect.protocol import DETECTORS, Calibration, Detector, ModelUnderTest
from tests.detect.audit.conftest import ByHand, Images, opened


def halves(clean: Images) -> list[ModelUnderTest]:
    return [ModelUnderTest(opened(ByHand(backdoored=False)), some) for some in (clean[:30], clean[30:])]


def test_it_is_registered() -> None:
    detector: Detector[ModelUnderTest] = DETECTORS["audit"]()
    assert isinstance(detector, ModelAudit)
    assert (detector.name, detector.examines) == ("audit", "model")


def test_without_clean_models_the_calibration_is_the_packaged_one() -> None:
    calibration = ModelAudit().calibrate()
    assert calibration == Calibration.packaged("audit")
    nulls = AuditNulls.of(calibration)
    for few in (True, False):
        compared = sum(one.few == few for one in nulls.models)
        assert nulls.level >= 1 / (compared + 1)  # no p-value is smaller
    assert len(nulls.models) >= 160
    assert {one.size for one in nulls.models} >= {28, 64, 96, 160, 224}
    assert calibration.command


def test_a_calibration_keeps_what_was_found_in_each_model(clean: Images) -> None:
    subjects = halves(clean)
    calibration = ModelAudit(quick=True).calibrate(subjects)
    for (classifier, images), one in zip(subjects, AuditNulls.of(calibration).models, strict=True):
        hosts = Hosts.of(classifier, images[np.linspace(0, 29, 24).round().astype(int)])
        np.testing.assert_allclose(one.gains, stamp_response(classifier, hosts).margins.max(axis=0), rtol=1e-3)
        np.testing.assert_allclose(one.chance, classifier.logits(images).sigmoid().mean(dim=0), rtol=1e-3)
        np.testing.assert_allclose(one.spread, classifier.logits(images).std(dim=0), rtol=1e-3)
        assert (one.size, one.channels, one.images, one.classes) == (32, 1, 30, classifier.classes)
        assert set(one.rises) == {FAMILIES[0].name}
    assert calibration.measured_on == "2 clean models of 5 classes for images of 32 pixels a side, with 30 clean images each"
    assert calibration.values["level"] == pytest.approx(1 / 3)


def test_a_measured_calibration_finds_the_backdoor_and_can_be_saved(
    clean: Images, tmp_path_factory: pytest.TempPathFactory
) -> None:
    subjects = halves(clean)
    file = tmp_path_factory.mktemp("calibration") / "mine.json"
    ModelAudit(quick=True).calibrate([*subjects, *subjects]).save(file)
    detector = ModelAudit()
    result = detector.examine(ModelUnderTest(opened(ByHand()), clean), Calibration.load(file), SILENT)
    assert isinstance(result, AuditResult)
    assert result.findings[0].about == "Target"
    assert set(result.classes[0].tests) == {"stamps", FAMILIES[0].name}  # clean models gave no null for others
    assert "4 clean models" in result.limits


@pytest.mark.parametrize(("many", "few", "level"), [(1, 9, 0.1), (9, 1, 0.1), (60, 10, 0.03), (5, 70, 0.03), (2, 0, 1 / 3)])
def test_the_larger_group_sets_the_level(many: int, few: int, level: float) -> None:
    packaged = AuditNulls.of().models
    with_many, with_few = ([one for one in packaged if one.few == kind] for kind in (False, True))
    models = [*(with_many * 2)[:many], *(with_few * 2)[:few]]
    assert calibrated(models, "by hand").values["level"] == pytest.approx(max(level, 1 / (max(many, few) + 1)))


def test_one_model_of_either_kind_is_too_few() -> None:
    packaged = AuditNulls.of().models
    one_of_each = [next(one for one in packaged if one.few == kind) for kind in (False, True)]
    with pytest.raises(PetechiaError, match="needs 2 clean models"):
        calibrated(one_of_each, "by hand")


def test_all_searches_are_measured_of_a_white_box(clean: Images) -> None:
    one, _ = AuditNulls.of(ModelAudit().calibrate(halves(clean))).models
    assert set(one.rises) == {family.name for family in FAMILIES}
    assert all(len(shares) == len(SHARES) for shares in one.rises.values())


def test_one_clean_model_is_refused(clean: Images) -> None:
    with pytest.raises(PetechiaError, match="A calibration needs 2 clean models, and better 60; there is 1"):
        ModelAudit(quick=True).calibrate(halves(clean)[:1])


def test_the_calibration_decides(clean: Images) -> None:
    packaged = Calibration.packaged("audit")
    answering = [one | {"gains": [10.0, *[0.0] * (len(one["gains"]) - 1)]} for one in packaged.values["models"]]
    flagged = []
    for models in (packaged.values["models"], answering):
        calibration = packaged.model_copy(update={"values": {**packaged.values, "tests": ["stamps"], "models": models}})
        found = examine_model(opened(ByHand()), clean, quick=True, calibration=calibration)
        flagged.append([one.name for one in found.classes if one.flagged])
    assert flagged == [["Target"], []]
    small = packaged.model_copy(update={"values": {**packaged.values, "level": 1e-6}})
    with pytest.raises(PetechiaError, match="clean models to compare by hand with, too few to flag anything at 1e-06"):
        examine_model(opened(ByHand()), clean, quick=True, calibration=small)


VALUES = {"level": 0.02, "tests": ["stamps"], "models": []}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"detector": "screen"}, "is for the detector 'screen', not for 'audit'"),
        ({"values": {}}, "level: Field required"),
        ({"values": VALUES | {"level": 2}}, "level: "),
        ({"values": VALUES | {"tests": []}}, "tests: "),
        ({"values": VALUES | {"models": [{"name": "m"}]}}, r"models\.0\."),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(change: dict[str, object], sentence: str, clean: Images) -> None:
    wrong = Calibration.packaged("audit").model_copy(update=change)
    with pytest.raises(PetechiaError, match=sentence):
        examine_model(opened(ByHand()), clean, calibration=wrong)
