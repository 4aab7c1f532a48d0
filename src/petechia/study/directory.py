"""The files of a run. Each is written atomically, so an interrupted run resumes after its last complete epoch."""

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
from jinja2 import UndefinedError
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from safetensors.torch import save as save_tensors
from torch import Tensor

from petechia.core.budget import check_file, read_file
from petechia.core.errors import PetechiaError, first_line
from petechia.core.files import locked, refuse_links, write_bytes, write_text
from petechia.data.formats.parquet import read_parquet
from petechia.study.config import Config, make_config, read_yaml

Arrays = dict[str, NDArray[Any]]
CONTENT = (ValueError, LookupError, TypeError, AttributeError, RecursionError, UndefinedError, pl.exceptions.PolarsError)


@dataclass(frozen=True)
class NetworkFiles:
    """The files of a network and its scores, epoch by epoch.

    Attributes:
        checkpoints: folder of the models and of the training state.
        scores: folder of the probabilities for the test images.
    """

    checkpoints: Path
    scores: Path

    def checkpoint(self, epoch: int) -> Path:
        """Return the path of the model after an epoch."""
        return self.checkpoints / f"epoch-{epoch:02d}.safetensors"

    def scores_of(self, epoch: int) -> Path:
        """Return the path of the probabilities for the test images: float32 [N, K], `clean` and one array per triggered set."""
        return self.scores / f"epoch-{epoch:02d}.safetensors"

    @property
    def state(self) -> Path:
        """What the next epoch needs. It is written last: an epoch counts only when this file records it."""
        return self.checkpoints / "state.safetensors"


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run."""

    path: Path

    @property
    def plan(self) -> Path:
        """Plan of the attack: what was done to which training image, for every seed."""
        return self.path / "poison.parquet"

    @property
    def metrics(self) -> Path:
        """Every metric of every epoch, as a tidy table."""
        return self.path / "metrics.parquet"

    @property
    def test(self) -> Path:
        """Ids, patients, true labels and trigger positions of the test images, in the order of the scores."""
        return self.path / "scores" / "test.parquet"

    @property
    def examples(self) -> Path:
        """A few clean and triggered inputs, for the report."""
        return self.path / "examples.safetensors"

    @property
    def heat(self) -> Path:
        """Measurements of heat on pairs of test images: whether the heat is on the trigger."""
        return self.path / "heat.parquet"

    @property
    def heat_maps(self) -> Path:
        """Heat maps and inputs of some of these pairs."""
        return self.path / "heat.safetensors"

    @property
    def summary(self) -> Path:
        """The result as JSON."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The report for readers."""
        return self.path / "report.html"

    def network(self, arm: str, seed: int) -> NetworkFiles:
        """Return the files of an arm and seed; its scores are `clean` and `triggered`."""
        name = f"{arm}-seed-{seed}"
        return NetworkFiles(self.path / "checkpoints" / name, self.path / "scores" / name)

    @property
    def exists(self) -> bool:
        """Whether the folder contains a run."""
        return (self.path / "config.yaml").is_file()

    def start(self, config: Config, environment: dict[str, Any]) -> None:
        """Start a run: write its environment and configuration."""
        write_json(self.path / "environment.json", environment)
        write_text(self.path / "config.yaml", config.to_yaml())

    def config(self) -> Config:
        """Return the configuration of the run.

        Raises:
            PetechiaError: there is no run, its configuration is from another version, or its folder holds a link.
        """
        if not self.exists:
            raise PetechiaError(f"{self.path} holds no run; give the --out folder of an existing one.")
        refuse_links(self.path)
        file = self.path / "config.yaml"
        return make_config(read_yaml(file), str(file))

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder against other processes."""
        return locked(self.path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Report which file of a run is damaged."""
    try:
        yield
    except (OSError, SafetensorError, *CONTENT, pl.exceptions.PanicException) as error:
        raise PetechiaError(
            f"{path} is missing or damaged ({first_line(error)}); restore it, or start a new run in another folder."
        ) from None


@contextmanager
def report_damage(folder: Path) -> Iterator[None]:
    """Report a run as damaged if its files can be read but do not fit together.

    Raises:
        PetechiaError: replaces the errors of the code that uses the files.
    """
    try:
        yield
    except CONTENT as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise PetechiaError(f"The run in {folder} is damaged: its files do not fit together ({reason}); restore it.") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        PetechiaError: the file is missing or damaged. The readers below raise the same.
    """
    with _readable(path):
        content = json.loads(read_file(path, "result_bytes"))
        if not isinstance(content, dict):
            raise TypeError("not a JSON object")
        return content


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write a Parquet file atomically."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    write_bytes(path, buffer.getvalue())


def read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet file."""
    with _readable(path):
        if not path.is_file():
            raise FileNotFoundError(2, "there is no such file", str(path))
        return read_parquet(path)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write a file of arrays atomically."""
    write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_arrays(path: Path) -> Arrays:
    """Read a file of arrays."""
    with _readable(path):
        check_file(path, "run_bytes")
        return load_file(path)


def write_state(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Write a training state atomically."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save_tensors(contiguous, {"state": json.dumps(plain)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a training state."""
    with _readable(path):
        check_file(path, "run_bytes")
    with _readable(path), safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118
