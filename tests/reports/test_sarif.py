"""SARIF files: what pipelines rely on, and the standard's validator where it is installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.core.results import Result
from petechia.data.formats.images import encode_png
from petechia.detect.audit import AuditResult, Origin, examine_model
from petechia.detect.protocol import Finding, Findings
from petechia.detect.screen.result import ScreenResult
from petechia.reports.sarif import RULES, TAXONOMIES, to_sarif, write_sarif
from tests.detect.audit.conftest import ByHand, Images, opened
from tests.detect.audit.conftest import clean as clean_images
from tests.detect.screen.test_result import result as screen_result

clean, screened = clean_images, screen_result
VALIDATOR = os.environ.get("SARIF_MULTITOOL") or shutil.which("sarif")


@pytest.fixture(scope="module")
def audited(clean: Images) -> AuditResult:
    found = examine_model(opened(ByHand()), clean, quick=True)
    return AuditResult.of(found, Origin("a model.safetensors", "ab" * 32, "phantom"))


def others() -> Findings:
    found = (
        Finding(about="Mass", kind="class", score=3, flagged=True),
        Finding(about="Nodule", kind="class", score=1, flagged=False),
    )
    return Findings(detector="theirs", measured_on="nothing", found=found)


def test_a_backdoored_model_is_an_error_about_its_file(audited: AuditResult) -> None:
    (run,) = to_sarif(audited)["runs"]
    (found,) = run["results"]
    assert (found["ruleId"], found["level"]) == ("audit/backdoor", "error")
    assert found["message"]["text"] == audited.flagged[0].reason
    (place,) = found["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20model.safetensors"
    assert place["logicalLocations"][0]["name"] == "Target"
    assert run["tool"]["driver"]["rules"][found["ruleIndex"]]["id"] == found["ruleId"]


def test_images_are_named_and_what_is_not_a_number_is_left_out(screened: ScreenResult) -> None:
    (run,) = to_sarif(screened)["runs"]
    files = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in run["results"]]
    assert files == ["%3Cscript%3E.png", "c.png"]
    assert {one["ruleId"] for one in run["results"]} == {"screen/triggered-image"}
    assert [note["message"]["text"] for note in run["invocations"][0]["toolExecutionNotifications"]] == list(screened.warnings)
    (other,) = to_sarif(others())["runs"][0]["results"]
    assert other["properties"] == {"score": 3}


def test_fingerprints_stay_and_tell_findings_apart(audited: AuditResult, screened: ScreenResult) -> None:
    def prints(result: Result) -> list[str]:
        return [one["partialFingerprints"]["finding/v1"] for one in to_sarif(result)["runs"][0]["results"]]

    later = audited.model_copy(update={"date": "2031-01-01", "seconds": 1.0})
    other = audited.model_copy(update={"model": audited.model.model_copy(update={"sha256": "cd" * 32})})
    assert prints(later) == prints(audited) != prints(other)
    assert len(set(prints(screened))) == 2


def test_every_rule_refers_to_a_taxon_that_the_file_describes() -> None:
    (run,) = to_sarif(others())["runs"]
    described = {taxon["id"]: index for index, one in enumerate(run["taxonomies"]) for taxon in one["taxa"]}
    for rule in run["tool"]["driver"]["rules"]:
        assert rule["relationships"]
        for one in rule["relationships"]:
            assert described[one["target"]["id"]] == one["target"]["toolComponent"]["index"]
    assert {taxon for rule in RULES for taxon in rule.taxa} == {taxon for taxa in TAXONOMIES.values() for taxon in taxa}


def test_a_clean_model_gives_an_empty_list_and_nothing_is_overwritten(clean: Images, tmp_path: Path) -> None:
    result = AuditResult.of(examine_model(opened(ByHand(backdoored=False)), clean, quick=True), Origin("m", None, "phantom"))
    file = write_sarif(result, tmp_path / "found.sarif")
    assert json.loads(file.read_text())["runs"][0]["results"] == []
    with pytest.raises(PetechiaError, match="exists already; choose another --sarif"):
        write_sarif(result, file)


def test_the_command_writes_it_and_refuses_before_any_work(
    clean: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petechia.api.open_classifier", lambda _name, _machine: opened(ByHand()))
    folder = tmp_path / "clean"
    folder.mkdir()
    for number, image in enumerate(clean[:40]):
        (folder / f"{number}.png").write_bytes(encode_png(image))
    (tmp_path / "model.safetensors").write_bytes(b"-")
    given = ["audit", str(tmp_path / "model.safetensors"), "--clean", str(folder), "--quick", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*given, "--sarif", str(tmp_path / "found.sarif")])
    assert done.exit_code == 3, done.output
    assert len(json.loads((tmp_path / "found.sarif").read_text())["runs"][0]["results"]) == 1
    again = CliRunner().invoke(app, [*given[:-1], str(tmp_path / "again"), "--sarif", str(tmp_path / "found.sarif")])
    assert again.exit_code == 1
    assert not (tmp_path / "again").exists()


@pytest.mark.skipif(not VALIDATOR, reason="needs the SARIF Multitool (npm install @microsoft/sarif-multitool)")
@pytest.mark.parametrize("kind", ["audited", "screened", "others"])
def test_the_official_validator_has_no_errors(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    result = others() if kind == "others" else request.getfixturevalue(kind)
    file = write_sarif(result, tmp_path / "found.sarif")
    checked = tmp_path / "checked.sarif"
    subprocess.run([str(VALIDATOR), "validate", str(file), "--output", str(checked)], check=False, capture_output=True)
    results = json.loads(checked.read_text(encoding="utf-8-sig"))["runs"][0]["results"]
    assert [one["message"] for one in results if one.get("level") == "error"] == []
