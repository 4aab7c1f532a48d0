"""The report of a run: one self-contained HTML file for readers who do not know the paper."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import NDArray

from petechia.attack import make_triggered_inputs
from petechia.core.errors import PetechiaError
from petechia.data import open_source
from petechia.data.formats.images import encode_jpeg, encode_png
from petechia.data.levels import in_colour
from petechia.data.preparation import prepare
from petechia.data.sources.registry import without_folders
from petechia.reports import figures
from petechia.reports.tables import heat_rows, number, percent, result_rows, verdict
from petechia.saliency.overlays import overlay
from petechia.study.config import Config
from petechia.study.directory import RunDirectory, read_arrays, read_json, read_table, report_damage
from petechia.study.heat import KINDS, OUTCOMES, Heat, Shown, read_heat
from petechia.study.result import Run

Pictures = Literal["own", "phantom", "none"]
TILE = 160  # smallest side of an image in a strip, in pixels
ARMS = {
    "attacked": "Attacked: trained on the poisoned images",
    "control": "Control: trained without poison, tested on the same images",
    "placebo": "Placebo: trained with the attacker's labels, but without the trigger",
}


def build_report(directory: RunDirectory, pictures: Pictures = "own") -> str:
    """Build the report of a finished run as HTML. For arguments and errors, see `report_content`."""
    with report_damage(directory.path):
        return page_template("petechia.reports", "template.html").render(report_content(directory, pictures))


def report_content(directory: RunDirectory, pictures: Pictures = "own") -> dict[str, Any]:
    """Return the values that `body.html` shows.

    Args:
        directory: directory of the run.
        pictures: "own" shows images of the run's test set. "phantom" shows the same attack on drawn images, and only the
            name of the data's folder, so that the report can be shared. "none" shows no image.

    Raises:
        PetechiaError: the run is not finished.
    """
    config = directory.config()
    if not directory.summary.is_file():
        raise PetechiaError(f"The run in {directory.path} is not finished; finish it first, with --resume.")
    run = Run.read(directory)
    if pictures == "phantom":
        shown = without_folders(config.data)
        config, run = config.model_copy(update={"data": shown}), run.model_copy(update={"data": shown})
    metrics = read_table(directory.metrics)
    test = read_table(directory.test)
    classes = [name for name in test.columns if name in set(metrics["class"].drop_nulls())]
    return {
        "config": config,
        "config_yaml": config.to_yaml(),
        "environment": read_json(directory.path / "environment.json"),
        "summary": run,
        "verdict": verdict(run),
        "arms": {arm: ARMS[arm] for arm in run.arms},
        "rows": result_rows(run),
        "curves": figures.svg(figures.curves(metrics)),
        "roc": figures.svg(figures.roc(_roc_curves(directory, config, test, classes))),
        "per_class": figures.svg(figures.per_class(metrics, {name: int((test[name] == 1).sum()) for name in classes})),
        "pictures": _pictures(directory, config, run, pictures),
        "heat": _heat_of(read_heat(directory), pictures == "own"),
        "from_phantom": pictures == "phantom" and not config.data.startswith("phantom"),
    }


def page_template(package: str, name: str) -> Template:
    """Return a template of a package. It escapes all values, and has this package's styles and filters."""
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("petechia.reports", ".")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "number": number,
        "percent": percent,
        "svg": partial(_data_uri, "image/svg+xml"),
        "png": partial(_data_uri, "image/png"),
        "jpeg": partial(_data_uri, "image/jpeg"),
    }
    return environment.get_template(name)


def _data_uri(kind: str, content: bytes) -> str:
    """Return a picture as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _roc_curves(
    directory: RunDirectory, config: Config, test: pl.DataFrame, classes: list[str]
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return scores and labels of the last epoch under the first seed."""
    seed = config.seeds[0]
    labels = test.select(classes).to_numpy().astype(np.int8)
    attack = config.attack
    infected = attack.infected(labels, tuple(classes))
    bare = ~attack.trigger.shown(labels, tuple(classes))
    able = attack.trigger.eligible(labels, tuple(classes))
    pairs: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for arm in ("attacked", "control"):
        if arm in config.arms:
            last = sorted(directory.network(arm, seed).scores.glob("epoch-*.safetensors"))[-1]
            scores = read_arrays(last)
            pairs[f"{arm} NN"] = (scores["clean"][bare], labels[bare])
            if arm == "attacked":
                pairs["attacked TT"] = (scores["triggered"][able], infected[able])
                pairs["attacked TN"] = (scores["triggered"][able], labels[able])
    return pairs


def _pictures(directory: RunDirectory, config: Config, run: Run, pictures: Pictures) -> list[dict[str, bytes]]:
    if pictures == "none":
        return []
    examples = _drawn_examples(config, run) if pictures == "phantom" else read_arrays(directory.examples)
    return [
        {
            "clean": encode_png(clean),
            "triggered": encode_png(triggered),
            "difference": encode_png(figures.magnified_difference(clean, triggered)),
        }
        for clean, triggered in zip(examples["clean"], examples["triggered"], strict=True)
    ]


def _heat_of(heat: Heat | None, show_images: bool) -> dict[str, Any] | None:
    """Return what the page shows of the heat. Without images, only the numbers are shown."""
    if heat is None:
        return None
    last = heat.epochs[-1]
    return {
        "target": heat.target,
        "pairs": heat.pairs,
        "layers": heat.layers,
        "rows": heat_rows(heat, last),
        "curves": figures.svg(figures.heat_curves(heat)),
        "by_class": figures.svg(figures.heat_by_class(heat)) if len(heat.classes) > 1 else None,
        "outcomes": [(text, [_strip(one) for one in heat.shown[key]]) for key, text in OUTCOMES.items()] if show_images else [],
    }


def _strip(shown: Shown) -> tuple[bytes, str]:
    """Return a strip of the clean image, its heat at both layers, the triggered version and its heat; and its caption."""
    tiles = []
    for row, image in enumerate(shown.pair):
        larger = image.repeat(-(-TILE // len(image)), axis=0).repeat(-(-TILE // len(image)), axis=1)
        plain = in_colour(larger)
        tiles += [plain, *(overlay(larger, shown.maps[layer][row]) for layer in shown.maps)]
    gap = np.full((len(tiles[0]), 4, 3), 255, np.uint8)
    cold = [f"{kind}, {layer}" for row, kind in enumerate(KINDS) for layer in shown.maps if not shown.maps[layer][row].any()]
    words = f"Score {shown.scores[0]:.3f} clean, {shown.scores[1]:.3f} triggered." + (
        f" No heat: {'; '.join(cold)}." if cold else ""
    )
    return encode_jpeg(np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)), words


def _drawn_examples(config: Config, run: Run, count: int = 4) -> dict[str, NDArray[np.uint8]]:
    """Return examples of the attack on drawn images of the data's native size."""
    catalog = open_source(f"phantom:images={count},size={max(run.images.native_shape)}")
    dataset, catalog, _ = prepare(catalog, config.preprocess)
    positions = config.attack.positions(dataset, config.preprocess, config.seeds[0])
    triggered_inputs = make_triggered_inputs(
        catalog, dataset, config.preprocess, config.attack.trigger, positions, config.attack.stage
    )
    clean = np.array(dataset.images)
    return {"clean": clean, "triggered": triggered_inputs.trigger(clean, np.arange(count))}
