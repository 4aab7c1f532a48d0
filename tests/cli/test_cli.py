import errno
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.cli.common import reported
from petechia.core.progress import SILENT, Progress
from petechia.core.version import __version__
from petechia.data import Catalog
from petechia.detect.protocol import DETECTORS, Calibration, Finding, Findings

SMALL = [
    "--data", "phantom:images=160,size=32", "--set", "preprocess.size=32", "--set", "model.arch=test_resnet",
    "--set", "train.epochs=1", "--set", "bootstrap=20",
]  # fmt: skip


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_help_and_version() -> None:
    assert call("--version") == (0, f"{__version__} ")
    code, said = call("run", "--help")
    assert code == 0
    assert "--resume" in said


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, petechia, petechia.cli.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_run_report_and_poison(tmp_path: Path) -> None:
    code, said = call("run", *SMALL, "--out", str(tmp_path / "run"))
    assert code == 0, said
    assert "ASR(0.9)" in said
    assert "False-trigger rate" in said
    assert "Trigger survival: 100.0 %" in said
    assert "attacked, 0" in said
    report = tmp_path / "run" / "report.html"
    assert report.is_file()
    code, _ = call("report", str(tmp_path / "run"), "--pictures", "none", "--out", str(tmp_path / "r.html"))
    assert code == 0
    assert (tmp_path / "r.html").stat().st_size < report.stat().st_size
    code, said = call("run", "--resume", "--out", str(tmp_path / "run"))
    assert code == 0
    assert "ASR(0.9)" in said
    code, said = call("poison", "phantom:images=40,size=32", "--out", str(tmp_path / "poisoned"), "--set", "attack.rate=0.5")
    assert code == 0
    assert "training images carry the trigger" in said
    code, said = call("run", *SMALL, "--data", f"nih:{tmp_path / 'poisoned'}", "--out", str(tmp_path / "on-files"))
    assert code == 0, said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--set", "attack.rat=1"], "did you mean 'attack.rate'?"),
        (["run", "--data", "nih:/does/not/exist"], "which is not a folder"),
        (["run", "--data", "foo"], "is not a data source"),
        (["run", "--resume"], "--resume needs --out"),
        (["run", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["run", *SMALL, "--set", "attack.trigger.size=40"], "does not fit on an image of 32 x 32"),
        (["run", *SMALL, "--set", "compute.device=cuda:99"], "compute.device is 'cuda:99'"),
        (["report", "/does/not/exist"], "holds no run"),
        (["poison", "phantom:images=9", "--out", "/tmp"], "/tmp exists already"),
        (["poison", "phantom:images=9", "--out", "p", "--set", "attack.stage=input"], "set it to native"),
        (["run", "--data", "phantom:images=["], "in the data source"),
        (["run", "--set", "train.lr=.inf"], "train.lr in the configuration is inf"),
        (["run", "--set", "seeds=[18446744073709551616]"], "seeds in the configuration is"),
        (["run", "--set", "train.schedule=plateau", "--set", "train.validation=0"], "needs train.validation above 0"),
        (["run", "--set", "model.pretrained=/etc/passwd"], "not a .safetensors file"),
        (["run", "--out", "/etc/passwd"], "is a file, not a folder"),
    ],
)
def test_problems_are_one_sentence_and_exit_1(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call(*arguments)
    assert code == 1
    assert "Error: " in output
    assert said in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "petechia", "run", *SMALL, "--set", "train.epochs=500", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not (out / "metrics.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"petechia run --resume --out {out}" in errors
    assert "Traceback" not in errors


def test_ctrl_c_inside_a_finalizer_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """Python prints and drops an exception of a finalizer."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def interrupted_while_it_works() -> None:
        with reported():
            thing = Finalized()
            del thing
            time.sleep(20)

    with pytest.raises(typer.Exit) as stopped:
        interrupted_while_it_works()
    assert stopped.value.exit_code == 130
    assert capsys.readouterr().err.strip() == "Interrupted; what was finished is kept."


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "replace", full)
    code, said = call("run", *SMALL, "--out", str(tmp_path / "run"))
    assert code == 1
    assert "No space left on device" in said
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]


def test_explain(tmp_path: Path) -> None:
    code, said = call("run", *SMALL, "--set", "preprocess.size=64", "--out", str(tmp_path / "run"))
    assert code == 0, said
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "a.png")
    model = tmp_path / "run" / "checkpoints" / "attacked-seed-0" / "epoch-01.safetensors"
    code, said = call("explain", str(model), str(tmp_path / "a.png"), "--target", "Mass", "--out", str(tmp_path / "out"))
    assert code == 0, said
    assert "Mass" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "explanations.json", "a-Mass-last.npy", "a-Mass-last.png", "a-Mass-middle.npy", "a-Mass-middle.png",
    }  # fmt: skip
    code, said = call("explain", str(model), "phantom:images=2,size=64", "--out", str(tmp_path / "drawn"))
    assert code == 0, said
    assert said.count(".png") >= 2
    code, said = call("explain", str(tmp_path / "run"), str(tmp_path / "a.png"), "--out", str(tmp_path / "none"))
    assert code == 1
    assert "is a folder, not a model; give one of its models, such as" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--preset", "lab"],
        ["run", "--missing", "maybe"],
        ["scan", "phantom:images=9", "--on-error", "maybe", "--out", "x"],
        ["run", "--precision", "fp8"],
        ["reproduce", "table-9"],
        ["report", "run", "--pictures", "all"],
    ],
)
def test_choices_are_choices(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = call(*arguments)
    assert code == 2
    assert "is not one of" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", ["run", "reproduce", "audit", "calibrate", "screen", "repair", "explain", "serve", "zoo", "info"]
)
def test_every_command_that_computes_takes_device_precision_and_threads(command: str) -> None:
    (function,) = [one.callback for one in app.registered_commands if getattr(one.callback, "__name__", "") == command]
    assert function is not None
    assert {"device", "precision", "threads", "verbose"} <= set(inspect.signature(function).parameters)


def test_info_names_versions_device_and_extras() -> None:
    code, said = call("info", "--device", "cpu", "--precision", "fp32", "--threads", "1")
    assert code == 0
    assert __version__ in said
    assert torch.__version__.partition("+")[0] in said
    assert "cpu (1 threads), fp32" in said
    for word in ("extra web", "extra onnx", "plugins: triggers"):
        assert word in said


def test_logging_goes_to_stderr_only_when_asked(tmp_path: Path) -> None:
    quiet = CliRunner().invoke(app, ["info", "--device", "cpu"])
    loud = CliRunner().invoke(app, ["info", "--device", "cpu", "-v"])
    assert "INFO" not in quiet.stderr
    assert "INFO" in loud.stderr
    assert "cpu" in loud.stderr
    assert "INFO" not in loud.stdout


@pytest.mark.parametrize("name", ["[b]x[/b]", "[/b]", "petechia[onnx]", "\x1b[31mred", "a\tb"])
def test_text_of_paths_is_never_markup_nor_a_command_to_the_terminal(name: str, tmp_path: Path) -> None:
    code, said = call("report", str(tmp_path / name))
    assert code == 1
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert "\t" not in said
    assert name.replace("\x1b", "�").replace("\t", " ") in " ".join(said.split())


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "check the permissions"),
        (errno.EROFS, "choose a folder that can be written"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EMFILE, "raise the limit of open files"),
        (errno.ENODEV, "check the path and the device"),
    ],
)
def test_errors_of_the_operating_system_say_what_they_are(
    number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr("petechia.api.report", lambda *_: fails(tmp_path / "report.html"))
    code, said = call("report", str(tmp_path))
    assert code == 1
    assert os.strerror(number) in said
    assert advice in said
    assert "make room" not in said


def test_completion_can_be_installed() -> None:
    code, said = call("--help")
    assert code == 0
    assert "--install-completion" in said


def test_a_detector_of_another_package_is_used_and_told_of_every_option(tmp_path: Path) -> None:
    data = "phantom:images=6,size=32"
    with DETECTORS.temporarily({"first": First}):
        code, said = call("scan", data, "--detector", "first", "--out", str(tmp_path / "found"))
        assert code == 3
        assert "1 of 6 findings are flagged" in said
        assert len(Findings.load(tmp_path / "found").flagged) == 1
        for option in (
            ["--model", "hub:x"],
            ["--clean-to", str(tmp_path / "clean")],
            ["--on-error", "skip"],
            ["--threads", "1"],
        ):
            code, said = call("scan", data, "--detector", "first", "--out", str(tmp_path / "more"), *option)
            assert code == 1
            assert f"--detector first cannot use {option[0]}; leave it out." in said
    assert [one.name for one in tmp_path.iterdir()] == ["found"]


@pytest.mark.parametrize(("command", "option"), [("audit", "--images"), ("screen", "--fpr"), ("screen", "--target")])
def test_options_that_a_detector_is_not_told_of_are_refused(command: str, option: str, tmp_path: Path) -> None:
    data = "phantom:images=6,size=32"
    about = [data] if command == "screen" else []
    given = ["--clean", data, "--out", str(tmp_path / "out"), "--detector", "first", option, "1"]
    code, said = call(command, "model.safetensors", *about, *given)
    assert code == 1
    assert f"--detector first cannot use {option}; leave it out." in said


class First:
    """Flags the first image."""

    name = "first"
    examines: Literal["dataset", "model", "images"] = "dataset"

    def calibrate(self, clean: Sequence[Catalog]) -> Calibration:
        return Calibration(detector=self.name, measured_on="nothing", values={})

    def examine(self, subject: Catalog, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        found = [
            Finding(about=name, kind="image", score=1.0, flagged=row == 0, threshold=1.0, reason="it is the first")
            for row, name in enumerate(subject.ids.tolist())
        ]
        return Findings(detector=self.name, measured_on="nothing", found=tuple(found))
