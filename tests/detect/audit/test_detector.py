import numpy as np
import pytest
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT
from petechia.detect.audit import AuditResult, ModelAudit, examine_model
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.response import stamp_response
from petechia.detect.protocol import DETECTORS, Calibration, Detector, ModelUnderTest
from petechia.models.classifier import Classifier
from tests.detect.audit.conftest import ByHand, Images, opened

PUBLISHED = {  # docs/detection/audit.md
    "level": 0.01,
    "fewest_classes": 4,
    "strength": {"mean": 1.37, "std": 0.234, "models": 12},
    "contrast": {"mean": 0.81, "std": 0.103, "models": 7},
    "trigger": {"mean": -4.45, "std": 0.664, "models": 7},
}


def halves(clean: Images) -> list[ModelUnderTest]:
    return [ModelUnderTest(opened(ByHand(backdoored=False)), some) for some in (clean[:30], clean[30:])]


def test_it_is_registered() -> None:
    detector: Detector[ModelUnderTest] = DETECTORS["audit"]()
    assert isinstance(detector, ModelAudit)
    assert (detector.name, detector.examines) == ("audit", "model")


def test_without_clean_models_the_calibration_is_the_published_one() -> None:
    calibration = ModelAudit().calibrate()
    assert calibration == Calibration.packaged("audit")
    assert calibration.values == PUBLISHED
    assert "64 x 64" in calibration.measured_on
    assert "benchmarks.auditing" in calibration.command


def test_nulls_are_those_of_the_strongest_classes(clean: Images) -> None:
    subjects = halves(clean)
    calibration = ModelAudit(steps=0).calibrate(subjects)
    strongest, above = [], []
    for classifier, images in subjects:
        strength = np.log(
            stamp_response(classifier, Hosts.of(classifier, images[np.linspace(0, 29, 24).round().astype(int)])).gains.max(
                axis=0
            )
        )
        strongest.append(strength.max())
        above.append(strength.max() - sorted(strength)[2])
    strength, contrast = calibration.values["strength"], calibration.values["contrast"]
    assert (strength["models"], contrast["models"]) == (2, 2)
    assert strength["mean"] == pytest.approx(np.mean(strongest), rel=1e-5)
    assert contrast["mean"] == pytest.approx(np.mean(above), rel=1e-5)
    assert contrast["std"] == pytest.approx(max(0.1, np.std(above, ddof=1)), rel=1e-5)
    assert "trigger" not in calibration.values  # nothing was reconstructed
    assert calibration.measured_on.startswith("2 clean models (by hand, by hand) with 30 clean images each")


def test_a_measured_calibration_finds_the_backdoor_and_can_be_saved(
    clean: Images, tmp_path_factory: pytest.TempPathFactory
) -> None:
    subjects = halves(clean)
    file = tmp_path_factory.mktemp("calibration") / "mine.json"
    ModelAudit(steps=0).calibrate([*subjects, *subjects]).save(file)
    detector = ModelAudit(steps=30)
    result = detector.examine(ModelUnderTest(opened(ByHand()), clean), Calibration.load(file), SILENT)
    assert isinstance(result, AuditResult)
    assert result.findings[0].about == "Target"
    assert np.isnan(result.classes[0].trigger_p_value)  # clean models gave no null for it
    assert any("only square stamps" in warning for warning in result.warnings)
    assert "4 clean models" in result.limits


def test_triggers_give_a_null_where_they_are_reconstructed(clean: Images) -> None:
    values = ModelAudit(steps=150).calibrate(halves(clean)).values
    assert values["trigger"]["models"] == 2
    assert -np.log(32 * 32) < values["trigger"]["mean"] < 0


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_clean_models_are_refused(count: int, clean: Images) -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(1, 2, 3))[:, None].repeat(1, 2)

    network = Two().eval()
    whole = opened(network)
    few = Classifier(whole.name, ("A", "B"), whole.preprocess, network, whole.runtime, network)
    given = [ModelUnderTest(few, clean)] * count + halves(clean)[:1]
    with pytest.raises(PetechiaError, match=f"1 of the {count + 1} clean models have 4 classes or more, and .* needs 2 such"):
        ModelAudit().calibrate(given)


def test_the_calibration_decides(clean: Images) -> None:
    packaged = Calibration.packaged("audit")
    lenient = packaged.model_copy(update={"values": {**packaged.values, "level": 0.9999999}})
    high = {"mean": 50.0, "std": 0.1, "models": 7}
    strict = packaged.model_copy(update={"values": {**packaged.values, "contrast": high, "trigger": high}})
    flagged = [
        sum(one.flagged for one in examine_model(opened(ByHand()), clean, steps=0, calibration=one).classes)
        for one in (packaged, lenient, strict)
    ]
    assert flagged[0] == 1
    assert flagged[1] > 1
    assert flagged[2] == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"detector": "screen"}, "is for the detector 'screen', not for 'audit'"),
        ({"values": {}}, "level: Field required"),
        ({"values": PUBLISHED | {"level": 2}}, "level: "),
        ({"values": PUBLISHED | {"contrast": {"mean": 1, "std": 0, "models": 7}}}, "contrast.std: "),
        ({"values": PUBLISHED | {"strength": {"mean": 1, "std": 1, "models": 1}}}, "strength.models: "),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(change: dict[str, object], sentence: str, clean: Images) -> None:
    wrong = Calibration.packaged("audit").model_copy(update=change)
    with pytest.raises(PetechiaError, match=sentence):
        examine_model(opened(ByHand()), clean, calibration=wrong)
