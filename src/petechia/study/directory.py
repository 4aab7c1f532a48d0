"""The files of a run. Each appears whole or not at all, so a run that dies resumes at its last whole epoch."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock, Timeout
from jinja2 import UndefinedError
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from safetensors.torch import save as save_tensors
from torch import Tensor

from petechia.core.errors import PetechiaError, first_line
from petechia.core.files import write_bytes, write_text
from petechia.study.config import Config, make_config, read_yaml

Arrays = dict[str, NDArray[Any]]
CONTENT = (ValueError, LookupError, TypeError, AttributeError, RecursionError, UndefinedError, pl.exceptions.PolarsError)


@dataclass(frozen=True)
class NetworkFiles:
    """Where a network and its scores are kept, epoch by epoch.

    Attributes:
        checkpoints: folder of the models and of the training state.
        scores: folder of the probabilities for the test images.
    """

    checkpoints: Path
    scores: Path

    def checkpoint(self, epoch: int) -> Path:
        """The model after an epoch."""
        return self.checkpoints / f"epoch-{epoch:02d}.safetensors"

    def scores_of(self, epoch: int) -> Path:
        """Its probabilities for the test images: float32 [N, K], `clean` and one array for every set of triggered images."""
        return self.scores / f"epoch-{epoch:02d}.safetensors"

    @property
    def state(self) -> Path:
        """What the next epoch needs. It is written last: an epoch counts when this file says so."""
        return self.checkpoints / "state.safetensors"


@dataclass(frozen=True)
class RunDirectory:
    """Where a run keeps what it makes."""

    path: Path

    @property
    def plan(self) -> Path:
        """What was done to which training image, for every seed."""
        return self.path / "poison.parquet"

    @property
    def metrics(self) -> Path:
        """Every metric of every epoch, tidy."""
        return self.path / "metrics.parquet"

    @property
    def test(self) -> Path:
        """The test images: ids, patients, true labels, place of the trigger; in the order of the scores."""
        return self.path / "scores" / "test.parquet"

    @property
    def examples(self) -> Path:
        """A few clean and triggered inputs, for the report."""
        return self.path / "examples.safetensors"

    @property
    def heat(self) -> Path:
        """Whether the heat found the trigger: numbers of pairs of test images."""
        return self.path / "heat.parquet"

    @property
    def heat_maps(self) -> Path:
        """Maps and inputs of some of them."""
        return self.path / "heat.safetensors"

    @property
    def summary(self) -> Path:
        """The result in numbers."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The result for people."""
        return self.path / "report.html"

    def network(self, arm: str, seed: int) -> NetworkFiles:
        """The model of an arm and seed, and its scores: `clean` and `triggered`."""
        name = f"{arm}-seed-{seed}"
        return NetworkFiles(self.path / "checkpoints" / name, self.path / "scores" / name)

    @property
    def exists(self) -> bool:
        """Whether there is a run in it."""
        return (self.path / "config.yaml").is_file()

    def start(self, config: Config, environment: dict[str, Any]) -> None:
        """Begin a run."""
        write_json(self.path / "environment.json", environment)
        write_text(self.path / "config.yaml", config.to_yaml())

    def config(self) -> Config:
        """The configuration of the run.

        Raises:
            PetechiaError: there is no run, or it is of another version.
        """
        if not self.exists:
            raise PetechiaError(f"{self.path} holds no run; give the --out folder of an earlier one.")
        file = self.path / "config.yaml"
        return make_config(read_yaml(file), str(file))

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out."""
        return locked(self.path)


@contextmanager
def locked(folder: Path, patience: float = 0) -> Iterator[None]:
    """Keep other processes out of a folder; the system lets go of the lock when this one dies.

    Args:
        folder: made where it is not there.
        patience: seconds to wait for the other process.

    Raises:
        PetechiaError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=patience):
            yield
    except Timeout:
        raise PetechiaError(f"Another process is working in {folder}; wait for it, or choose another --out.") from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which file of a run is damaged."""
    try:
        yield
    except (OSError, SafetensorError, *CONTENT, pl.exceptions.PanicException) as error:
        raise PetechiaError(
            f"{path} is missing or damaged ({first_line(error)}); restore it, or start a new run in another folder."
        ) from None


@contextmanager
def report_damage(folder: Path) -> Iterator[None]:
    """Say that a run is damaged where its files can be read, but do not hold what they should.

    Raises:
        PetechiaError: in place of whatever that makes the code say which goes on with them.
    """
    try:
        yield
    except CONTENT as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise PetechiaError(
            f"The run in {folder} is damaged, for its files do not fit together ({reason}); restore it."
        ) from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        PetechiaError: it is missing or damaged; so with the readers below.
    """
    with _readable(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("not a JSON object")
        return content


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Replace a Parquet file in one step."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    write_bytes(path, buffer.getvalue())


def read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet file."""
    with _readable(path):
        return pl.read_parquet(path)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Replace a file of arrays in one step."""
    write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_arrays(path: Path) -> Arrays:
    """Read a file of arrays."""
    with _readable(path):
        return load_file(path)


def write_state(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Replace a training state in one step."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save_tensors(contiguous, {"state": json.dumps(plain)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a training state."""
    with _readable(path), safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118
