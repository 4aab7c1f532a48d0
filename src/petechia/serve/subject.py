"""What the viewer is about: the networks of a run, or one model, and the images at hand."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from petechia.attack.trigger import Patch
from petechia.compute import Machine
from petechia.data import Catalog, open_source
from petechia.data.levels import Levels
from petechia.data.preprocess import Box
from petechia.errors import PetechiaError
from petechia.explain import Explanation, explain
from petechia.model import Description, Model
from petechia.serve.pictures import Picture
from petechia.study.config import Config
from petechia.study.directory import RunDirectory, read_arrays, read_table

MODELS = 3  # kept in memory
LAYERS = ("last", "middle")
METHODS = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam")  # that answer at once


class Stamp(NamedTuple):
    """A trigger: its top left corner in pixels of the attack's stage, side and grey level."""

    row: int
    column: int
    size: int
    value: int


class Reading(NamedTuple):
    """What a model says of an image, clean and with stamps, and where it looks.

    Attributes:
        target: the explained class.
        scores: float32 [1 or 2, K], probabilities.
        maps: layer → float32 [1 or 2, h, w].
        seen: uint8 [1 or 2, S, S], what the model sees.
        changed: in how many of its pixels the stamps show.
    """

    target: int
    scores: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]
    seen: NDArray[np.uint8]
    changed: int


class Subject:
    """A run or a model file.

    Attributes:
        path: of it.
        run: its directory; None for a model file.
        config: of the run; None for a model file.
    """

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path = path
        self.machine = machine
        self.run: RunDirectory | None = None
        self.config: Config | None = None
        if path.is_dir():
            self.run, self.config = _open_run(path)
        self._lock = threading.Lock()  # a model is explained by one thread at a time
        self._load = lru_cache(MODELS)(self._load_now)
        self.networks = self._networks()
        arm, seed = next(iter(self.networks))
        self.description: Description = self._model(arm, seed, self.networks[arm, seed][-1]).description
        self.catalog, self.notice = self._open_data()
        self.test: pl.DataFrame | None = read_table(self.run.test) if self.run else None

    def _networks(self) -> dict[tuple[str, int], list[int]]:
        """Arm and seed → epochs."""
        if self.run is None or self.config is None:
            return {("model", 0): [0]}
        found: dict[tuple[str, int], list[int]] = {}
        for seed in self.config.seeds:
            for arm in self.config.arms:
                files = self.run.network(arm, seed).checkpoints.glob("epoch-*.safetensors")
                if epochs := sorted(int(file.stem.removeprefix("epoch-")) for file in files):
                    found[arm, seed] = epochs
        if not found:
            raise PetechiaError(f"The run in {self.path} has no trained epoch yet; wait for the first.")
        return found

    def _model(self, arm: str, seed: int, epoch: int) -> Model:
        if epoch not in self.networks.get((arm, seed), []):
            raise PetechiaError(f"There is no epoch {epoch} of {arm}, seed {seed}; choose another.")
        return self._load(arm, seed, epoch)

    def _load_now(self, arm: str, seed: int, epoch: int) -> Model:
        path = self.run.network(arm, seed).checkpoint(epoch) if self.run else self.path
        return self.machine.place(Model.load(path)).eval()

    def _open_data(self) -> tuple[Catalog | None, str]:
        if self.config is None:
            return None, ""
        try:
            return open_source(self.config.data, self.config.missing), ""
        except PetechiaError as error:
            return None, f"The run's data cannot be opened, so a few prepared images stand for them. {error}"

    @property
    def trigger(self) -> Patch:
        """The run's, or the paper's."""
        return self.config.attack.trigger if self.config else Patch()

    @property
    def stage(self) -> str:
        """At which the attack stamps."""
        return self.config.attack.stage if self.config else "native"

    @property
    def target(self) -> int | None:
        """The class that the attacker wants."""
        return self.config.attack.target_index(self.description.classes) if self.config else None

    @property
    def test_images(self) -> int:
        """How many there are to choose from."""
        if self.catalog is not None and self.test is not None:
            return self.test.height
        return len(read_arrays(self.run.examples)["clean"]) if self.run and self.run.examples.is_file() else 0

    def without_target(self) -> list[int]:
        """Positions of the test images that do not show the target."""
        if self.catalog is None or self.test is None or self.config is None:
            return list(range(self.test_images))
        return np.flatnonzero(self.test[self.config.attack.target].to_numpy() == 0).tolist()

    def test_image(self, position: int) -> Picture:
        """Read one.

        Raises:
            PetechiaError: there is none, or it cannot be read.
        """
        if not 0 <= position < self.test_images or self.run is None or self.config is None or self.test is None:
            raise PetechiaError(f"There is no test image {position + 1}; there are {self.test_images}.")
        if self.catalog is None:
            clean = read_arrays(self.run.examples)["clean"][position]
            return Picture(_levels(clean), prepared=True)
        row = self.test.row(position, named=True)
        (found,) = np.flatnonzero(self.catalog.ids == row["id"])[:1]
        (image,) = self.catalog.reader.read(np.array([found]))
        if isinstance(image, PetechiaError):
            raise image
        findings = tuple(name for name in self.description.classes if row[name] == 1)
        seed = self.config.seeds[0]
        return Picture(_levels(image), findings=findings, place=(row[f"row_seed_{seed}"], row[f"column_seed_{seed}"]))

    def kept(self, picture: Picture) -> Box:
        """The part of a picture that the model sees."""
        height, width = picture.levels.values.shape
        return Box(0, 0, height, width) if picture.prepared else self.description.preprocess.kept(height, width)

    def stamp_unit(self, picture: Picture) -> float:
        """Pixels of the picture to one of the attack's stage."""
        if self.stage == "native" or picture.prepared:
            return 1.0
        return self.kept(picture).height / self.description.preprocess.size

    def read(
        self, picture: Picture, stamps: list[Stamp], network: tuple[str, int, int], target: int | None, method: str
    ) -> Reading:
        """Classify and explain a picture, and, if there are stamps, its triggered twin, in one pass.

        Raises:
            PetechiaError: a stamp does not fit, or there is no such network, class or method.
        """
        if method not in METHODS:
            raise PetechiaError(f"{method!r} is not a method; the methods are {', '.join(METHODS)}.")
        seen = self._seen(picture, stamps)
        changed = int((seen[0] != seen[-1]).reshape(*seen.shape[1:3], -1).any(axis=2).sum())
        with self._lock:
            model = self._model(*network)
            batch = self.machine.tensor(seen)
            if target is None:
                target = int(self._explain(model, batch, None, method).targets[-1])
            found = self._explain(model, batch, target, method)
        maps = {layer: one.cpu().numpy() for layer, one in found.maps.items()}
        return Reading(target, found.logits.sigmoid().cpu().numpy(), maps, seen, changed)

    def _explain(self, model: Model, batch: Tensor, target: int | None, method: str) -> Explanation:
        with self.machine.autocast():
            return explain(model, batch, target, LAYERS, method)

    def _seen(self, picture: Picture, stamps: list[Stamp]) -> NDArray[np.uint8]:
        """What the model sees, clean and, if there are stamps, triggered."""
        grey, preprocess = picture.levels.grey(), self.description.preprocess
        clean = grey if picture.prepared else preprocess(grey)
        if not stamps:
            return np.stack([clean])
        if self.stage == "native" and not picture.prepared:
            return np.stack([clean, preprocess(_stamped(grey, stamps))])
        return np.stack([clean, _stamped(clean, stamps)])


def _open_run(path: Path) -> tuple[RunDirectory, Config]:
    if (path / "study.json").is_file():
        runs = sorted(one.name for one in (path / "runs").glob("*") if one.is_dir())
        hint = f"{path / 'runs' / runs[0]}" if runs else "once there is one"
        raise PetechiaError(f"{path} is a study of {len(runs)} runs; serve one of them, such as {hint}.")
    run = RunDirectory(path)
    return run, run.config()


def _levels(image: NDArray[np.uint8]) -> Levels:
    grey = image if image.ndim == 2 else image.mean(axis=2).round()
    return Levels(grey.astype(np.float32), 0, 255)


def _stamped(image: NDArray[np.uint8], stamps: list[Stamp]) -> NDArray[np.uint8]:
    for row, column, size, value in stamps:
        trigger = Patch(size=size, value=value, location=(row, column))
        height, width = image.shape[:2]
        place = trigger.place(height, width, Box(0, 0, height, width), (0, 0))
        image = trigger.stamp(image[None], np.array([place]))[0]
    return image
