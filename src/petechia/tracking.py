"""Record in MLflow: finished runs with parameters, metrics of every epoch and artefacts; verdicts on registered models.

Neither images nor identifiers of patients are recorded.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from petechia.core.errors import PetechiaError, first_line, without_credentials
from petechia.core.version import __version__
from petechia.detect.audit.result import AuditResult
from petechia.models.openers.registered import find_version, registry
from petechia.reports import build_report
from petechia.study import Run
from petechia.study.directory import read_json, read_table, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "petechia"
RECORD = "mlflow.json"  # in the folder of a run or study: store → MLflow id, so that nothing is recorded twice
BATCH = 1000  # most metrics that a store accepts in one call
LONGEST = 500  # most characters of a parameter


class Tracker:
    """Writes to one MLflow store.

    Args:
        target: "mlflow:URI", as in mlflow:sqlite:////data/mlflow.db, mlflow:file:///data/mlruns or mlflow:http://host:5000.

    Raises:
        PetechiaError: the target does not have this form, MLflow is not installed, or the store is not available.
    """

    def __init__(self, target: str) -> None:
        kind, _, uri = target.partition(":")
        self.uri = without_credentials(uri)  # in messages and files
        if kind != "mlflow" or not uri:
            raise PetechiaError(f"--track {without_credentials(target)!r} is not mlflow:URI, as in mlflow:sqlite:///mlflow.db.")
        if importlib.util.find_spec("mlflow") is None:
            raise PetechiaError("--track needs MLflow, which is not installed; install petechia[track].")
        if (file := _sqlite_file(uri)) and not file.parent.is_dir():
            raise PetechiaError(f"The MLflow store {self.uri} cannot be used: {file.parent} is not a folder; make it first.")
        try:
            self.client = _client(uri)
            self.experiment = self._find_experiment()
        except Exception as error:
            raise PetechiaError(f"The MLflow store {self.uri} cannot be used ({first_line(error)}); check --track.") from None

    def record_study(self, folder: Path, runs: Mapping[str, Run]) -> None:
        """Record the runs of a study under one parent run.

        Raises:
            PetechiaError: the store rejects them.
        """
        parent = self._recorded(folder)
        if parent is None:
            parent = self._begin(folder.name, {})
            self._remember(folder, parent)
            self.client.set_terminated(parent)
        for name, run in runs.items():
            self.record(run, name, parent)

    def record(self, run: Run, name: str, parent: str | None = None) -> None:
        """Record a finished run, unless it is already recorded.

        Raises:
            PetechiaError: the store rejects it.
        """
        if self._recorded(run.directory.path) is not None:
            return
        try:
            identifier = self._begin(name, {"mlflow.parentRunId": parent} if parent else {})
            self._write(run, identifier)
            self.client.set_terminated(identifier)
        except Exception as error:
            raise PetechiaError(f"The MLflow store {self.uri} rejects the run {name} ({first_line(error)}).") from None
        self._remember(run.directory.path, identifier)

    def _write(self, run: Run, identifier: str) -> None:
        from mlflow.entities import Metric, Param

        settings = _flat(run.directory.config().model_dump(mode="json"))
        self.client.log_batch(identifier, params=[Param(key, str(value)[:LONGEST]) for key, value in settings])
        now = int(time.time() * 1000)
        values = read_table(run.directory.metrics).filter(pl.col("class").is_null()).drop_nulls("value")
        metrics = [
            Metric(f"{row['arm']}/seed-{row['seed']}/{row['metric']}", row["value"], now, row["epoch"])
            for row in values.iter_rows(named=True)
        ]
        for key, value in _flat(run.survival.model_dump(mode="json")):
            if isinstance(value, float):
                metrics.append(Metric(f"survival/{key}", value, now, 0))
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(identifier, metrics=metrics[start : start + BATCH])
        for path in (run.directory.path / "config.yaml", run.directory.summary, run.directory.metrics):
            self.client.log_artifact(identifier, str(path))
        self.client.log_text(identifier, build_report(run.directory, pictures="none"), "report.html")

    def _find_experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        return (
            found.experiment_id if found else self.client.create_experiment(EXPERIMENT, artifact_location=_artefacts(self.uri))
        )

    def _begin(self, name: str, tags: dict[str, str]) -> str:
        return str(self.client.create_run(self.experiment, tags=tags, run_name=name).info.run_id)

    def _recorded(self, folder: Path) -> str | None:
        file = folder / RECORD
        return read_json(file).get(self.uri) if file.is_file() else None

    def _remember(self, folder: Path, identifier: str) -> None:
        file = folder / RECORD
        write_json(file, (read_json(file) if file.is_file() else {}) | {self.uri: identifier})


def tag_version(result: AuditResult) -> dict[str, str]:
    """Tag an audited version of a registered model with the verdict.

    Args:
        result: of the audit of a model that was given as mlflow:MODEL/VERSION or mlflow:MODEL@ALIAS.

    Returns:
        The tags: petechia.verdict ("backdoor", "simple change" or "nothing found"), petechia.p-value (the smallest of all
        classes), petechia.classes (those that are flagged), petechia.date, petechia.version and petechia.sha256.

    Raises:
        PetechiaError: the model is of no registry, or the registry refuses the tags.
    """
    found = find_version(result.model.name)
    flagged = ", ".join(one.name for one in result.flagged)[:LONGEST]
    tags = {
        "petechia.verdict": result.outcome,
        "petechia.p-value": f"{min(one.p_value for one in result.classes):.3g}",
        **({"petechia.classes": flagged} if flagged else {}),
        "petechia.date": str(result.date),
        "petechia.version": __version__,
        "petechia.sha256": result.model.sha256 or "",
    }
    client = registry(result.model.name)
    try:
        if not flagged:  # one of an earlier audit
            client.delete_model_version_tag(found.name, found.version, "petechia.classes")
        for key, value in tags.items():
            client.set_model_version_tag(found.name, found.version, key, value)
    except Exception as error:
        raise PetechiaError(f"The MLflow registry refuses tags of {found} ({first_line(error)}); check your rights.") from None
    return tags


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _artefacts(uri: str) -> str | None:
    """Return a folder beside a SQLite file, not in the current working directory."""
    file = _sqlite_file(uri)
    return (file.parent / "mlflow-artefacts").as_uri() if file else None


def _sqlite_file(uri: str) -> Path | None:
    path = uri.removeprefix("sqlite:///")
    return None if path == uri else Path(path).resolve()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
