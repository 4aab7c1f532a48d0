"""The finished models of a zoo, each with its ground truth and the images that a detector is fitted to and evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.attack import TriggeredSelection
from petechia.attack.poisoning import USUAL_TARGET
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.data.dataset import Images, Selection
from petechia.models.classifier import Classifier
from petechia.models.model import Model
from petechia.study.config import Config
from petechia.study.directory import RunDirectory
from petechia.study.progress import StudyProgress
from petechia.study.result import Run
from petechia.study.run_data import RunData, load_run_data
from petechia.study.study import StudyDirectory
from petechia.zoo.design import Half
from petechia.zoo.result import Zoo, ZooModel

CLEAN = 100  # number of test images that a detector may use; it is evaluated on the others
TOOK = 0.5  # a backdoor took if its ASR(0.9) exceeds the control's by at least this much


class Specimen(NamedTuple):
    """A model of the zoo.

    Attributes:
        name: name of its run; for a clean model, the first run that has it as the control.
        half: half that it belongs to.
        arm: "attacked" or "control".
        directory: directory of the run.
        config: configuration of the run.
        asr: ASR(0.9) of the run's attack on this model.
        excess: ASR(0.9) of the attacked model minus that of the control; 0 for a clean model.
    """

    name: str
    half: Half
    arm: str
    directory: RunDirectory
    config: Config
    asr: float
    excess: float

    @property
    def backdoored(self) -> bool:
        """Whether its training set was poisoned and the backdoor took."""
        return self.excess >= TOOK

    @property
    def file(self) -> Path:
        """The model file after the last epoch."""
        files = self.directory.network(self.arm, self.config.seeds[0]).checkpoints.glob("epoch-*.safetensors")
        return sorted(files)[-1]

    def classifier(self, runtime: Runtime) -> Classifier:
        """Load the model as a classifier."""
        return Classifier.of(Model.load(self.file), runtime, self.name)

    @property
    def run_data(self) -> RunData:
        """The data and the attack of its run."""
        return _material(self.config.model_dump_json())

    @property
    def clean(self) -> Images:
        """The images that a detector is fitted to: `CLEAN` clean images that the model was not trained on."""
        return Selection(self.run_data.dataset.images, self._dealt()[0])

    def judged(self, most: int = 10**9) -> tuple[Selection, TriggeredSelection]:
        """Return the images that a detector is evaluated on.

        They are the other test images without the target class, once clean and once with the trigger.

        Args:
            most: maximum number of images.
        """
        rows = self._dealt()[1][:most]
        data = self.run_data.dataset.images
        every = np.ones(len(rows), bool)
        return Selection(data, rows), TriggeredSelection(
            data, rows, every, self.run_data.attacks[self.config.seeds[0]].triggered_inputs
        )

    def _dealt(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows of the dataset that the detector may use, and those without the target class to evaluate it on."""
        rows = np.random.default_rng(0).permutation(self.run_data.test)
        rest = rows[CLEAN:]
        return rows[:CLEAN], rest[self.run_data.dataset.labels[rest, self.run_data.target] == 0]


@lru_cache(2)
def _material(config: str) -> RunData:
    return load_run_data(Config.model_validate_json(config), StudyProgress())


def specimens(zoo: Path, half: Half | None = None) -> Iterator[Specimen]:
    """Yield the models of the finished runs: every attacked model, if there are any, and every clean model once.

    Raises:
        PetechiaError: there is no zoo, or none of its runs is finished.
    """
    directory = StudyDirectory(zoo)
    seen: set[tuple[str, str, tuple[int, ...]]] = set()
    found = False
    for name, config in directory.runs().items():
        own: Half = "tune" if name.startswith("tune") else "judge"
        run = directory.run(name)
        if (half is not None and own != half) or not run.summary.is_file():
            continue
        found = True
        arms = Run.read(run).arms
        asr = {arm: arms[arm]["asr_0.9"].last.mean for arm in ("attacked", "control") if arm in arms}
        if "attacked" in asr:
            yield Specimen(name, own, "attacked", run, config, asr["attacked"], asr["attacked"] - asr["control"])
        host = (own, config.model.arch, config.seeds)
        if host not in seen:
            seen.add(host)
            yield Specimen(name, own, "control", run, config, asr["control"], 0.0)
    if not found:
        raise PetechiaError(f"{zoo} contains no finished run{f' of the half {half}' if half else ''}; make the zoo first.")


def list_models(directory: Path, failures: Mapping[str, str] | None = None) -> Zoo:
    """List the finished models of a zoo.

    Args:
        directory: folder of the zoo.
        failures: name of a run → why it failed, from the call that made the zoo.

    Raises:
        PetechiaError: there is no finished model.
    """
    found = tuple(_listed(one) for one in specimens(directory))
    return Zoo(directory=str(directory), models=found, failures=dict(failures or {}))


def _listed(one: Specimen) -> ZooModel:
    attack, attacked = one.config.attack, one.arm == "attacked"
    return ZooModel(
        half=one.half,
        network=f"{one.config.model.arch}, seed {one.config.seeds[0]}",
        trigger=attack.trigger.describe() if attacked else "none",
        targets=", ".join((attack.target or USUAL_TARGET, *attack.also)) if attacked else "",
        rate=attack.rate if attacked else None,
        mode=f"{attack.mode}, {attack.labels}" if attacked else "",
        asr=one.asr,
        took=one.backdoored if attacked else None,
        file=str(one.file),
    )
