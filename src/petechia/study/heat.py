"""Measure where the attacked model looks, epoch by epoch: heat of clean test images and of their triggered versions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.attack.poisoning import USUAL_TARGET
from petechia.core.errors import PetechiaError
from petechia.core.rows import evenly_spread
from petechia.core.runtime import Runtime
from petechia.measure import THRESHOLDS, PatientBootstrap
from petechia.models.model import Model
from petechia.saliency import Localisation, cam, localise
from petechia.study.config import Config
from petechia.study.directory import Arrays, NetworkFiles, RunDirectory, read_arrays, read_table, write_arrays, write_table
from petechia.study.networks import CLEAN, TRIGGERED
from petechia.study.progress import StudyProgress
from petechia.study.run_data import RunData

LAYERS = ("last", "middle")
KINDS = (CLEAN, TRIGGERED)
BATCH = 32
BATCH_OF_ALL_CLASSES = 8  # memory grows with the number of classes per image
SHOWN = 6  # number of images shown per outcome
THRESHOLD = THRESHOLDS[-1]
OUTCOMES = {
    "turned": f"Turned by the trigger: target absent, score under {THRESHOLD} clean, at least {THRESHOLD} triggered",
    "not turned": f"Not turned: target absent, score under {THRESHOLD} even with the trigger",
    "false trigger": f"False trigger: target absent, score at least {THRESHOLD} without any trigger",
    "target present": "Target present",
}


class Shown(NamedTuple):
    """A test image and its triggered version, with their scores and heat maps at the last epoch.

    Attributes:
        pair: uint8 [2, H, W] or [2, H, W, 3], clean and triggered.
        scores: scores for the target, float32 [2].
        maps: layer → float32 [2, h, w].
    """

    pair: NDArray[np.uint8]
    scores: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Heat:
    """Heat maps of some images, and measurements of many.

    Attributes:
        target: the attacker's target class.
        pair: uint8 [2, H, W] or [2, H, W, 3]: one clean image and its triggered version.
        box: box of the surviving trigger in `pair`: top, left, height, width, in pixels of the input.
        maps: "epoch-layer-clean" or "…-triggered" → float32 [h, w], the map of `pair` for the target.
        shown: outcome → some images with this outcome.
        numbers: one row for every epoch, layer, explained class and pair: `epoch`, `layer`, `class`, `patient` and the fields
            of a `Localisation`. Classes other than the target are explained at the last epoch only.
    """

    target: str
    pair: NDArray[np.uint8]
    box: tuple[int, int, int, int]
    maps: Arrays
    shown: dict[str, list[Shown]]
    numbers: pl.DataFrame

    @property
    def epochs(self) -> tuple[int, ...]:
        """Epochs of training that were explained."""
        return tuple(sorted(self.numbers["epoch"].unique()))

    @property
    def classes(self) -> list[str]:
        """Explained classes, the target first."""
        return [self.target, *sorted(set(self.numbers["class"]) - {self.target})]

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that were explained, the last first; a network may have no middle one."""
        measured = set(self.numbers["layer"])
        return tuple(layer for layer in LAYERS if layer in measured)

    @property
    def pairs(self) -> int:
        """Number of pairs that were measured."""
        return self.of(self.epochs[0], LAYERS[0]).height

    @property
    def complete(self) -> bool:
        """Whether, at every epoch and layer, some triggered image has any heat; a map can be 0 everywhere."""
        return all(self.of(epoch, layer)["distance"].is_finite().any() for epoch in self.epochs for layer in self.layers)

    @property
    def chance(self) -> float:
        """Mean distance of the input's pixels from the trigger: the expected distance of a peak at a random place."""
        top, left, height, width = self.box
        rows, columns = (np.arange(side) + 0.5 for side in self.pair.shape[1:3])
        return float(np.hypot(rows[:, None] - (top + height / 2), columns - (left + width / 2)).mean())

    def of(self, epoch: int, layer: str, name: str | None = None) -> pl.DataFrame:
        """Return the rows of an epoch and layer for a class; by default the target."""
        return self.numbers.filter(pl.col("class") == (name or self.target), epoch=epoch, layer=layer)

    def with_heat(self, epoch: int, layer: str, kind: str, name: str | None = None) -> int:
        """Return the number of clean or triggered images that have any heat."""
        column = "clean_distance" if kind == CLEAN else "distance"
        return int(self.of(epoch, layer, name)[column].is_finite().sum())

    def mean(self, column: str, epoch: int, layer: str, name: str | None = None) -> tuple[float, float, float]:
        """Return the mean over the pairs and its 95 % interval over patients; NaN if undefined."""
        rows = self.of(epoch, layer, name).filter(pl.col(column).is_finite())
        if rows.is_empty():
            return float("nan"), float("nan"), float("nan")
        values = rows[column].to_numpy()
        weights = PatientBootstrap(rows["patient"].to_numpy().astype(np.str_)).weights.astype(np.float64)
        low, high = np.quantile(weights @ values / np.maximum(weights.sum(axis=1), 1), [0.025, 0.975])
        return float(values.mean()), float(low), float(high)


def read_heat(directory: RunDirectory) -> Heat | None:
    """Read what `measure_heat` wrote for a run; None if it wrote nothing.

    Raises:
        PetechiaError: a file is damaged.
    """
    if not (directory.heat_maps.is_file() and directory.heat.is_file()):
        return None
    arrays, numbers = read_arrays(directory.heat_maps), read_table(directory.heat)
    top, left, height, width = (int(value) for value in arrays["box"])
    shown = {outcome: _shown(arrays, outcome) for outcome in OUTCOMES}
    target, pair = directory.config().attack.target or USUAL_TARGET, arrays["pair"]
    return Heat(target, pair, (top, left, height, width), arrays, shown, numbers)


def _shown(arrays: Arrays, outcome: str) -> list[Shown]:
    rows = zip(arrays[f"{outcome}/pairs"], arrays[f"{outcome}/scores"], strict=True)
    return [
        Shown(pair, scores, {layer: arrays[f"{outcome}/{layer}"][row] for layer in LAYERS if f"{outcome}/{layer}" in arrays})
        for row, (pair, scores) in enumerate(rows)
    ]


def measure_heat(directory: RunDirectory, config: Config, run_data: RunData, runtime: Runtime, progress: StudyProgress) -> None:
    """Explain the attacked networks of the first seed and write the files that `read_heat` reads.

    Nothing is written if the trigger survives on no image.

    Raises:
        PetechiaError: a checkpoint is damaged.
    """
    if not config.heat or "attacked" not in config.arms or directory.heat.is_file():
        return
    seed, target = config.seeds[0], run_data.target
    rows, boxes = _surviving(run_data, seed, run_data.without_target(config.heat))
    if not len(rows):
        return
    pairs = _Pairs.of(run_data, seed, rows, boxes)
    files = directory.network("attacked", seed)
    epochs = sorted(int(file.stem.removeprefix("epoch-")) for file in files.scores.glob("epoch-*"))
    kept: Arrays = {"pair": pairs.images[:, 0], "box": boxes[0].astype(np.int64)}
    tables = []
    try:
        for epoch in epochs:
            progress.phase(f"explaining epoch {epoch}", len(rows))
            model = runtime.to_device(Model.load(files.checkpoint(epoch)))
            maps = pairs.maps(model, [target], runtime, progress)
            for layer, (clean, triggered) in maps.items():
                kept |= {f"{epoch}-{layer}-{CLEAN}": clean[0, 0], f"{epoch}-{layer}-{TRIGGERED}": triggered[0, 0]}
            tables.append(pairs.numbers(maps, [target], epoch, run_data))
    except PetechiaError as error:  # a network may have no layer that can be explained
        progress.note(f"Heat is not measured: {error}")
        return
    if others := [index for index in range(len(run_data.dataset.classes)) if index != target]:
        progress.phase(f"explaining all classes of epoch {epochs[-1]}", len(rows))
        tables.append(pairs.numbers(pairs.maps(model, others, runtime, progress), others, epochs[-1], run_data))
    kept |= _outcomes(files, run_data, seed, epochs[-1], model, runtime)
    write_arrays(directory.heat_maps, kept)
    write_table(directory.heat, pl.concat(tables))


class _Pairs(NamedTuple):
    """Clean and triggered test images, uint8 [2, N, H, W(, 3)]; boxes of the surviving trigger, int [N, 4]; patients."""

    images: NDArray[np.uint8]
    boxes: NDArray[np.intp]
    patients: NDArray[np.str_]

    @staticmethod
    def of(run_data: RunData, seed: int, rows: NDArray[np.intp], boxes: NDArray[np.intp]) -> _Pairs:
        images = np.stack([run_data.clean_images()[rows], run_data.triggered_images(seed)[rows]])
        return _Pairs(images, boxes, run_data.dataset.patients[run_data.test][rows])

    def maps(
        self, model: Model, classes: list[int], runtime: Runtime, progress: StudyProgress
    ) -> dict[str, NDArray[np.float32]]:
        """Return layer → float32 [2, N, T, h, w] for T classes."""
        parts: dict[str, list[NDArray[np.float32]]] = {}
        size = BATCH if len(classes) == 1 else BATCH_OF_ALL_CLASSES
        for start in range(0, self.images.shape[1], size):
            batch = self.images[:, start : start + size]
            together = runtime.tensor(batch.reshape(-1, *batch.shape[2:]))
            for layer, maps in cam(model, together, [classes] * len(together)).items():
                parts.setdefault(layer, []).append(maps.cpu().numpy().reshape(*batch.shape[:2], *maps.shape[1:]))
            progress.advance(batch.shape[1])
        return {layer: np.concatenate(some, axis=1) for layer, some in parts.items()}

    def numbers(self, maps: dict[str, NDArray[np.float32]], classes: list[int], epoch: int, run_data: RunData) -> pl.DataFrame:
        """Return where the heat of every map is, one row for each layer, class and pair."""
        centres, size = self.boxes[:, :2] + self.boxes[:, 2:] / 2, self.images.shape[2]
        tables = []
        for layer, (clean, triggered) in maps.items():
            for column, index in enumerate(classes):
                found = localise(clean[:, column], triggered[:, column], centres, self.boxes, size)
                named = {"epoch": [epoch] * len(centres), "layer": layer, "class": run_data.dataset.classes[index]}
                numbers = {field.name: getattr(found, field.name) for field in fields(Localisation)}
                tables.append(pl.DataFrame(named | {"patient": self.patients} | numbers))
        return pl.concat(tables)


def _outcomes(files: NetworkFiles, run_data: RunData, seed: int, epoch: int, model: Model, runtime: Runtime) -> Arrays:
    """Return a few images of every outcome, with their scores and maps."""
    stored = read_arrays(files.scores_of(epoch))
    scores = np.stack([stored[kind][:, run_data.target] for kind in KINDS])
    truth = run_data.dataset.labels[run_data.test, run_data.target]
    high = scores >= THRESHOLD
    members = {
        "turned": (truth == 0) & ~high[0] & high[1],
        "not turned": (truth == 0) & ~high[1],
        "false trigger": (truth == 0) & high[0],
        "target present": truth == 1,
    }
    arrays: Arrays = {}
    for outcome in OUTCOMES:
        eligible = np.flatnonzero(members[outcome])
        rows = eligible[evenly_spread(len(eligible), SHOWN, nearest=False)]
        pairs = _Pairs.of(run_data, seed, rows, np.zeros((len(rows), 4), np.intp))
        arrays |= {f"{outcome}/pairs": pairs.images.swapaxes(0, 1), f"{outcome}/scores": scores[:, rows].T}
        if len(rows):
            maps = pairs.maps(model, [run_data.target], runtime, StudyProgress())
            arrays |= {f"{outcome}/{layer}": both[:, :, 0].swapaxes(0, 1) for layer, both in maps.items()}
    return arrays


def _surviving(run_data: RunData, seed: int, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the test images on which the trigger survives, and the boxes of its remains, int [N, 4]."""
    differs = run_data.clean_images()[rows] != run_data.triggered_images(seed)[rows]
    differs = differs.any(axis=tuple(range(3, differs.ndim)))  # over colours
    alive = differs.any(axis=(1, 2))
    return rows[alive], np.array([_box(one) for one in differs[alive]], np.intp).reshape(-1, 4)


def _box(differs: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
