"""What the viewer shows: the networks of a run, or one model, and the images at hand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.attack.square import Square
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Runtime
from petechia.detect.screen.files import in_file
from petechia.viewer.answers import Answers
from petechia.viewer.clean_images import clean_images_in, clean_test_images
from petechia.viewer.methods import offered_methods
from petechia.viewer.networks import Network, Networks
from petechia.viewer.pictures import Picture
from petechia.viewer.run import open_run, reporting_damage
from petechia.viewer.run_images import RunImages
from petechia.viewer.screens import Screens, Suspected
from petechia.viewer.stamping import Stamping


class Reading(NamedTuple):
    """What a network says of a picture, clean and triggered, and where it looks.

    Attributes:
        target: the explained class.
        scores: float32 [1 or 2, K], probabilities.
        maps: layer → float32 [1 or 2, h, w].
        seen: uint8 [1 or 2, S, S] or [1 or 2, S, S, 3], what the network sees.
        changed: number of its pixels that differ between the two.
    """

    target: int
    scores: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]
    seen: NDArray[np.uint8]
    changed: int


class Subject:
    """A run or a model, open for reading.

    Attributes:
        name: the run directory, or a model as `open_classifier` takes it.
        run: None for a model.
        networks: to choose from.
        images: to choose from.
        stamping: puts triggers on pictures.
        clean: what pictures are screened against.
        classes: of the networks.
        preprocess: geometry of the networks.
        colour: whether the networks take images in colour.
    """

    def __init__(self, name: str | Path, runtime: Runtime, clean: str | None = None) -> None:
        """Open a run or a model.

        Args:
            name: a run directory, or a model as `open_classifier` takes it.
            runtime: where the networks compute.
            clean: folder of clean images to screen against; None takes the run's test images.

        Raises:
            PetechiaError: there is no such run or model, the model is a black box, or there are too few clean images.
        """
        self.name = str(name)
        if not (Path(name).exists() or ":" in self.name):
            raise PetechiaError(f"There is no run and no model {self.name!r}; give a run directory or a model file.")
        self.run = open_run(Path(name)) if Path(name).is_dir() else None
        # All networks compute in this one thread: a network may be explained by one thread at a time, and torch would start a
        # set of its own threads for every thread that calls it.
        self._compute = ThreadPoolExecutor(1)
        self.networks = Networks(self.name, self.run, runtime)
        first = self._compute.submit(self.networks.load, self.networks.first()).result()
        self.classes, self.preprocess, self.colour = first.classes, first.preprocess, first.colour
        self.stamping = Stamping(self.run.config.attack if self.run else None, self.preprocess, self.colour)
        self.images = RunImages(self.run, self.classes, self.colour)
        with reporting_damage(self.run):
            self.clean = (
                clean_images_in(clean, first)
                if clean is not None
                else clean_test_images(self.images, self.stamping.prepare, self.title)
            )
        self._answers = Answers(self.networks.load)
        self._screens = Screens(self.clean.sets, self.networks.load)

    @property
    def title(self) -> str:
        """Its name on the page."""
        return Path(self.name).resolve().name if self.run or Path(self.name).is_file() else self.name

    @property
    def target(self) -> int | None:
        """The target class of the run's attack; None for a model."""
        return self.run.config.attack.target_index(self.classes) if self.run else None

    def read(
        self,
        picture: Picture,
        squares: Sequence[Square],
        network: Network,
        target: int | None,
        method: str,
        attacked: bool = False,
    ) -> Reading:
        """Classify and explain a picture and, if there are squares or it is attacked, the triggered picture, in one pass.

        Args:
            picture: to read.
            squares: painted on it.
            network: to ask.
            target: class to explain; None takes the one with the highest score.
            method: one of `offered_methods`.
            attacked: whether it gets the run's own trigger where the attacker puts it.

        Raises:
            PetechiaError: a square does not fit, the trigger cannot be stamped, or there is no such network, class or method.
        """
        names = [one["name"] for one in offered_methods()]
        if method not in names:
            raise PetechiaError(f"{method!r} is not a method; the methods are {', '.join(names)}.")
        seen = self.stamping.inputs(picture, squares, attacked)
        changed = int((seen[0] != seen[-1]).reshape(*seen.shape[1:3], -1).any(axis=2).sum())
        target, answers = self._compute.submit(self._answers.explain, seen, network, target, method).result()
        maps = {layer: np.stack([one.maps[layer] for one in answers]) for layer in answers[0].maps}
        return Reading(target, np.stack([one.scores for one in answers]), maps, seen, changed)

    def screen(self, picture: Picture, squares: Sequence[Square], network: Network, attacked: bool = False) -> Suspected:
        """Say whether a picture, with the squares and the run's own trigger if it is attacked, carries a trigger.

        Raises:
            PetechiaError: a square does not fit, the trigger cannot be stamped, there is no such network, or there are no
                clean images to compare with.
        """
        if self.clean.missing:
            raise PetechiaError(self.clean.missing)
        seen = self.stamping.inputs(picture, squares, attacked)
        choice = self._screens.choose(seen[0])
        screen, evidence = self._compute.submit(self._screens.examine, network, choice, seen[-1]).result()
        box = evidence.box if picture.prepared else in_file(evidence.box, self.preprocess, *picture.grey.shape)
        target, conformal = self.classes.index(evidence.name), screen.conformal
        images = len(screen.reference.images)
        return Suspected(evidence, target, box, conformal.threshold, conformal.fpr, images, screen.warnings)
