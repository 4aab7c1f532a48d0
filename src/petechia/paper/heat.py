"""Where the attacked model looks, epoch by epoch: Grad-CAM of clean and triggered test images at two layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.compute import Machine
from petechia.explain import cam, localise
from petechia.measure import PatientBootstrap
from petechia.model import Model
from petechia.paper.parts import Cell, heat_cell
from petechia.paper.results import Results
from petechia.study.directory import Arrays, read_arrays, read_table, write_arrays, write_table
from petechia.study.material import Material, gather
from petechia.study.progress import Progress

LAYERS = ("last", "middle")
MOST = 200  # pairs of images that are explained
BATCH = 32
SHOWN = 0  # which of them the figure shows


@dataclass(frozen=True)
class Heat:
    """Maps of one pair of images, and numbers of all.

    Attributes:
        epochs: of training.
        pair: uint8 [2, H, W(, 3)], the clean and the triggered image that are shown.
        box: of the surviving trigger on it: top, left, height, width, in pixels of the input.
        maps: "epoch-layer-clean" or "…-triggered" → float32 [h, w], of that pair.
        numbers: one row for every epoch, layer and pair: `epoch`, `layer`, `patient`, `distance` and `clean_distance` of the
            peak from the trigger in pixels, `energy` and `clean_energy` in its box, `shift` of the centroid, `divergence`.
    """

    epochs: tuple[int, ...]
    pair: NDArray[np.uint8]
    box: tuple[int, int, int, int]
    maps: Arrays
    numbers: pl.DataFrame

    @property
    def complete(self) -> bool:
        """Whether every layer has heat on some triggered image at every epoch: a map can be 0 everywhere."""
        found = self.numbers.filter(pl.col("distance").is_finite())
        return len(found.unique(["epoch", "layer"])) == len(self.epochs) * len(LAYERS)

    @property
    def chance(self) -> float:
        """Mean distance of the input's pixels from the trigger: that of a peak which is anywhere."""
        top, left, height, width = self.box
        rows, columns = (np.arange(side) + 0.5 for side in self.pair.shape[1:3])
        return float(np.hypot(rows[:, None] - (top + height / 2), columns - (left + width / 2)).mean())

    def pairs_with_clean_heat(self, epoch: int, layer: str) -> int:
        """How many clean twins have any heat."""
        return self.numbers.filter(pl.col("clean_distance").is_finite(), epoch=epoch, layer=layer).height

    def mean(self, column: str, epoch: int, layer: str) -> tuple[float, float, float]:
        """Mean over the pairs with its 95 % interval over patients; NaN where undefined."""
        rows = self.numbers.filter(epoch=epoch, layer=layer).filter(pl.col(column).is_finite())
        if rows.is_empty():
            return float("nan"), float("nan"), float("nan")
        values = rows[column].to_numpy()
        weights = PatientBootstrap(rows["patient"].to_numpy().astype(np.str_)).weights.astype(np.float64)
        low, high = np.quantile(weights @ values / np.maximum(weights.sum(axis=1), 1), [0.025, 0.975])
        return float(values.mean()), float(low), float(high)


def heat_of(results: Results, progress: Progress) -> Heat | None:
    """The heat of the run that the design names; computed once and kept in its directory. None without a surviving trigger.

    Raises:
        PetechiaError: the network has no such layers, or a checkpoint is damaged.
    """
    cell = heat_cell(results.design)
    if not results.has(cell) or not results.survival(cell)[0]:
        return None
    directory = results.run(cell)
    arrays, numbers = directory.path / "heat.safetensors", directory.path / "heat.parquet"
    if not (arrays.is_file() and numbers.is_file()):
        maps, table = _explain(results, cell, progress)
        write_arrays(arrays, maps)
        write_table(numbers, table)
    maps, table = read_arrays(arrays), read_table(numbers)
    top, left, height, width = (int(value) for value in maps.pop("box"))
    return Heat(tuple(sorted(table["epoch"].unique())), maps.pop("pair"), (top, left, height, width), maps, table)


def _explain(results: Results, cell: Cell, progress: Progress) -> tuple[Arrays, pl.DataFrame]:
    config = results.config(cell)
    seed = config.seeds[0]
    machine = config.compute.open()
    material = gather(config, progress)
    rows, boxes = _pairs(material, seed)
    clean, triggered = material.clean_images()[rows], material.triggered_images(seed)[rows]
    patients = material.dataset.patients[material.test][rows]
    epochs = sorted(results.metrics(cell).filter(arm="attacked", seed=seed)["epoch"].unique())
    kept: Arrays = {"pair": np.stack([clean[SHOWN], triggered[SHOWN]]), "box": boxes[SHOWN].astype(np.int64)}
    tables = []
    for epoch in epochs:
        progress.phase(f"explaining {cell.name}, epoch {epoch}", 2 * len(rows))
        model = machine.place(Model.load(results.run(cell).network("attacked", seed).checkpoint(epoch)))
        maps = {
            kind: _maps(model, images, material.target, machine, progress)
            for kind, images in (("clean", clean), ("triggered", triggered))
        }
        for layer in LAYERS:
            pair = maps["clean"][layer], maps["triggered"][layer]
            kept |= {f"{epoch}-{layer}-{kind}": maps[kind][layer][SHOWN] for kind in maps}
            found = localise(*pair, boxes[:, :2] + boxes[:, 2:] / 2, boxes, config.preprocess.size)
            columns = {name: getattr(found, name) for name in found.__dataclass_fields__}
            tables.append(pl.DataFrame({"epoch": [epoch] * len(rows), "layer": layer, "patient": patients, **columns}))
    return kept, pl.concat(tables)


def _pairs(material: Material, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Test images without the target on which the trigger survives, spread over the test set, and where it does."""
    clean, triggered = material.clean_images(), material.triggered_images(seed)
    without = np.flatnonzero(material.dataset.labels[material.test, material.target] == 0)
    rows = np.unique(without[np.linspace(0, len(without) - 1, MOST).astype(int)])
    differs = clean[rows] != triggered[rows]
    differs = differs.reshape(*differs.shape[:3], -1).any(axis=3)
    alive = differs.any(axis=(1, 2))
    return rows[alive], np.array([_box(one) for one in differs[alive]])


def _box(differs: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def _maps(
    model: Model, images: NDArray[np.uint8], target: int, machine: Machine, progress: Progress
) -> dict[str, NDArray[np.float32]]:
    parts: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in LAYERS}
    for start in range(0, len(images), BATCH):
        batch = machine.tensor(images[start : start + BATCH])
        for layer, maps in cam(model, batch, target, LAYERS).items():
            parts[layer].append(maps.cpu().numpy())
        progress.advance(len(batch))
    return {layer: np.concatenate(some) for layer, some in parts.items()}
