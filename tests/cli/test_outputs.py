"""What cannot be written is told before the work, and what was killed between two outputs can be run again."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.files import write_text
from petechia.detect.repair.files import record_beside, refuse_existing_model
from petechia.detect.scan import ScanResult

DATA = "phantom:images=60,size=64"


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of work fails."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("this is the work")

    for name in ("open_source", "open_classifier", "read_data", "repair_model", "collect"):
        monkeypatch.setattr(f"petechia.api.{name}", fail)
    monkeypatch.setattr("petechia.study.study._plan", fail)
    monkeypatch.setattr("petechia.study.runner.load_run_data", fail)


WITH_OUT = {
    "scan": ("scan", DATA, "--out"),
    "poison": ("poison", DATA, "--out"),
    "audit": ("audit", "m.onnx", "--clean", DATA, "--out"),
    "screen": ("screen", "m.onnx", DATA, "--clean", DATA, "--out"),
    "repair": ("repair", "m.safetensors", "--clean", DATA, "--method", "fine-tune", "--out"),
    "reproduce": ("reproduce", "table-2", "--set", "model.pretrained=false", "--out"),
    "explain": ("explain", "m.onnx", "x.png", "--out"),
    "run": ("run", "--data", DATA, "--out"),
    "zoo": ("zoo",),
}


@pytest.mark.parametrize("command", WITH_OUT)
def test_an_output_that_cannot_be_is_told_before_the_work(command: str, tmp_path: Path, no_work: None) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "nothing")
    for place in ("file/out.safetensors", "file/deep/out.safetensors", "nowhere/out.safetensors"):
        code, said = call(*WITH_OUT[command], tmp_path / place)
        assert code == 1
        assert "is a file, not a folder" in said or "is a link that leads nowhere" in said, said
    code, said = call(*WITH_OUT[command], tmp_path / "file")
    assert code == 1
    assert "this is the work" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]


def test_outputs_that_are_one_or_lie_in_each_other(tmp_path: Path, no_work: None) -> None:
    for out, clean, words in (("a", "a", "are the same"), ("a", "a/b", "lie in each other"), ("a/b", "a", "lie in each other")):
        code, said = call("scan", DATA, "--out", tmp_path / out, "--clean-to", tmp_path / clean)
        assert code == 1
        assert f"--out and --clean-to {words}" in said
    assert not list(tmp_path.iterdir())


def test_a_scan_that_was_killed_between_its_outputs_can_be_run_again(tmp_path: Path) -> None:
    words = ("scan", DATA, "--out", tmp_path / "out", "--clean-to", tmp_path / "clean")
    assert call(*words)[0] == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shutil.rmtree(tmp_path / "clean")
    code, said = call(*words)
    assert code == 0, said
    assert "holds a scan already" in said
    assert "60 images" in said
    assert (tmp_path / "clean").is_dir()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    code, said = call(*words)
    assert (code, "exists already; choose another --clean-to" in said) == (1, True)
    shutil.rmtree(tmp_path / "clean")
    code, said = call("scan", "phantom:images=50,size=64", *words[2:])
    assert code == 1
    assert "holds a scan that found something else" in said
    assert not (tmp_path / "clean").exists()
    assert ScanResult.load(tmp_path / "out").images == 60
    code, said = call("scan", DATA, "--out", tmp_path / "out")
    assert (code, "exists already; choose another --out" in said) == (1, True)


def test_what_a_killed_repair_left_is_replaced(tmp_path: Path) -> None:
    """The model is written last."""
    out = tmp_path / "m.safetensors"
    write_text(record_beside(out), "{}")
    refuse_existing_model(out)


def test_a_report_replaces_no_file_that_it_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "run" / "scores").mkdir(parents=True)
    for name in ("config.yaml", "scores/test.parquet"):
        (tmp_path / "run" / name).write_text("data: phantom")
        code, said = call("report", tmp_path / "run", "--out", tmp_path / "run" / name)
        assert code == 1
        assert "is a file of the run" in said
        assert (tmp_path / "run" / name).read_text() == "data: phantom"
    code, said = call("report", tmp_path / "run", "--out", tmp_path)
    assert (code, "is a folder; give a file" in said) == (1, True)
