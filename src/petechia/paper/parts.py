"""Lists the runs that each table and figure of the paper needs."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Any, Literal, NamedTuple

from petechia.core.errors import PetechiaError
from petechia.core.yaml_text import load_yaml
from petechia.paper.published import SIZES
from petechia.study.config import Config, load_config
from petechia.study.grid import Runs

Part = Literal["table-1", "table-2", "table-3", "figure-1", "figure-3"]
PARTS: tuple[Part, ...] = ("table-1", "table-2", "table-3", "figure-1", "figure-3")
Place = Literal["center", "random", "input"]  # centre or random place of the file; centre of the prepared image
Loss = Literal["sigmoid-cce", "bce"]
HEAT = 200  # number of image pairs whose heat is measured
# Keys that the parts set themselves.
CHOSEN = (
    *(f"attack.trigger.{key}" for key in ("kind", "size", "location")),
    *("attack.stage", "train.loss", "arms", "heat", "grid"),
)


class Cell(NamedTuple):
    """One run of the reproduction: loss, place and size of the trigger, rate (None: the usual one), purpose."""

    loss: Loss
    place: Place
    size: int
    rate: float | None = None
    heat: bool = False  # for the saliency maps

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        rate = "" if self.rate is None else f"_rate-{self.rate:g}"
        return f"{'heat_' if self.heat else ''}{self.loss}_{self.place}_{self.size}x{self.size}{rate}"


class Design(NamedTuple):
    """A preset of the reproduction.

    Attributes:
        base: configuration of all runs, as a nested mapping.
        heat: settings that differ in the run for the saliency maps; if empty, the usual 3 × 3 run is used.
        losses: losses of Table 1, the main one first; the other parts use only the main one.
        input_stage: whether Table 1 also has a variant in which every trigger survives.
        rates: smaller shares of triggered images, trained in addition to the usual one, under the first seed.
    """

    base: dict[str, Any]
    heat: dict[str, Any]
    losses: tuple[Loss, ...]
    input_stage: bool
    rates: tuple[float, ...]

    @property
    def main(self) -> Loss:
        """The loss of everything except Table 1."""
        return self.losses[0]


def load_design(preset: str) -> Design:
    """Read a preset.

    Raises:
        PetechiaError: there is no preset of this name.
    """
    file = resources.files("petechia.paper").joinpath(f"{preset}.yaml")
    if preset not in ("desk", "paper"):
        raise PetechiaError(f"There is no preset {preset!r} to reproduce; the presets are desk and paper.")
    content = load_yaml(file.read_text(encoding="utf-8"))
    return Design(content["base"], content["heat"], tuple(content["losses"]), content["input_stage"], tuple(content["rates"]))


def cells_of(part: Part, design: Design) -> list[Cell]:
    """Return the runs that a part needs."""
    centre = [Cell(design.main, "center", size) for size in SIZES]
    if part == "table-1":
        cells = [Cell(loss, "center", size) for loss in design.losses for size in SIZES]
        return cells + ([Cell(design.main, "input", size) for size in SIZES] if design.input_stage else [])
    if part == "table-2":
        return centre + [Cell(design.main, "random", size) for size in SIZES]
    if part == "table-3":
        return [Cell(design.main, "center", size) for size in SIZES[2:]]
    if part == "figure-1":
        return [heat_cell(design)]
    return centre + [Cell(design.main, "center", 3, rate) for rate in design.rates]


def heat_cell(design: Design) -> Cell:
    """Return the run whose saliency maps are shown."""
    return Cell(design.main, "center", 3, heat=bool(design.heat))


def _measures_heat(cell: Cell, design: Design) -> bool:
    """Whether heat is measured: in the run for the maps, and in those of Table 1 under the main loss, to compare sizes."""
    return cell.heat or (cell.loss == design.main and cell.place != "random" and cell.rate is None)


def runs_of(parts: Iterable[Part], design: Design, data: str | None, overrides: list[str]) -> Runs:
    """Return all runs of some parts, each once.

    Raises:
        PetechiaError: an override is not allowed, or sets a key that the parts set themselves.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if any(key == chosen or chosen.startswith(f"{key}.") for chosen in CHOSEN):
            raise PetechiaError(
                f"--set {override!r}: the tables and figures set {key} themselves; use petechia run for other values."
            )
    cells = dict.fromkeys(cell for part in parts for cell in cells_of(part, design))
    return {cell.name: _config(cell, design, data, overrides) for cell in cells}


def _config(cell: Cell, design: Design, data: str | None, overrides: list[str]) -> Config:
    layers = [design.base, design.heat] if cell.heat else [design.base]
    base = load_config(layers=layers, data=data, overrides=overrides)
    values: dict[str, Any] = {
        "attack.trigger.size": cell.size,
        "attack.trigger.location": "random" if cell.place == "random" else "center",
        "attack.stage": "input" if cell.place == "input" else "native",
        "train.loss": cell.loss,
        "arms": ["attacked", "control", "placebo"],
        "heat": HEAT if _measures_heat(cell, design) else 0,
    }
    if cell.rate is not None:
        values |= {"attack.rate": cell.rate, "arms": ["attacked", "control"], "seeds": base.seeds[:1]}
    if cell.heat:
        values |= {"arms": ["attacked"], "seeds": base.seeds[:1]}
    return base.with_values(values, f"the run {cell.name}")
