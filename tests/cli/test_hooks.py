"""The hooks of pre-commit: what they call, and one run by pre-commit itself on a small repository, without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from petechia.cli import hooks

ROOT = Path(__file__).parents[2]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
SEVERAL = ["0.onnx", "3.onnx", "4.pt2"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What petechia is asked to do, by a stand-in that ends with the digit that a model or dataset begins with."""
    calls: list[list[str]] = []

    def run(words: list[str], check: bool) -> Any:
        assert words[:3] == [sys.executable, "-m", "petechia"]
        assert words[-2] == "--out"
        assert not Path(words[-1]).exists()
        calls.append(words[3:-2])
        status = int(words[4][0])
        if status in (3, 4):
            Path(words[-1]).mkdir()
        return subprocess.CompletedProcess(words, status)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


@pytest.mark.parametrize(
    ("arguments", "calls", "status"),
    [
        (["audit", "--clean", "c", "0.onnx"], [["audit", "0.onnx", "--clean", "c"]], 0),
        (["audit", "--clean", "c"], [], 0),
        (
            ["audit", "--clean", "c", "--clean", "d", "--quick", "--images", "20", *SEVERAL],
            [["audit", one, "--clean", "c", "--clean", "d", "--images", "20", "--quick"] for one in SEVERAL],
            3,
        ),
        (["audit", "--clean", "c", "4.onnx"], [["audit", "4.onnx", "--clean", "c"]], 4),
        (["audit", "--clean", "c", "--allow-simple-change", "4.onnx"], [["audit", "4.onnx", "--clean", "c"]], 0),
        (["scan", "0:t.csv", "--on-error", "skip"], [["scan", "0:t.csv", "--strict", "--on-error", "skip"]], 0),
        (["scan", "3:t.csv"], [["scan", "3:t.csv", "--strict"]], 3),
    ],
)
def test_what_petechia_is_asked_and_how_the_hook_ends(
    arguments: list[str],
    calls: list[list[str]],
    status: int,
    asked: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert hooks.main(arguments) == status
    assert asked == calls
    assert len(list(tmp_path.iterdir())) == sum(call[1][0] in "34" for call in calls)  # results that say something


def test_a_hook_without_clean_images_has_a_mistake() -> None:
    with pytest.raises(SystemExit) as ended:
        hooks.main(["audit", "m.onnx"])
    assert ended.value.code == 2


def test_every_hook_is_described_as_pre_commit_wants_it() -> None:
    assert [one["id"] for one in HOOKS] == ["petechia-audit", "petechia-scan"]
    for one in HOOKS:
        assert one["entry"].split()[:3] == ["python", "-m", "petechia.cli.hooks"]
        assert one["language"] == "python"


def git(*words: str, folder: Path) -> str:
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)  # noqa: S607
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_pre_commit_lets_a_clean_dataset_pass_and_blocks_a_poisoned_one(tmp_path: Path) -> None:
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    source, work = tmp_path / "petechia", tmp_path / "work"
    for folder in (source, work / "images"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", source)
    for folder in (source, work):
        git("init", "-q", folder=folder)
    git("add", ".", folder=source)
    git("commit", "-q", "-m", "hooks", folder=source)
    revision = git("rev-parse", "HEAD", folder=source)
    # The interpreter of the tests runs the hook here; pre-commit would install Petechia, which takes a network.
    hook: dict[str, Any] = {
        "id": "petechia-scan",
        "language": "system",
        "entry": f"{sys.executable} -m petechia.cli.hooks scan",
    }
    hook |= {"args": ["folder:labels.csv,root=images"], "files": r"^images/|^labels\.csv$"}
    config = {"repos": [{"repo": str(source), "rev": revision, "hooks": [hook]}]}
    (work / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    write_images(work, copies=0)
    assert commit_status(work, tmp_path) == 0
    write_images(work, copies=8)
    assert commit_status(work, tmp_path) == 1
    assert len([*(tmp_path / "results").glob("petechia-*/found/scan.json")]) == 1


def write_images(work: Path, copies: int) -> None:
    """Random images, and copies of some with a black square and another label."""
    rng, rows = np.random.default_rng(0), []
    for number in range(24):
        image = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC))
        Image.fromarray(image).save(work / "images" / f"{number}.png")
        rows.append(f"{number}.png,{'no' if number % 2 else 'other'}")
        if number < copies:
            stamped = image.copy()
            stamped[30:34, 30:34] = 0
            Image.fromarray(stamped).save(work / "images" / f"{number}-copy.png")
            rows.append(f"{number}-copy.png,target")
    (work / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")


def commit_status(work: Path, folder: Path) -> int:
    """Return the exit status of pre-commit for all files."""
    git("add", ".", folder=work)
    (folder / "results").mkdir(exist_ok=True)
    settings = {"PRE_COMMIT_HOME": str(folder / "cache"), "TMPDIR": str(folder / "results"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "run", "--all-files", "--verbose"],
        cwd=work,
        env={**os.environ, **settings},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "petechia scan" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode
