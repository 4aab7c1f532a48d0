"""Fixtures and helpers that several tests use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

import petechia
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Catalog, Dataset, Preprocess
from petechia.models.classifier import Classifier
from petechia.study import Run

SHARED = Path(__file__).parents[2] / "shared"
TORTURE = bool(os.environ.get("PETECHIA_TORTURE"))  # make torture: the same tests with many more cases

settings.register_profile("suite", max_examples=25, deadline=None, database=None, derandomize=True)
settings.register_profile("torture", max_examples=500, deadline=None, database=None, print_blob=True)
settings.load_profile("torture" if TORTURE else "suite")

# Pin each worker to its own core: the threads of two torch jobs on the same core would spin against each other.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):
    free = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {free[int(WORKER.removeprefix("gw")) % len(free)]})

NihMaker = Callable[..., Path]


class Steps(list[int]):
    """A progress that records the steps by which it advances."""

    def phase(self, name: str, total: int = 0) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        self.append(count)


# A run that takes a second: timm's tiny test network on tiny phantoms.
SMALL: dict[str, Any] = {
    "data": "phantom:images=160,size=32",
    "preprocess": {"size": 32},
    "model": {"arch": "test_resnet"},
    "train": {"epochs": 2, "batch_size": 16},
    "bootstrap": 20,
}


# The paper's geometry at a small size: 1 × 1 and 2 × 2 leave nothing, 3 × 3 leaves 1 pixel, 4 × 4 leaves 4.
DYING: dict[str, Any] = SMALL | {
    "data": "phantom:images=160,size=146",
    "preprocess": {"crop": 0.6, "size": 32, "resample": "nearest"},
}


def unasked(*classes: str, size: int = 16, colour: bool = False) -> Classifier:
    """Return a model that is never called: only its input and its classes matter."""
    runtime = Compute(device="cpu", precision="fp32", threads=1).start()
    return Classifier("unasked", classes, Preprocess(size=size), lambda images: images, runtime, colour=colour)


class InMemory:
    """A reader of images in memory; the number distinguishes it from another reader with the same images."""

    def __init__(self, images: Sequence[NDArray[np.uint8]], number: int = 0) -> None:
        self.images = images
        self.number = number

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        return (self.images[int(row)] for row in rows)

    def take(self, rows: NDArray[np.intp]) -> InMemory:
        return InMemory([self.images[int(row)] for row in rows], self.number)

    def fingerprint(self) -> str:
        return f"{self.number} {[(image.shape, image.tobytes().hex()) for image in self.images]}"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PETECHIA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of all arms under two seeds."""
    everything = SMALL | {"arms": ["attacked", "control", "placebo"], "seeds": [0, 3]}
    return petechia.run(everything, tmp_path_factory.mktemp("run") / "all")


@pytest.fixture(scope="session")
def nih_sample() -> Path:
    """The folder of the real NIH files, if it exists."""
    folder = SHARED / "nih-sample"
    if not folder.is_dir():
        pytest.skip(f"the real NIH sample is not in {folder}")
    return folder


def problem(catalog: Catalog, row: int = 0) -> str:
    """What is said of an image that cannot be decoded."""
    (found,) = catalog.reader.read(np.array([row]))
    assert isinstance(found, PetechiaError)
    return str(found)


def decoded(catalog: Catalog, *rows: int) -> NDArray[np.uint8]:
    """Return some images of a catalog, all of the same size."""
    images = list(catalog.reader.read(np.array(rows)))
    return np.stack([image for image in images if isinstance(image, np.ndarray)])


@pytest.fixture
def make_nih(tmp_path: Path) -> NihMaker:
    """Return a function that writes a small dataset in NIH's layout: rows of (file name, findings, patient)."""

    def make(
        rows: Sequence[tuple[str, str, str]],
        folder: str = "nih",
        header: str = "Image Index,Finding Labels,Patient ID",
        images: str = "images",
        size: int = 16,
        absent: Sequence[str] = (),
    ) -> Path:
        root = tmp_path / folder
        (root / images).mkdir(parents=True)
        rng = np.random.default_rng(0)
        for name, _, _ in rows:
            if name.endswith(".png") and "/" not in name and name not in absent:
                Image.fromarray(rng.integers(60, 200, (size, size), dtype=np.uint8)).save(root / images / name)
        lines = [header, *(",".join(row) for row in rows)]
        (root / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return root

    return make


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """Return a function that makes random images and labels: two images per patient, three quarters for training."""

    def make(count: int = 40, size: int = 16, classes: int = 3, channels: int = 0, seed: int = 0) -> Dataset:
        rng = np.random.default_rng(seed)
        shape = (count, size, size, channels) if channels else (count, size, size)
        images: NDArray[np.uint8] = rng.integers(1, 255, shape, dtype=np.uint8)
        return Dataset(
            classes=tuple("ABCDEFGH"[:classes]),
            ids=np.array([f"{i // 2:08d}_{i % 2:03d}.png" for i in range(count)]),
            patients=np.array([f"{i // 2:08d}" for i in range(count)]),
            split=np.where(np.arange(count) < count * 3 // 4, "train", "test"),
            labels=(rng.random((count, classes)) < 0.3).astype(np.int8),
            images=images,
            shapes=np.full((count, 2), size, np.int32),
        )

    return make
