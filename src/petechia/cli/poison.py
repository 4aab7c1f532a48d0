"""`petechia poison`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petechia.cli.common import FORMS, ConfigOption, Missing, OnError, Preset, ReadingRay, Set, overrides, say


def poison(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"Data source: {FORMS}.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the poisoned dataset.")],
    config: ConfigOption = None,
    set_: Set = None,
    preset: Preset = "desk",
    missing: Missing = None,
    on_error: OnError = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of images and places.")] = 0,
    ray: ReadingRay = None,
) -> None:
    """Write a poisoned copy of a dataset, in its own layout and with the plan, for any other trainer."""
    import petechia
    from petechia.cli.progress import ConsoleProgress
    from petechia.study import load_config

    settings = load_config(config, preset, source, overrides(set_, missing, on_error))
    with ConsoleProgress().live() as progress:
        made = petechia.poison(settings, out, seed=seed, progress=progress, ray=ray)
    cover = f", and {made.cover:,} are cover" if made.cover else ""
    say(f"{made.triggered:,} of {made.images:,} training images carry the trigger{cover}: {out}")
