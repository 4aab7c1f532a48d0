"""Expand a grid to its runs, and find the networks that the runs need; runs share identical networks."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petechia.attack import TriggeredSelection
from petechia.core.errors import PetechiaError
from petechia.study.config import Arm, Config
from petechia.study.networks import CLEAN, epoch_work
from petechia.study.run_data import RunData

Runs = dict[str, Config]  # name of a run, also of its folder → its configuration
MATTERS: Any = {  # settings that affect a network, besides its training images and labels
    **dict.fromkeys(("data", "preprocess", "model", "train", "on_error"), True),
    "compute": {"device", "precision", "deterministic"},
}


def expand(config: Config) -> Runs:
    """Return the runs of a study: every combination of the grid's values.

    Raises:
        PetechiaError: a value is not allowed, or two runs are the same.
    """
    base = config.model_copy(update={"grid": {}})
    runs: Runs = {}
    for values in product(*config.grid.values()):
        chosen = dict(zip(config.grid, values, strict=True))
        name = run_name(chosen, config.grid)
        run = base.with_values(chosen, f"the grid ({name})")
        if run in runs.values() or name in runs:
            raise PetechiaError(f"The grid contains the same run twice ({name}); list every value once.")
        runs[name] = run
    return runs


def run_name(chosen: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return a name that is safe for a folder: the last part of every key, and its value."""
    lasts = Counter(key.rpartition(".")[2] for key in keys)
    parts = []
    for key, value in chosen.items():
        last = key.rpartition(".")[2]
        label = last if lasts[last] == 1 else key
        text = value if isinstance(value, str) else json.dumps(value)
        parts.append(f"{label}-{re.sub(r'[^A-Za-z0-9.=-]+', '-', text).strip('-.')}")
    return "_".join(parts)


@dataclass
class NetworkTask:
    """One network to train, for all the runs that need it.

    Attributes:
        key: digest of everything that the network depends on; also the name of its folder.
        config: configuration of the first run that needs the network.
        arm: arm of that run.
        seed: seed of that run.
        triggered: digest → configuration of a run on whose triggered test images the network must be scored.
        needed_by: name of a run, its arm, and the digest of its triggered test images ("clean" if no pixel differs).
        train: number of training images.
        test: number of test images.
    """

    key: str
    config: Config
    arm: Arm
    seed: int
    train: int
    test: int
    triggered: dict[str, Config] = field(default_factory=dict)
    needed_by: list[tuple[str, Arm, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Display name: the network's name in the first run."""
        return f"{self.needed_by[0][0]}: {self.arm}, seed {self.seed}"

    @property
    def work(self) -> float:
        """Cost of the whole training, in predictions."""
        return self.config.train.epochs * epoch_work(self.train, self.test, len(self.triggered))


def add_tasks(tasks: dict[str, NetworkTask], name: str, config: Config, run_data: RunData) -> None:
    """Add the networks of a run to those that are to be trained.

    A network depends on its training pixels and labels, not on the name of the attack. So all triggers share a control;
    and if no pixel of a trigger survives, the attacked network and the placebo are the same.

    Args:
        tasks: tasks by key; modified in place.
        name: name of the run.
        config: configuration of the run.
        run_data: data of the run.
    """
    for seed in config.seeds:
        images = digest(*_changes(run_data.triggered_images(seed)))
        for arm in config.arms:
            key = _network_key(config, run_data, arm, seed)
            train = len(run_data.training_set(arm, seed).images)
            task = tasks.setdefault(key, NetworkTask(key, config, arm, seed, train, len(run_data.test)))
            task.needed_by.append((name, arm, images))
            if images != CLEAN:
                task.triggered.setdefault(images, config)


def _network_key(config: Config, run_data: RunData, arm: Arm, seed: int) -> str:
    images, labels = run_data.training_set(arm, seed)
    rows = getattr(images, "rows")  # noqa: B009
    changes = _changes(images) if isinstance(images, TriggeredSelection) else ()
    held_out = run_data.dataset.rows("validation")
    settings = config.model_dump(mode="json", include=MATTERS)
    task = run_data.dataset.task
    extra = [] if task == "multi-label" else [task]  # networks from before other tasks existed keep their keys
    depends_on = json.dumps([settings, seed, run_data.catalog.reader.fingerprint(), *extra], sort_keys=True)
    return digest(np.frombuffer(depends_on.encode(), np.uint8), rows, labels, held_out, *changes)[:16]


def _changes(images: TriggeredSelection) -> tuple[NDArray[Any], ...]:
    """Return which pixels of a selection differ from the clean ones, and their values; empty if none differs."""
    found: list[NDArray[Any]] = []
    for which, triggered_inputs in images.stamped:
        rows = images.rows[which]
        if triggered_inputs.changed(rows).any():
            found += which, *triggered_inputs.changes(rows)
    return tuple(found)


def digest(*arrays: NDArray[Any]) -> str:
    """Return one digest of all arrays together; "clean" for none."""
    if not arrays:
        return CLEAN
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.dtype.str}{array.shape}".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
