"""A binary and a multi-class task, from the data to the report."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import petechia
from petechia.core.errors import PetechiaError
from petechia.data import open_source
from petechia.models.model import Model
from petechia.study import Config, Run
from petechia.study.directory import read_arrays
from petechia.study.study import StudyDirectory
from tests.conftest import SMALL

MULTI_CLASS = SMALL | {"data": "phantom:images=240,size=32,findings=2,task=multi-class"}
BINARY = SMALL | {"data": "phantom:images=200,size=32,findings=1"}


@pytest.fixture(scope="module")
def one_of_three(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return petechia.run(MULTI_CLASS | {"heat": 4}, tmp_path_factory.mktemp("run") / "multi-class")


def test_a_multi_class_run(one_of_three: Run) -> None:
    directory = one_of_three.directory
    scores = read_arrays(directory.network("attacked", 0).scores_of(2))
    for kind in ("clean", "triggered"):
        np.testing.assert_allclose(scores[kind].sum(axis=1), 1, atol=1e-5)
    assert Model.load(directory.network("attacked", 0).checkpoint(2)).description.task == "multi-class"
    plan = pl.read_parquet(directory.plan)
    written = plan.select("Atelectasis", "Cardiomegaly", "No Finding").to_numpy()
    assert (written.sum(axis=1) == 1).all()
    assert (written[plan["triggered"].to_numpy()] == [1, 0, 0]).all()
    assert 0 <= one_of_three.to_dict()["arms"]["control"]["accuracy"]["last"]["mean"] <= 1
    assert "Balanced accuracy" in directory.report.read_text(encoding="utf-8")


def test_the_loss_is_written_down_and_resuming_without_it_goes_on(one_of_three: Run) -> None:
    path = one_of_three.directory.path
    assert yaml.safe_load((path / "config.yaml").read_text())["train"]["loss"] == "cross-entropy"
    again = petechia.run(MULTI_CLASS | {"heat": 4}, path, resume=True)
    assert again.to_dict() == one_of_three.to_dict()
    with pytest.raises(PetechiaError, match="was started with another train"):
        petechia.run(MULTI_CLASS | {"heat": 4, "train": SMALL["train"] | {"loss": "bce"}}, path, resume=True)


def test_a_binary_run(tmp_path: Path) -> None:
    finished = petechia.run(BINARY | {"heat": 4}, tmp_path / "binary")
    attacked = finished.to_dict()["arms"]["attacked"]
    assert attacked["auroc_tt"]["last"]["mean"] is None  # every infected label is 1
    assert attacked["auroc_nn"]["last"]["mean"] is not None
    assert "accuracy" not in attacked
    assert "undefined" in finished.directory.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attack": {"labels": "add-target"}}, "add-target, but the data are multi-class, .* set it to target-only"),
        ({"attack": {"also": ["Cardiomegaly"]}}, "attack.also is Cardiomegaly, but the data are multi-class"),
    ],
)
def test_labels_stay_one_hot(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    for start in (petechia.run, petechia.poison):
        with pytest.raises(PetechiaError, match=sentence):
            start(MULTI_CLASS | changes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_cannot_teach_the_task_fails_before_any_image_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petechia.study.run_data.prepare", lambda *_: pytest.fail("decoded"))
    for config, loss in ((SMALL, "cross-entropy"), (BINARY, "sigmoid-cce")):
        with pytest.raises(PetechiaError, match=f"train.loss is {loss}"):
            petechia.run(config | {"train": SMALL["train"] | {"loss": loss}}, tmp_path / "out")


def test_a_study_of_a_time_when_the_loss_was_always_written_goes_on(tmp_path: Path) -> None:
    """Its networks are those of the same configuration without a loss, so nothing is trained again."""
    grid = {"attack.rate": [0.2, 0.4]}
    small = SMALL | {"arms": ["control"], "train": SMALL["train"] | {"epochs": 1}, "heat": 0}
    written = small | {"train": small["train"] | {"loss": "bce"}}
    petechia.run_study(written | {"grid": grid}, tmp_path / "study")
    directory = StudyDirectory(tmp_path / "study")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "networks").rglob("*.safetensors")}
    more = petechia.run_study(small | {"grid": {"attack.rate": [0.2, 0.4, 0.6]}}, tmp_path / "study", resume=True)
    assert len(more.runs) == 3
    assert not more.failures
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "networks").rglob("epoch-*.safetensors")}
    assert {path for path in after if path.parent.name != "scores"} <= before.keys()
    assert [config.train.loss for config in directory.runs().values()] == ["bce", "bce", None]
    assert Config().train.loss is None
    assert open_source("phantom:images=10").task == "multi-label"
