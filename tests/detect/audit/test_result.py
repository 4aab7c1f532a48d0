import json
from dataclasses import replace
from math import log10
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from petechia.core.errors import PetechiaError
from petechia.detect.audit import AuditResult, ModelExamination, Origin, examine_model
from petechia.reports.audit import attach_report
from tests.detect.audit.conftest import CLASSES, COLUMN, ROW, SIZE, ByHand, Images, opened

ORIGIN = Origin("model.safetensors", "ab" * 32, "phantom")
# The file is an interface: programs read these keys.
KEYS = (
    "schema petechia date model clean backdoor outcome level baseline compared likeness classes passes seconds warnings limits"
)
CLASS_KEYS = (
    "name p_value flagged natural took found_by trigger tests row column size value other gain fixed asr false_trigger "
    "change picture"
)


@pytest.fixture(scope="module")
def found(clean: Images) -> ModelExamination:
    return examine_model(opened(ByHand()), clean)


@pytest.fixture(scope="module")
def result(found: ModelExamination) -> AuditResult:
    return AuditResult.of(found, ORIGIN)


def two_flagged(result: AuditResult, **more: object) -> AuditResult:
    first, second, *others = result.classes
    return result.model_copy(update={"classes": (first, second.model_copy(update={"flagged": True, **more}), *others)})


def test_the_file_has_the_keys_that_programs_read(result: AuditResult) -> None:
    content = json.loads(result.to_json())
    assert " ".join(content) == KEYS
    assert content["schema"] == 3
    first, second = content["classes"][:2]
    assert " ".join(first) == " ".join(second) == CLASS_KEYS
    assert list(first["asr"]) == list(first["false_trigger"]) == ["0.6", "0.9"]
    assert list(first["asr"]["0.9"]) == ["value", "low", "high", "images"]
    assert second["asr"] is second["fixed"] is second["picture"] is None


def test_a_result_is_read_as_it_was_written(result: AuditResult, tmp_path: Path) -> None:
    result.save(tmp_path / "audit")
    again = AuditResult.load(tmp_path / "audit")
    assert again.to_dict() == result.to_dict() == json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert [one.square for one in again.classes] == [one.square for one in result.classes]
    assert again.verdict == result.verdict
    assert "<img" not in again._repr_html_()
    with pytest.raises(PetechiaError, match="audit the model again for a report"):
        attach_report(again)


@pytest.mark.parametrize("blind", [False, True])
def test_the_json_schema_describes_the_file(blind: bool, clean: Images) -> None:
    jsonschema: Any = pytest.importorskip("jsonschema")
    content = AuditResult.of(examine_model(opened(ByHand(), blind), clean), ORIGIN).to_dict()
    jsonschema.validate(content, AuditResult.model_json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"classes": [{}]}, AuditResult.model_json_schema())


def test_what_was_not_tried_is_null_in_the_file(clean: Images) -> None:
    class Few(ByHand):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, :3]

    few = replace(opened(Few()), classes=CLASSES[:3])
    first = AuditResult.of(examine_model(few, clean), ORIGIN).to_dict()["classes"][0]
    assert first["change"] is None
    assert list(first["tests"]) == ["stamps"]


def test_every_class_is_a_finding(result: AuditResult) -> None:
    assert [one.about for one in result.findings] == [one.name for one in result.classes]
    assert {one.kind for one in result.findings} == {"class"}
    first, *others = result.findings
    assert (first.about, first.flagged) == ("Target", True)
    assert first.score == pytest.approx(-log10(first.p_value))
    assert first.evidence["picture"] == "trigger-0.png"
    assert (first.evidence["row"], first.evidence["column"], first.evidence["size"]) == (ROW, COLUMN, SIZE)
    assert f"row {ROW}, column {COLUMN}" in first.reason
    assert all(first.score > one.score and not one.flagged and not one.reason for one in others)


def test_several_flagged_classes_may_be_wrong_and_the_verdict_says_so(result: AuditResult) -> None:
    first, second = (one.name for one in result.classes[:2])
    both = two_flagged(result, took=True).verdict
    assert "may be wrong" in both
    assert f"a backdoor for {first} and {second}:" in both
    assert "may be wrong" not in result.verdict
    weak = two_flagged(result).verdict
    assert f"a backdoor for {first}:" in weak
    assert f"answers to a simple change of the image for {second} more" in weak
    natural = two_flagged(result, took=True, natural=True).verdict
    assert f"a backdoor for {first}:" in natural
    assert f"for {second} more strongly than clean models do, and so does the reference" in natural


def test_in_words_and_in_a_notebook(found: ModelExamination) -> None:
    names = ("<b>Target</b>", *found.classifier.classes[1:])
    renamed = [one._replace(name=name) for one, name in zip(found.classes, names, strict=True)]
    result = AuditResult.of(replace(found, classes=renamed), ORIGIN)
    assert str(result).splitlines()[:2] == ["Audit of model.safetensors with 60 clean images", result.verdict]
    assert "<b>Target</b> (p " in str(result)
    shown = result._repr_html_()
    assert "<b>Target" not in shown
    assert "&lt;b&gt;Target&lt;/b&gt; (flagged)" in shown
    assert "data:image/png;base64," in shown
    assert shown.count("<tr>") == 6
