"""The networks of a run, or one model: which there are, and the ones in memory."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from petechia.core.errors import PetechiaError, printable
from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.models.openers import open_classifier
from petechia.viewer.run import ViewedRun

LOGGER = logging.getLogger(__name__)
MOST_LOADED = 3  # networks in memory
ALONE = "model"  # the arm that stands for a model without a run


class Network(NamedTuple):
    """One trained network: its arm, its seed and the epoch after which it was saved."""

    arm: str
    seed: int
    epoch: int


class Networks:
    """Which networks there are; they are loaded when needed, and the ones used last stay in memory.

    Attributes:
        available: arm and seed → trained epochs, in ascending order; `refresh` looks again.
    """

    def __init__(self, name: str, run: ViewedRun | None, runtime: Runtime) -> None:
        """Look which networks there are.

        Args:
            name: the run directory, or a model as `open_classifier` takes it.
            run: the run in that directory; None for a model.
            runtime: where the networks compute.

        Raises:
            PetechiaError: no epoch has been trained yet.
        """
        self._name, self._run, self._runtime = name, run, runtime
        self._load = lru_cache(MOST_LOADED)(self._load_now)
        self._loading = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Look again: a run may have trained more epochs.

        Raises:
            PetechiaError: no epoch has been trained yet.
        """
        self.available = self._run.trained_epochs() if self._run else {(ALONE, 0): [0]}
        if not self.available:
            raise PetechiaError(f"The run in {self._name} has no trained epoch yet; wait until the first one is done.")

    def first(self) -> Network:
        """The last epoch of the first arm and seed."""
        (arm, seed), epochs = next(iter(self.available.items()))
        return Network(arm, seed, epochs[-1])

    def load(self, network: Network) -> Classifier:
        """The network, from memory or from its file.

        Raises:
            PetechiaError: there is no such network, its file cannot be read, or it is a black box.
        """
        arm, seed, epoch = network
        if epoch not in self.available.get((arm, seed), []):
            raise PetechiaError(f"There is no epoch {epoch} of {printable(arm)}, seed {seed}; choose another.")
        with self._loading:
            return self._load(network)

    def _load_now(self, network: Network) -> Classifier:
        began = time.perf_counter()
        name = self._file(network)
        found = open_classifier(name, self._runtime)
        if found.network is None:
            raise PetechiaError(
                f"{name} is a black box: only its scores are known. The viewer needs the layers of a network to show where it "
                "looks; use petechia explain --method occlusion or petechia screen, which work with scores alone."
            )
        LOGGER.info("loaded %s, seed %d, epoch %d in %.1f s", *network, time.perf_counter() - began)
        return replace(found, name="This network")

    def _file(self, network: Network) -> str:
        if self._run is None:
            return self._name
        return str(self._run.directory.network(network.arm, network.seed).checkpoint(network.epoch))
