"""A stranger's run, study or zoo with a link in it makes no command read or write outside of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.study import Config, RunDirectory
from petechia.study.directory import write_json
from petechia.study.study import StudyDirectory
from tests.conftest import SMALL

RUN = {
    "report": ("report", "{}"),
    "serve": ("serve", "{}"),
    "resume": ("run", "--resume", "--out", "{}"),
    "run": ("run", "--data", "phantom:images=60,size=32", "--set", "model.arch=test_resnet", "--out", "{}"),
}
STUDY = {
    "resume": ("run", "--resume", "--out", "{}"),
    "zoo": ("zoo", "{}"),
    "describe": ("zoo", "{}", "--describe"),
    "reproduce": ("reproduce", "table-2", "--out", "{}", "--set", "model.pretrained=false"),
}


def outside(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def call(words: tuple[str, ...], folder: Path) -> str:
    result = CliRunner().invoke(app, [word.format(folder) for word in words])
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return re.sub(r"\s+", " ", result.output)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "config.yaml").write_text("data: phantom\n")
    (folder / "secret").write_text("secret")
    return folder


Plant = Callable[[Path, Path], None]


def folder_link(name: str) -> Plant:
    return lambda folder, elsewhere: (folder / name).symlink_to(elsewhere)


def file_link(name: str, there: str = "secret") -> Plant:
    return lambda folder, elsewhere: (folder / name).symlink_to(elsewhere / there)


LINKS = {
    "a folder": folder_link("checkpoints"),
    "scores": folder_link("scores"),
    "a file": file_link("report.html"),
    "the old temporary name": file_link(".report.html.partial"),
    "the old temporary name of the summary": file_link(".summary.json.partial"),
    "the lock": file_link(".lock", "new"),
    "the result": file_link("summary.json"),
}


@pytest.mark.parametrize("command", RUN)
@pytest.mark.parametrize("link", LINKS)
def test_runs(command: str, link: str, elsewhere: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    if command != "run":
        RunDirectory(folder).start(Config.model_validate(SMALL), {})
    LINKS[link](folder, elsewhere)
    before = outside(elsewhere)
    said = call(RUN[command], folder)
    assert "holds a link" in said or "not finished" in said, said
    assert outside(elsewhere) == before


@pytest.mark.parametrize("command", STUDY)
@pytest.mark.parametrize("link", ["networks", "runs", "reproduction", "runs/a"])
def test_studies(command: str, link: str, elsewhere: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    (folder / "runs").mkdir(parents=True)
    write_json(StudyDirectory(folder).study, {"a": Config.model_validate(SMALL).model_dump(mode="json")})
    if link == "runs":
        (folder / "runs").rmdir()
    (folder / link).symlink_to(elsewhere)
    before = outside(elsewhere)
    assert "holds a link" in call(STUDY[command], folder)
    assert outside(elsewhere) == before


def test_a_config_that_is_a_link(elsewhere: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").symlink_to(elsewhere / "config.yaml")
    assert "holds a link, config.yaml" in call(RUN["resume"], folder)
