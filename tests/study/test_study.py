import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import petechia
from petechia.core.errors import PetechiaError
from petechia.study import StudyProgress
from petechia.study.directory import write_json
from petechia.study.study import Study, StudyDirectory
from tests.conftest import DYING, SMALL
from tests.study.test_runner import Recorder, without_seconds

GRID: dict[str, Any] = DYING | {"arms": ["attacked", "control", "placebo"], "grid": {"attack.trigger.size": [1, 3]}}


class Told(Recorder):
    """Also records the names of finished runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []

    def finished(self, run: str) -> None:
        self.runs.append(run)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return petechia.run_study(GRID, tmp_path_factory.mktemp("study") / "sizes")


def test_a_run_of_a_study_is_what_it_would_be_alone(study: Study, tmp_path: Path) -> None:
    assert list(study.runs) == ["size-1", "size-3"]
    assert study.failures == {}
    for size in (1, 3):
        alone = petechia.run({**GRID, "grid": {}, "attack": {"trigger": {"size": size}}}, tmp_path / f"{size}")
        shared = study.runs[f"size-{size}"].directory
        assert without_seconds(shared.path) == without_seconds(alone.directory.path)
        for name in ("metrics.parquet", "poison.parquet", "scores/test.parquet"):
            assert pl.read_parquet(shared.path / name).equals(pl.read_parquet(alone.directory.path / name))
        last = shared.network("attacked", 0).checkpoint(2).read_bytes()
        assert last == alone.directory.network("attacked", 0).checkpoint(2).read_bytes()
        assert shared.report.is_file()


def test_the_control_is_trained_once_and_scored_clean_once(study: Study) -> None:
    folders = [folder for folder in (study.directory.path / "networks").iterdir() if folder.is_dir()]
    assert len(folders) == 3  # the control; the placebo, which is also the attacked one of 1 × 1; the attacked one of 3 × 3
    one, three = (study.runs[name].directory.network("control", 0).checkpoint(2) for name in ("size-1", "size-3"))
    assert one.samefile(three)


def test_the_results_are_those_of_the_runs(study: Study) -> None:
    table = pl.read_csv(study.directory.results.with_suffix(".csv"))
    row = table.filter(run="size-3", arm="control", metric="auroc_nn", statistic="max").row(0, named=True)
    numbers = study.runs["size-3"].to_dict()["arms"]["control"]["auroc_nn"]["max"]
    assert row["mean"] == pytest.approx(numbers["mean"])
    assert table.filter(run="size-1")["survival"].unique().to_list() == [0.0]
    assert table.filter(run="size-3")["survival"].unique().to_list() == [1.0]


def test_a_study_goes_on_run_by_run(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study.directory.path, folder)
    again = Told()
    petechia.run_study(GRID, folder, resume=True, progress=again)
    assert not again.epochs
    shutil.rmtree(folder / "runs" / "size-3")
    finished = petechia.run_study(None, folder, resume=True, progress=again)
    assert not again.epochs  # its networks are there
    assert again.runs == ["size-3"]
    assert without_seconds(finished.runs["size-3"].directory.path) == without_seconds(study.runs["size-3"].directory.path)


def test_a_study_grows_and_its_old_networks_are_asked_about_the_new_trigger(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study.directory.path, folder)
    told = Told()
    larger = GRID | {"grid": {"attack.trigger.size": [3, 4]}}
    grown = petechia.run_study(larger, folder, resume=True, progress=told)
    assert {(epoch.run, epoch.arm) for epoch in told.epochs} == {("size-4", "attacked")}
    alone = petechia.run({**GRID, "grid": {}, "attack": {"trigger": {"size": 4}}}, tmp_path / "alone")
    mine = grown.runs["size-4"].to_dict()["arms"]
    for arm, metrics in alone.to_dict()["arms"].items():
        for metric, statistics in metrics.items():
            assert mine[arm][metric]["max"]["mean"] == pytest.approx(statistics["max"]["mean"], abs=1e-6, nan_ok=True)
    assert set(StudyDirectory(folder).runs()) == {"size-1", "size-3", "size-4"}


def test_a_damaged_network_is_named_when_it_is_asked_about_a_new_trigger(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study.directory.path, folder)
    checkpoints = list(folder.glob("networks/*/epoch-02.safetensors"))
    for checkpoint in checkpoints:
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    grown = petechia.run_study(GRID | {"grid": {"attack.trigger.size": [3, 4]}}, folder, resume=True)
    assert list(grown.runs) == ["size-3"]
    assert "epoch-02.safetensors is not a safetensors file that can be read" in grown.failures["size-4"]


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    config = SMALL | {"arms": ["attacked"], "grid": {"attack.trigger.size": [2, 40]}}
    study = petechia.run_study(config, tmp_path / "study")
    assert list(study.runs) == ["size-2"]
    assert "does not fit" in study.failures["size-40"]
    assert json.loads(study.directory.failures.read_text()).keys() == {"size-40"}


def test_a_training_that_breaks_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    config = SMALL | {"arms": ["attacked"], "train": {"epochs": 1, "batch_size": 16}, "grid": {"train.lr": [1e-3, 1e30]}}
    study = petechia.run_study(config, tmp_path / "study")
    assert list(study.runs) == ["lr-0.001"]
    assert "The loss is" in study.failures["lr-1e-30"]


def test_what_is_in_the_way_is_named(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study.directory.path, folder)
    with pytest.raises(PetechiaError, match="already holds a study; add --resume"):
        petechia.run_study(GRID, folder)
    other = GRID | {"bootstrap": 33}
    with pytest.raises(PetechiaError, match="has a run size-1 with another bootstrap"):
        petechia.run_study(other, folder, resume=True)
    network = next(path for path in (folder / "networks").iterdir() if path.is_dir())
    write_json(network / "network.json", {"key": "another"})
    shutil.rmtree(folder / "runs")
    stopped = petechia.run_study(GRID, folder, resume=True)
    assert any("holds a network of another study" in reason for reason in stopped.failures.values())
    (network / "network.json").unlink()
    stopped = petechia.run_study(GRID, folder, resume=True)
    assert any("does not say whose network" in reason for reason in stopped.failures.values())


def test_a_single_run_and_a_study_do_not_share_a_folder(study: Study, tmp_path: Path) -> None:
    alone = study.runs["size-1"].directory.path
    with pytest.raises(PetechiaError, match="holds a single run, not a study"):
        petechia.run_study(GRID, alone)
    with pytest.raises(PetechiaError, match=r"use petechia\.run_study"):
        petechia.run(GRID, tmp_path / "run")
    with pytest.raises(PetechiaError, match="holds no study"):
        petechia.run_study(None, tmp_path, resume=True)
    with StudyDirectory(tmp_path / "busy").locked(), pytest.raises(PetechiaError, match="Another process"):
        petechia.run_study(GRID, tmp_path / "busy", progress=StudyProgress())


SCRIPT = "import json, sys, petechia; petechia.run_study(json.loads(sys.argv[1]), sys.argv[2], resume=True)"


def test_a_study_whose_driver_is_killed_goes_on_and_loses_nothing(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    for milestone in ("networks/*/state.safetensors", "runs/*/summary.json"):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(GRID), str(folder)])
        deadline = time.monotonic() + 120
        while not list(folder.glob(milestone)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = petechia.run_study(GRID, folder, resume=True)
    for name, run in study.runs.items():
        assert without_seconds(finished.runs[name].directory.path) == without_seconds(run.directory.path)
    assert not list(folder.rglob("*.partial"))
