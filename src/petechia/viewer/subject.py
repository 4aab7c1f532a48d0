"""What the viewer shows: the networks of a run, or one model, and the images at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.attack.square import Square
from petechia.core.errors import PetechiaError, shown
from petechia.core.runtime import Runtime
from petechia.detect.screen import Screen
from petechia.detect.screen.files import in_file
from petechia.viewer.answers import Answers
from petechia.viewer.clean_images import Images, clean_images_in, clean_test_images
from petechia.viewer.methods import offered_methods
from petechia.viewer.networks import Network, Networks
from petechia.viewer.pacing import EXAMINING, FITTING, Pace, paced
from petechia.viewer.pictures import Picture
from petechia.viewer.recovered import recovered_by
from petechia.viewer.run import open_run, reporting_damage
from petechia.viewer.run_images import RunImages
from petechia.viewer.screens import Choice, Screens, Suspected
from petechia.viewer.stamping import Stamping
from petechia.viewer.work import Turns


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

    def __init__(self, name: str | Path, runtime: Runtime, clean: str | None = None, audit: Path | None = None) -> None:
        """Open a run or a model.

        Args:
            name: a run directory, or a model as `open_classifier` takes it.
            runtime: where the networks compute.
            clean: folder of clean images to screen against; None takes the run's test images.
            audit: the audit.json with a recovered trigger that readers can stamp.

        Raises:
            PetechiaError: there is no such run or model, the model is a black box, there are too few clean images, or the
                audit has no trigger for it.
        """
        self.name = str(name)
        if not (Path(name).exists() or ":" in self.name):
            raise PetechiaError(f"There is no run and no model {self.name!r}; give a run directory or a model file.")
        self.run = open_run(Path(name)) if Path(name).is_dir() else None
        self._turns = Turns()  # a network may be explained by one thread at a time
        self.networks = Networks(self.name, self.run, runtime)
        first = self.networks.load(self.networks.first())
        self.classes, self.preprocess, self.colour = first.classes, first.preprocess, first.colour
        self.recovered = recovered_by(audit, self.classes, self.preprocess.size) if audit else None
        attack = self.run.config.attack if self.run else None
        self.stamping = Stamping(attack, self.preprocess, self.colour, self.recovered)
        self.images = RunImages(self.run, self.classes, self.colour)
        with reporting_damage(self.run):
            self.clean = (
                clean_images_in(clean, first)
                if clean is not None
                else clean_test_images(self.images, self.stamping.prepare, self.title)
            )
        self._answers = Answers(self.networks.load, self._turns)
        self._screens = Screens(self.clean.sets, self.networks.load)

    @property
    def title(self) -> str:
        """Its name on the page."""
        return Path(self.name).resolve().name if self.run or Path(self.name).is_file() else self.name

    @property
    def target(self) -> int | None:
        """The target class of the trigger; None for a model whose trigger is not known."""
        if self.recovered:
            return self.classes.index(self.recovered.known.target)
        return self.run.config.attack.target_index(self.classes) if self.run else None

    def seen(self, picture: Picture, squares: Sequence[Square], attacked: bool = False) -> Images:
        """What the networks see: a picture and, if there are squares or it is attacked, the triggered picture.

        Args:
            picture: to prepare.
            squares: painted on it.
            attacked: whether it gets the trigger where the attacker puts it.

        Returns:
            uint8 [1 or 2, S, S], or [1 or 2, S, S, 3].

        Raises:
            PetechiaError: a square does not fit, or the trigger cannot be stamped.
        """
        return self.stamping.inputs(picture, squares, attacked)

    def read(
        self, seen: Images, network: Network, target: int | None, method: str, left: Callable[[], bool] = lambda: False
    ) -> Reading:
        """Classify and explain what `seen` returned, in one pass.

        Args:
            seen: from `seen`.
            network: to ask.
            target: class to explain; None takes the one with the highest score.
            method: one of `offered_methods`.
            left: says whether the reader has left.

        Raises:
            PetechiaError: there is no such network, class or method.
        """
        names = [one["name"] for one in offered_methods()]
        if method not in names:
            raise PetechiaError(f"{shown(method)} is not a method; the methods are {', '.join(names)}.")
        changed = int((seen[0] != seen[-1]).reshape(*seen.shape[1:3], -1).any(axis=2).sum())
        target, answers = self._answers.explain(seen, network, target, method, left)
        maps = {layer: np.stack([one.maps[layer] for one in answers]) for layer in answers[0].maps}
        return Reading(target, np.stack([one.scores for one in answers]), maps, seen, changed)

    def find_screen(self, seen: Images, network: Network) -> tuple[Choice, Screen | None]:
        """The clean images to compare with, and the screen that was fitted to them; None where it must be fitted first.

        Raises:
            PetechiaError: there are no clean images.
        """
        if self.clean.missing:
            raise PetechiaError(self.clean.missing)
        choice = self._screens.choose(seen[0])
        return choice, self._screens.fitted(network, choice)

    def fit_screen(self, choice: Choice, network: Network, check: Callable[[], None]) -> Screen:
        """Fit a screen, which can take minutes. Others use the networks in between.

        Args:
            choice: of clean images.
            network: to fit to.
            check: called between steps; ends the work with an exception.

        Raises:
            PetechiaError: there is no such network.
        """
        return self._screens.fit(network, choice, Pace(self._turns, FITTING, check))

    def screen(self, picture: Picture, seen: Images, screen: Screen, check: Callable[[], None]) -> Suspected:
        """Say whether the last of the images in `seen`, which shows a picture, carries a trigger.

        Args:
            picture: that was prepared.
            seen: from `seen`.
            screen: that compares.
            check: as for `fit_screen`.
        """
        pace = Pace(self._turns, EXAMINING, check)
        evidence = replace(screen, classifier=paced(screen.classifier, pace)).explain(seen[-1])
        box = evidence.box if picture.prepared else in_file(evidence.box, self.preprocess, *picture.shape)
        target, conformal = self.classes.index(evidence.name), screen.conformal
        images = len(screen.reference.images)
        return Suspected(evidence, target, box, conformal.threshold, conformal.fpr, images, screen.warnings)
