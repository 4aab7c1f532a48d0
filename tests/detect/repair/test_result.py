import json
from pathlib import Path
from typing import Any

import pytest

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.detect.audit import AuditResult, Origin, examine_model
from petechia.detect.repair import KnownTrigger, Repairing, RepairResult, read_triggers, triggers_of
from petechia.detect.repair.files import repair_model, write_repaired
from petechia.models.model import Architecture, create
from petechia.models.openers import open_classifier
from tests.detect.audit.conftest import COLUMN, ROW, SIZE, ByHand, Images, opened
from tests.detect.audit.conftest import clean as clean_images

clean = clean_images
# The file is an interface: programs read these keys.
KEYS = "schema petechia model clean method settings before after auroc_nn_change not_read"
TRIGGER = KnownTrigger(target="Mass", row=3, column=4, height=2, width=2, value=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result with a model and its repaired copy."""
    folder = tmp_path_factory.mktemp("repair")
    create(Architecture(arch="test_resnet"), ("Mass", "Atelectasis"), Preprocess(size=32), 0).save(folder / "m.safetensors")
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> RepairResult:
    runtime = Compute(device="cpu", precision="fp32", threads=1).start()
    model, out = str(folder / "m.safetensors"), folder / "repaired.safetensors"
    found = repair_model(open_classifier(model, runtime), "phantom:images=120,size=32", Repairing(epochs=1), (TRIGGER,))
    write_repaired(found, out)
    return found


def test_the_file_has_the_keys_that_programs_read(result: RepairResult, folder: Path) -> None:
    content = json.loads((folder / "repaired.repair.json").read_text())
    assert " ".join(content) == KEYS
    assert list(content["model"]) == ["file", "sha256"]
    assert list(content["after"]) == ["images", "auroc_nn", "triggers"]
    assert list(content["after"]["auroc_nn"]) == list(content["auroc_nn_change"]) == ["value", "low", "high"]
    (effect,) = content["after"]["triggers"]
    assert list(effect) == ["trigger", "asr_0.6", "asr_0.9", "false_trigger_0.6", "false_trigger_0.9"]
    assert list(effect["asr_0.6"]) == ["hits", "of", "value", "low", "high"]
    assert effect["trigger"] == TRIGGER.model_dump()


def test_a_result_is_read_as_it_was_written(result: RepairResult, folder: Path, tmp_path: Path) -> None:
    assert RepairResult.load(folder / "repaired.repair.json").to_dict() == result.to_dict()
    result.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "repair.json").read_text() == (folder / "repaired.repair.json").read_text()


def test_the_json_schema_describes_the_file(result: RepairResult) -> None:
    jsonschema: Any = pytest.importorskip("jsonschema")
    jsonschema.validate(result.to_dict(), RepairResult.model_json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(result.to_dict() | {"before": {}}, RepairResult.model_json_schema())


def test_in_words(result: RepairResult) -> None:
    old, new = result.before.triggers[0].asr_09.value, result.after.triggers[0].asr_09.value
    assert f"ASR(0.9) for Mass: {old:.3f} → {new:.3f}" in str(result)
    assert "method: unlearn" in str(result)
    assert "<th>method</th><td>unlearn</td>" in result._repr_html_()


def test_the_triggers_of_an_audit_are_those_of_its_file(clean: Images, tmp_path: Path) -> None:
    audit = AuditResult.of(examine_model(opened(ByHand()), clean, quick=True), Origin("m", None, "here"))
    expected = KnownTrigger(target="Target", row=ROW, column=COLUMN, height=SIZE, width=SIZE, value=0)
    assert triggers_of(audit) == read_triggers(audit.save(tmp_path / "audit") / "audit.json") == (expected,)
    nothing = AuditResult.of(examine_model(opened(ByHand(backdoored=False)), clean, quick=True), Origin("m", None, "here"))
    assert triggers_of(nothing) == ()
