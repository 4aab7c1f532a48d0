import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import petechia
from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.data import Preprocess
from petechia.models.model import Architecture, create
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
        ("mlflow:nosuch://jane:hunter2@place", "MLflow store nosuch://place cannot be used"),
        ("mlflow:sqlite:////nowhere/at/all.db", "cannot be used"),
    ],
)
def test_stores_that_cannot_be_used_are_named_before_anything_is_done(target: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match=said):
        petechia.run(SMALL, tmp_path / "run", track=target)
    assert not (tmp_path / "run").exists()


def test_the_verdict_of_an_audit_becomes_tags_of_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'registry.db'}")
    client = mlflow.MlflowClient()
    (tmp_path / "m").mkdir()
    model = create(Architecture(arch="test_resnet"), tuple("ABCD"), Preprocess(size=16), 0)
    model.save(tmp_path / "m" / "model.safetensors")
    client.create_registered_model("lung")
    version = str(client.create_model_version("lung", source=str(tmp_path / "m")).version)
    client.set_registered_model_alias("lung", "champion", version)
    client.set_model_version_tag("lung", version, "petechia.classes", "of an earlier audit")
    client.set_model_version_tag("lung", version, "owner", "radiology")
    command = ["audit", "mlflow:lung@champion", "--clean", "phantom:images=40,size=16", "--images", "20", "--quick", "--tag"]
    done = CliRunner().invoke(app, [*command, "--device", "cpu", "--threads", "1", "--out", str(tmp_path / "out")])
    assert done.exit_code in (0, 3, 4), done.output
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["model"]["name"] == f"mlflow:lung/{version}"
    assert f"Tagged: mlflow:lung/{version}, petechia.verdict = {audit['outcome']}" in done.output
    tags = client.get_model_version("lung", version).tags
    flagged = ", ".join(one["name"] for one in audit["classes"] if one["flagged"])
    assert tags.pop("petechia.classes", "") == flagged
    assert tags == {
        "owner": "radiology",
        "petechia.verdict": audit["outcome"],
        "petechia.p-value": f"{min(one['p_value'] for one in audit['classes']):.3g}",
        "petechia.date": audit["date"],
        "petechia.version": petechia.__version__,
        "petechia.sha256": hashlib.sha256((tmp_path / "m" / "model.safetensors").read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("model", ["model.onnx", "mlflow:lung/7"])
def test_a_model_of_no_registry_is_refused_before_the_audit(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = CliRunner().invoke(app, ["audit", model, "--clean", "phantom", "--tag", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "is not mlflow:MODEL/VERSION" in done.output or "set MLFLOW_TRACKING_URI" in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()
