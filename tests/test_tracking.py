from pathlib import Path
from typing import Any

import pytest

import petechia
from petechia.core.errors import PetechiaError
from petechia.study import Run
from petechia.study.study import Study
from petechia.tracking import Tracker
from tests.conftest import SMALL

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def runs_in(store: str) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("petechia")
    return list(client.search_runs([experiment.experiment_id]))


def test_a_run_is_recorded_once_with_everything_but_images_and_identifiers(finished: Run, store: str) -> None:
    tracker = Tracker(f"mlflow:{store}")
    tracker.record(finished, "all")
    tracker.record(finished, "all")
    (recorded,) = runs_in(store)
    assert recorded.info.run_name == "all"
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["attack.trigger.size"] == "3"
    assert recorded.data.params["train.batch_size"] == "16"
    last = finished.to_dict()["arms"]["attacked"]["auroc_nn"]["last"]["mean"]
    values = [recorded.data.metrics[f"attacked/seed-{seed}/auroc_nn"] for seed in (0, 3)]
    assert sum(values) / 2 == pytest.approx(last)
    client = mlflow.MlflowClient(tracking_uri=store)
    history = client.get_metric_history(recorded.info.run_id, "control/seed-3/auroc_nn")
    assert [point.step for point in history] == [1, 2]
    artefacts = {file.path for file in client.list_artifacts(recorded.info.run_id)}
    assert artefacts == {"config.yaml", "summary.json", "metrics.parquet", "report.html"}
    report = Path(client.download_artifacts(recorded.info.run_id, "report.html")).read_text()
    assert "data:image/png" not in report


def test_the_runs_of_a_study_stand_below_one_parent(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'study.db'}"
    config = SMALL | {"arms": ["attacked"], "train": {"epochs": 1, "batch_size": 16}, "grid": {"attack.rate": [0.1, 0.4]}}
    study: Study = petechia.run_study(config, tmp_path / "rates", track=f"mlflow:{store}")
    petechia.run_study(config, tmp_path / "rates", resume=True, track=f"mlflow:{store}")
    recorded = {run.info.run_name: run for run in runs_in(store)}
    assert set(recorded) == {"rates", *study.runs}
    assert len(runs_in(store)) == 3
    parents = {recorded[name].data.tags["mlflow.parentRunId"] for name in study.runs}
    assert parents == {recorded["rates"].info.run_id}
    assert (tmp_path / "mlflow-artefacts").is_dir()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mlflow", "is not mlflow:URI"),
        ("wandb:project", "is not mlflow:URI"),
        ("mlflow:nosuch://place", "cannot be used"),
        ("mlflow:sqlite:////nowhere/at/all.db", "cannot be used"),
    ],
)
def test_stores_that_cannot_be_used_are_named_before_anything_is_done(target: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match=said):
        petechia.run(SMALL, tmp_path / "run", track=target)
    assert not (tmp_path / "run").exists()
