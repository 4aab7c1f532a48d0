"""The GitHub action: its script, with a stand-in for petechia that writes down how it was called."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
AUDITED = ["audit", "a model.onnx", "--clean", "clean", "--out", "found/audit"]
SCANNED = ["scan", "nih:my data", "--strict", "--out", "found/scan"]
FILES = ["--sarif", "found/findings.sarif", "--evidence", "found/evidence.zip"]


@pytest.mark.parametrize(
    ("given", "status", "called", "ends"),
    [
        ({"MODEL": "a model.onnx", "CLEAN": "clean"}, 0, AUDITED + FILES, 0),
        ({"MODEL": "a model.onnx", "CLEAN": "clean"}, 3, AUDITED + FILES, 3),
        ({"MODEL": "a model.onnx", "CLEAN": "clean"}, 4, AUDITED + FILES, 4),
        ({"MODEL": "a model.onnx", "CLEAN": "clean", "ALLOW": "true"}, 4, AUDITED + FILES, 0),
        ({"MODEL": "a model.onnx", "CLEAN": "clean", "ALLOW": "true"}, 3, AUDITED + FILES, 3),
        ({"MODEL": "a model.onnx", "CLEAN": "clean"}, 1, AUDITED + FILES, 1),
        ({"DATASET": "nih:my data", "ALLOW": "true"}, 4, SCANNED + FILES, 4),
        ({"DATASET": "nih:my data"}, 3, SCANNED + FILES, 3),
        ({"DATASET": "$(touch evil)"}, 0, ["scan", "$(touch evil)", *SCANNED[2:], *FILES], 0),
        ({}, 0, None, 2),
        ({"MODEL": "m", "DATASET": "d"}, 0, None, 2),
    ],
)
def test_the_action_calls_petechia_and_ends_as_it_does(
    given: dict[str, str], status: int, called: list[str] | None, ends: int, tmp_path: Path
) -> None:
    stand_in = tmp_path / "bin" / "petechia"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > called\nexit {status}\n')
    stand_in.chmod(0o755)
    step = ACTION["runs"]["steps"][-1]
    settings = dict.fromkeys(step["env"], "") | {"ALLOW": "false", "RESULTS": "found"} | given
    env = {**os.environ, **settings, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    script = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]
    done = subprocess.run(script, cwd=tmp_path, env=env, check=False)
    assert done.returncode == ends
    found = tmp_path / "called"
    assert (found.read_text().splitlines() if found.exists() else None) == called
    assert not (tmp_path / "evil").exists()


def test_every_input_reaches_the_script_through_the_environment() -> None:
    step = ACTION["runs"]["steps"][-1]
    assert "${{" not in step["run"]
    assert {value.split(".")[1].rstrip(" }") for value in step["env"].values()} == set(ACTION["inputs"])
    assert ACTION["outputs"]["sarif"]["value"].endswith(FILES[1].removeprefix("found"))
