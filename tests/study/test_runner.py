import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

import petechia
from petechia.attack import TriggeredSelection
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Selection
from petechia.measure import METRICS
from petechia.models.model import Model
from petechia.models.scoring import predict
from petechia.study import Epoch, Run, StudyProgress
from petechia.study.config import make_config
from petechia.study.directory import RunDirectory
from petechia.study.grid import _network_key
from petechia.study.run_data import load_run_data
from tests.conftest import SMALL, NihMaker


class Recorder(StudyProgress):
    """Records everything that is reported."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.notes: list[str] = []
        self.phases: list[str] = []

    def phase(self, name: str, total: int = 0, work: float = 0) -> None:
        self.phases.append(name)

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def test_the_directory_holds_what_is_promised(finished: Run) -> None:
    folder = finished.directory.path
    for name in ("config.yaml", "environment.json", "poison.parquet", "metrics.parquet", "summary.json", "report.html"):
        assert (folder / name).stat().st_size > 100, name
    for arm in ("attacked", "control", "placebo"):
        for seed in (0, 3):
            for epoch in (1, 2):
                assert finished.directory.network(arm, seed).checkpoint(epoch).is_file()
                scores = load_file(finished.directory.network(arm, seed).scores_of(epoch))
                assert scores["clean"].shape == scores["triggered"].shape == (finished.to_dict()["images"]["test"], 14)
                assert scores["clean"].dtype == np.float32
    assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]


def test_the_summary_is_an_interface(finished: Run) -> None:
    summary = json.loads(finished.directory.summary.read_text())
    assert summary == finished.to_dict()
    assert summary["schema"] == 2
    assert set(summary["arms"]) == {"attacked", "control", "placebo"}
    for arm in summary["arms"].values():
        assert set(arm) == set(METRICS)
        for metric in arm.values():
            assert set(metric) == {"last", "min", "max"}
            for numbers in metric.values():
                assert set(numbers) == {"mean", "std", "low", "high"}
            assert metric["min"]["mean"] <= metric["last"]["mean"] <= metric["max"]["mean"]
    assert summary["survival"]["fraction"] == 1
    assert 8 < summary["survival"]["pixels"] <= 9
    assert {"prepare", "train", "evaluate", "total"} <= set(summary["seconds"])


def test_the_summary_follows_from_the_stored_metrics(finished: Run) -> None:
    metrics = pl.read_parquet(finished.directory.metrics)
    assert metrics.columns == ["seed", "arm", "epoch", "metric", "class", "value", "low", "high"]
    together = metrics.filter(pl.col("class").is_null())
    for arm, of_arm in finished.to_dict()["arms"].items():
        for metric, statistics in of_arm.items():
            rows = together.filter(arm=arm, metric=metric)
            per_seed = rows.group_by("seed").agg(pl.col("value").max())["value"]
            assert statistics["max"]["mean"] == pytest.approx(per_seed.mean())
            assert statistics["last"]["mean"] == pytest.approx(rows.filter(epoch=2)["value"].mean())
            assert statistics["last"]["std"] == pytest.approx(rows.filter(epoch=2)["value"].std())


def test_the_plan_has_a_row_for_every_image_of_every_poisoned_set(finished: Run) -> None:
    plan = pl.read_parquet(finished.directory.plan)
    assert plan.columns[:7] == ["seed", "id", "source", "triggered", "cover", "row", "column"]
    images = finished.to_dict()["images"]
    for seed in (0, 3):
        of_seed = plan.filter(seed=seed)
        assert len(of_seed) == images["poisoned_train"]
        assert of_seed["triggered"].sum() == images["triggered_train"] == round(0.4 * images["train"])
        assert of_seed["id"].n_unique() == len(of_seed)
    assert not plan.filter(seed=0).drop("seed").equals(plan.filter(seed=3).drop("seed"))


def test_checkpoints_give_the_stored_scores_and_do_not_tell_on_themselves(finished: Run) -> None:
    config = finished.directory.config()
    run_data = load_run_data(config, StudyProgress())
    runtime = Compute().start()
    model = runtime.to_device(Model.load(finished.directory.network("attacked", 0).checkpoint(2)))
    scores = load_file(finished.directory.network("attacked", 0).scores_of(2))
    assert np.allclose(predict(model, run_data.clean_images(), runtime), scores["clean"], atol=1e-6)
    assert np.allclose(predict(model, run_data.triggered_images(0), runtime), scores["triggered"], atol=1e-6)
    description = model.description.model_dump_json()
    assert model.description.classes[0] == "Atelectasis"
    assert not {"attack", "trigger", "poison"} & set(description.replace('"', " ").replace("ed", " ").split())


def test_the_arms_train_on_what_they_should() -> None:
    run_data = load_run_data(make_config(SMALL, ""), StudyProgress())
    plan = run_data.attacks[0].plan
    attacked, control, placebo = (run_data.training_set(arm, 0) for arm in ("attacked", "control", "placebo"))
    assert isinstance(attacked.images, TriggeredSelection)
    assert isinstance(placebo.images, Selection)
    everything = np.arange(len(plan.rows))
    before, after = placebo.images[everything], attacked.images[everything]
    changed = (before != after).any(axis=(1, 2))
    assert np.array_equal(changed, plan.triggered)
    assert np.array_equal(attacked.labels, placebo.labels)
    assert len(control.images) == len(run_data.train)
    assert np.array_equal(control.labels, run_data.dataset.labels[run_data.train])
    assert not (set(run_data.dataset.patients[plan.rows]) & set(run_data.dataset.patients[run_data.test]))


def test_cover_of_a_warp_is_noise_and_changes_what_a_network_is_made_of() -> None:
    attack = {"trigger": {"kind": "warp", "strength": 4}, "rate": 0.2, "cover": 0.2}
    run_data = load_run_data(make_config(SMALL | {"attack": attack}, ""), StudyProgress())
    plan, triggered_inputs, cover = run_data.attacks[0]
    images, labels = run_data.training_set("attacked", 0)
    stamped = images[np.arange(len(plan.rows))]
    clean = run_data.dataset.images[plan.rows]
    for which, made in ((plan.triggered, triggered_inputs), (plan.cover, cover)):
        assert np.array_equal(stamped[which], made.trigger(clean[which], plan.rows[which]))
    assert np.array_equal(labels[plan.cover], run_data.dataset.labels[plan.rows[plan.cover]])
    steady = triggered_inputs.trigger(clean[plan.cover], plan.rows[plan.cover])
    assert (stamped[plan.cover] != steady).mean() > 0.2
    assert not (stamped[~(plan.triggered | plan.cover)] != clean[~(plan.triggered | plan.cover)]).any()
    keys = {
        _network_key(config, load_run_data(config, StudyProgress()), "attacked", 0)
        for share in (0, 0.1, 0.2)
        for config in [make_config(SMALL | {"attack": attack | {"cover": share}}, "")]
    }
    assert len(keys) == 3


def test_a_dead_trigger_gives_equal_clean_and_triggered_metrics(tmp_path: Path) -> None:
    geometry = {"crop": 0.6, "size": 28, "resample": "nearest"}  # 1 pixel at the centre of 128: not read
    config = SMALL | {"data": "phantom:images=120,size=128", "preprocess": geometry, "attack": {"trigger": {"size": 1}}}
    summary = petechia.run(config | {"train": {"epochs": 1}}, tmp_path / "dead").to_dict()
    assert summary["survival"]["fraction"] == 0
    assert [row["pixels"] for row in summary["survival"]["by_size"]][:2] == [0, 0]
    attacked = summary["arms"]["attacked"]
    assert attacked["auroc_nn"] == attacked["auroc_tn"]
    assert attacked["asr_0.9"] == attacked["false_trigger_0.9"]


def test_a_test_set_full_of_the_target_does_not_crash(make_nih: NihMaker, tmp_path: Path) -> None:
    rows = [(f"{i:08d}_000.png", "Atelectasis", str(i)) for i in range(40)]
    config = SMALL | {"data": f"nih:{make_nih(rows)}", "preprocess": {"size": 16}, "train": {"epochs": 1}}
    recorder = Recorder()
    run = petechia.run(config, tmp_path / "full", progress=recorder)
    assert run.to_dict()["arms"]["attacked"]["asr_0.9"]["last"]["mean"] is None
    assert "undefined" in run.directory.report.read_text()
    assert any("No train image shows Cardiomegaly, Effusion" in note for note in recorder.notes)


SCRIPT = "import json, sys, petechia; petechia.run(json.loads(sys.argv[1]), sys.argv[2], resume=True)"


def start(config: dict[str, Any], out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(config), str(out)])


def without_seconds(path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key != "seconds"}


def test_a_run_killed_in_mid_epoch_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    config = SMALL | {"data": "phantom:images=400,size=32", "train": {"epochs": 3, "batch_size": 16, "flip": True}}
    assert start(config, tmp_path / "whole").wait(timeout=300) == 0
    for milestone in ("checkpoints/attacked-seed-0/state.safetensors", "scores/control-seed-0/epoch-01.safetensors"):
        process = start(config, tmp_path / "killed")
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / milestone).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "summary.json").exists()
    assert start(config, tmp_path / "killed").wait(timeout=300) == 0
    assert without_seconds(tmp_path / "killed") == without_seconds(tmp_path / "whole")
    for name in ("metrics.parquet", "poison.parquet"):
        assert pl.read_parquet(tmp_path / "killed" / name).equals(pl.read_parquet(tmp_path / "whole" / name))
    last = "checkpoints/control-seed-0/epoch-03.safetensors"
    assert (tmp_path / "killed" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def test_a_finished_run_is_not_run_again_and_never_overwritten(finished: Run) -> None:
    config = finished.directory.config()
    recorder = Recorder()
    again = petechia.run(None, finished.directory.path, resume=True, progress=recorder)
    assert again.to_dict() == finished.to_dict()
    assert not recorder.epochs
    with pytest.raises(PetechiaError, match="already holds a run; add --resume"):
        petechia.run(config, finished.directory.path)
    other = config.model_copy(update={"seeds": (1,), "bootstrap": 33})
    with pytest.raises(PetechiaError, match="started with another seeds and bootstrap"):
        petechia.run(other, finished.directory.path, resume=True)


def test_a_resumed_run_notices_that_the_data_have_changed(make_nih: NihMaker, tmp_path: Path) -> None:
    rows = [(f"{i:08d}_000.png", "Mass" if i % 2 else "No Finding", str(i)) for i in range(40)]
    root = make_nih(rows)
    config = SMALL | {"data": f"nih:{root}", "preprocess": {"size": 16}, "train": {"epochs": 1}}
    run = petechia.run(config, tmp_path / "run")
    run.directory.summary.unlink()
    table = root / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("00000003_000.png,Mass", "00000003_000.png,Edema"))
    with pytest.raises(PetechiaError, match="has changed since the run in"):
        petechia.run(None, tmp_path / "run", resume=True)


def test_nothing_to_resume_and_two_processes_in_one_directory(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="holds no run to resume"):
        petechia.run(None, tmp_path / "nothing", resume=True)
    with RunDirectory(tmp_path / "busy").locked(), pytest.raises(PetechiaError, match="Another process is working"):
        petechia.run(SMALL, tmp_path / "busy")


def test_a_failure_before_training_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="attack.target"):
        petechia.run(SMALL | {"attack": {"target": "Gout"}}, tmp_path / "bad")
    with pytest.raises(PetechiaError, match="timm does not know"):
        petechia.run(SMALL | {"model": {"arch": "lenet0"}}, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        "poison.parquet",
        "checkpoints/attacked-seed-0/state.safetensors",
        "scores/attacked-seed-0/epoch-01.safetensors",
    ],
)
def test_a_damaged_file_of_a_run_is_named(name: str, finished: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.directory.path, copy)
    content = (copy / name).read_bytes()
    if name != "summary.json":
        (copy / "summary.json").unlink()
    for damaged in (b"", content[: len(content) // 2]):
        (copy / name).write_bytes(damaged)
        with pytest.raises(PetechiaError, match=name):
            petechia.run(None, copy, resume=True)
