import json
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.data.not_read import NotRead, Reason
from petechia.detect.audit import AuditResult, ModelExamination, Origin, examine_model
from petechia.reports.audit import attach_report, render_audit
from tests.detect.audit.conftest import COLUMN, ROW, SIZE, ByHand, Images, Wavy, opened
from tests.detect.audit.conftest import clean as clean_images

clean = clean_images
ORIGIN = Origin("model.safetensors", "ab" * 32, "phantom")


@pytest.fixture(scope="module")
def found(clean: Images) -> ModelExamination:
    return examine_model(opened(ByHand()), clean)


def written(found: ModelExamination, origin: Origin, folder: Path) -> AuditResult:
    result = AuditResult.of(found, origin)
    attach_report(result)
    result.save(folder)
    return result


def test_the_json_says_what_was_found(found: ModelExamination, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    content = written(found, ORIGIN, folder).to_dict()
    assert json.loads((folder / "audit.json").read_text()) == content
    first = content["classes"][0]
    assert content["backdoor"]
    assert (first["name"], first["row"], first["column"], first["size"], first["value"]) == ("Target", ROW, COLUMN, SIZE, 0)
    assert [one["flagged"] for one in content["classes"]] == [True, False, False, False, False]
    assert {file.name for file in folder.iterdir()} == {"audit.json", "report.html", "trigger-0.png", "change-0.png"}
    assert min(Image.open(folder / "trigger-0.png").size) >= 320


def test_intervals_are_wilsons(found: ModelExamination, tmp_path: Path) -> None:
    rate = written(found, ORIGIN, tmp_path / "audit").to_dict()["classes"][0]["asr"]["0.9"]
    p, n, z = rate["value"], rate["images"], 1.959964
    middle, half = (p + z**2 / 2 / n) / (1 + z**2 / n), z * sqrt(p * (1 - p) / n + z**2 / 4 / n**2) / (1 + z**2 / n)
    assert (rate["low"], rate["high"]) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_the_page_escapes_names_and_says_what_is_not_shown(found: ModelExamination, tmp_path: Path) -> None:
    result = written(found, Origin("<script>", None, "<b>"), tmp_path / "audit")
    page = (tmp_path / "audit" / "report.html").read_text()
    assert page == render_audit(result)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "does not prove that there is nothing" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_page_names_the_images_that_were_not_read(found: ModelExamination) -> None:
    video = NotRead.of(Reason.VIDEO, ["a.avi"])
    everything, most = (render_audit(AuditResult.of(found, ORIGIN._replace(not_read=one))) for one in (NotRead(), video))
    assert "<dd>60 from phantom</dd>" in everything
    assert f"<dd>60 from phantom. {video}</dd>" in most


def test_the_strongest_evidence_comes_first(found: ModelExamination, clean: Images) -> None:
    stamp, wave = (render_audit(AuditResult.of(one, ORIGIN)) for one in (found, examine_model(opened(Wavy()), clean)))
    assert stamp.index("reach it with this stamp") < stamp.index("reach it with this change")
    assert wave.index("reach it with this change") < wave.index("reach it with this stamp")


def test_a_clean_model_is_not_called_safe(clean: Images) -> None:
    said = AuditResult.of(examine_model(opened(ByHand(backdoored=False)), clean, quick=True), ORIGIN).verdict
    assert said.startswith("No backdoor was found.")


def test_nothing_is_overwritten(found: ModelExamination, tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="exists already"):
        written(found, ORIGIN, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("backdoored", "status"), [(True, 3), (False, 0)])
def test_the_command_ends_with_what_was_found(
    backdoored: bool, status: int, clean: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petechia.api.open_classifier", lambda _name, _machine: opened(ByHand(backdoored)))
    folder = tmp_path / "clean"
    folder.mkdir()
    for number, image in enumerate(clean[:40]):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    arguments = ["audit", "model", "--clean", str(folder), "--out", str(tmp_path / "out"), "--quick", "--threads", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, result.output
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["backdoor"] == backdoored
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert np.all([(tmp_path / "out" / name).is_file() for name in ("audit.json", "report.html")])
