"""What the viewer is about: the networks of a run, or one model, and the images at hand."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.attack import Patch, Trigger
from petechia.attack.triggers import Brush
from petechia.core.errors import PetechiaError
from petechia.core.rows import evenly_spread
from petechia.core.runtime import Runtime
from petechia.data import Catalog, open_source
from petechia.data.levels import in_colour
from petechia.data.preprocess import Box
from petechia.detect.collection import read_collection
from petechia.detect.screen.files import in_file
from petechia.models.classifier import Classifier
from petechia.models.openers import open_classifier
from petechia.saliency import explain
from petechia.study.config import Config
from petechia.study.directory import RunDirectory, read_arrays, read_table, report_damage
from petechia.viewer.pictures import Picture, Pictures
from petechia.viewer.screens import CLEAN, FEWEST, Network, Screens, Suspected

MODELS = 3  # kept in memory
ANSWERS = 256  # kept in memory
LAYERS = ("last", "middle")
METHODS = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam")  # that answer at once


class Stamp(NamedTuple):
    """A trigger: its top left corner in pixels of the attack's stage, side and grey level."""

    row: int
    column: int
    size: int
    value: int


class Reading(NamedTuple):
    """What a model says of an image, clean and with stamps, and where it looks.

    Attributes:
        target: the explained class.
        scores: float32 [1 or 2, K], probabilities.
        maps: layer → float32 [1 or 2, h, w].
        seen: uint8 [1 or 2, S, S] or [1 or 2, S, S, 3], what the model sees.
        changed: in how many of its pixels the stamps show.
    """

    target: int
    scores: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]
    seen: NDArray[np.uint8]
    changed: int


class Answer(NamedTuple):
    """What a model says of one input, and where it looks: probabilities, float32 [K], and layer → float32 [h, w]."""

    scores: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]


class Subject:
    """A run or a model.

    Attributes:
        name: of it: a run directory, or a model as `open_classifier` takes it.
        run: its directory; None for a model.
        config: of the run; None for a model.
        networks: arm and seed → epochs that are trained; `refresh` looks again.
        clean_images: on how many a screen is fitted, about.
        classes: of the networks.
        preprocess: their geometry.
        colour: whether they take colours.
        no_screen: why there is none; empty where there is one.
    """

    def __init__(self, name: str | Path, runtime: Runtime, clean: str | None = None) -> None:
        self.name = str(name)
        self.runtime = runtime
        self.run: RunDirectory | None = None
        self.config: Config | None = None
        if not (Path(name).exists() or ":" in str(name)):
            raise PetechiaError(f"There is no run and no model {str(name)!r}; give a run directory, or a model's file.")
        if Path(name).is_dir():
            self.run, self.config = _open_run(Path(name))
        # One thread computes: a model is explained by one at a time, and the processor's threads that torch starts for each
        # thread that calls it would be in each other's way.
        self._torch = ThreadPoolExecutor(1)
        self._load = lru_cache(MODELS)(self._load_now)
        self._answers: OrderedDict[tuple[object, ...], Answer] = OrderedDict()  # touched by that thread alone
        self._tests = Pictures()
        self._clean: WeakKeyDictionary[Picture, NDArray[np.uint8]] = WeakKeyDictionary()  # what the model sees of them
        self.refresh()
        arm, seed = next(iter(self.networks))
        first = self._torch.submit(self._model, arm, seed, self.networks[arm, seed][-1]).result()
        self.classes, self.preprocess, self.colour = first.classes, first.preprocess, first.colour
        self.catalog, self.notice = self._open_data()
        self.test: pl.DataFrame | None = read_table(self.run.test) if self.run else None
        with self._sound():
            self.clean_images, self.no_screen, self._screens = self._open_screens(clean, first)

    @property
    def title(self) -> str:
        """What to call it on the page."""
        return Path(self.name).resolve().name if self.run or Path(self.name).is_file() else self.name

    def _sound(self) -> AbstractContextManager[None]:
        """Where the files of a run are read: what is wrong with them becomes a sentence."""
        return report_damage(self.run.path) if self.run else nullcontext()

    def refresh(self) -> None:
        """See what has been trained meanwhile.

        Raises:
            PetechiaError: nothing yet.
        """
        self.networks = self._networks()

    def _networks(self) -> dict[tuple[str, int], list[int]]:
        if self.run is None or self.config is None:
            return {("model", 0): [0]}
        found: dict[tuple[str, int], list[int]] = {}
        for seed in self.config.seeds:
            for arm in self.config.arms:
                files = self.run.network(arm, seed).checkpoints.glob("epoch-*.safetensors")
                if epochs := sorted(int(file.stem.removeprefix("epoch-")) for file in files if file.stem[6:].isdecimal()):
                    found[arm, seed] = epochs
        if not found:
            raise PetechiaError(f"The run in {self.name} has no trained epoch yet; wait for the first.")
        return found

    def _model(self, arm: str, seed: int, epoch: int) -> Classifier:
        if epoch not in self.networks.get((arm, seed), []):
            raise PetechiaError(f"There is no epoch {epoch} of {arm}, seed {seed}; choose another.")
        return self._load(arm, seed, epoch)

    def _load_now(self, arm: str, seed: int, epoch: int) -> Classifier:
        name = str(self.run.network(arm, seed).checkpoint(epoch)) if self.run else self.name
        found = open_classifier(name, self.runtime)
        if found.network is None:
            raise PetechiaError(
                f"{name} is a black box, and the viewer shows where a network looks; petechia explain --method occlusion and "
                f"petechia screen take it."
            )
        return replace(found, name="This network")

    def _open_data(self) -> tuple[Catalog | None, str]:
        if self.config is None:
            return None, ""
        try:
            catalog = open_source(self.config.data, self.config.missing)
            return (catalog if self.colour else catalog.in_grey()), ""
        except PetechiaError as error:
            return None, f"The run's data cannot be opened, so a few prepared images stand for them. {error}"

    def _open_screens(self, clean: str | None, first: Classifier) -> tuple[int, str, Screens]:
        """On given images, else on the run's test images: the model was not trained on them."""
        if clean is not None:
            images = read_collection([clean], first, CLEAN).images
            if len(images) < FEWEST:
                raise PetechiaError(f"There are {len(images)} images in {clean}; give at least {FEWEST}.")
            return len(images), "", Screens([lambda: images], lambda network: self._model(*network))
        every = np.arange(self.test_images)
        halves = (every[::2], every[1::2]) if len(every) >= CLEAN else (every,)
        sets = [half[evenly_spread(len(half), CLEAN, nearest=False)] for half in halves]
        screens = Screens([partial(self._read_clean, rows) for rows in sets], lambda network: self._model(*network))
        return len(sets[-1]), "" if len(sets[-1]) >= FEWEST else self._ask_for_clean(), screens

    def _ask_for_clean(self) -> str:
        return (
            "To ask this, start the viewer with clean images, best 100 or more that nobody has tampered with: "
            f"petechia serve {self.title} --clean DIR."
        )

    def _read_clean(self, positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """What the model sees of test images, without those that cannot be read."""
        if self.catalog is None or self.test is None:
            return self._examples()[positions]
        rows = np.flatnonzero(np.isin(self.catalog.ids, self.test["id"].to_numpy()[positions]))
        images = [one for one in self.catalog.reader.read(rows) if not isinstance(one, PetechiaError)]
        if len(images) < FEWEST:
            raise PetechiaError(f"Only {len(images)} of the run's test images can be read; give others with --clean DIR.")
        return np.stack([self._prepared(image) for image in images])

    def _prepared(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the model sees of an image: grey ones are repeated for one that takes colours, so that all are alike."""
        return self.preprocess(in_colour(image) if self.colour else image)

    @property
    def trigger(self) -> Trigger:
        """The run's, or the paper's."""
        return self.config.attack.trigger if self.config else Patch()

    @property
    def brush(self) -> Brush:
        """The square that a click draws: the run's trigger, or the paper's where that is none."""
        return self.trigger.brush or Patch().brush

    @property
    def stage(self) -> str:
        """At which the attack stamps."""
        return self.config.attack.stage if self.config else "native"

    @property
    def target(self) -> int | None:
        """The class that the attacker wants."""
        return self.config.attack.target_index(self.classes) if self.config else None

    @property
    def test_images(self) -> int:
        """How many there are to choose from."""
        if self.catalog is not None and self.test is not None:
            return self.test.height
        return len(self._examples())

    def _examples(self) -> NDArray[np.uint8]:
        """The clean inputs that the run has kept."""
        if self.run is None or not self.run.examples.is_file():
            return np.zeros((0, 1, 1), np.uint8)
        examples: NDArray[np.uint8] = read_arrays(self.run.examples)["clean"]
        return examples

    def without_target(self) -> list[int]:
        """Positions of the test images that do not show the target."""
        if self.catalog is None or self.test is None or self.config is None:
            return list(range(self.test_images))
        with self._sound():
            return np.flatnonzero(self.test[self.config.attack.target_name(self.classes)].to_numpy() == 0).tolist()

    def test_image(self, position: int) -> Picture:
        """Read one.

        Raises:
            PetechiaError: there is none, or it cannot be read.
        """
        if not 0 <= position < self.test_images:
            raise PetechiaError(f"There is no test image {position + 1}; there are {self.test_images}.")
        name = str(position)
        with self._sound():
            picture = self._tests.find(name) or self._read_test_image(position)
        self._tests.put(name, picture)
        return picture

    def _read_test_image(self, position: int) -> Picture:
        if self.catalog is None or self.run is None or self.config is None or self.test is None:
            return Picture.of(self._examples()[position], prepared=True)
        row = self.test.row(position, named=True)
        found = np.flatnonzero(self.catalog.ids == row["id"])[:1]
        if not len(found):
            raise PetechiaError(f"Test image {position + 1} is not in {self.config.data} any more; choose another.")
        (image,) = self.catalog.reader.read(found)
        if isinstance(image, PetechiaError):
            raise image
        findings = tuple(name for name in self.classes if row[name] == 1)
        seed = self.config.seeds[0]
        place = (row[f"row_seed_{seed}"], row[f"column_seed_{seed}"])
        return Picture.of(image, findings=findings, place=place if min(place) >= 0 else None)

    def kept(self, picture: Picture) -> Box:
        """The part of a picture that the model sees."""
        height, width = picture.levels.values.shape
        return Box(0, 0, height, width) if picture.prepared else self.preprocess.kept(height, width)

    def stamps_input(self, picture: Picture) -> bool:
        """Whether stamps are put on what the model sees, and not on the picture itself."""
        return self.stage == "input" and not picture.prepared

    def attackers_place(self, picture: Picture) -> tuple[int, int] | None:
        """Row and column at which the attacker would stamp a picture; None where that is unknown or nothing is stamped."""
        if picture.place or self.config is None or not self.trigger.stamps:
            return picture.place
        if self.trigger.wanders or (picture.prepared and self.stage == "native"):
            return None
        side = self.preprocess.size
        height, width = (side, side) if self.stamps_input(picture) else picture.grey.shape
        try:
            return self.trigger.place(height, width, Box(0, 0, height, width), (0.5, 0.5))
        except PetechiaError:  # it does not fit
            return None

    def read(
        self, picture: Picture, stamps: list[Stamp], network: Network, target: int | None, method: str, attacked: bool = False
    ) -> Reading:
        """Classify and explain a picture, and, if there are stamps or it is attacked, its triggered twin, in one pass.

        Args:
            picture: to read.
            stamps: squares that are put on it.
            network: arm, seed and epoch.
            target: class to explain; the highest where None.
            method: of the heat.
            attacked: whether it gets the run's own trigger, whatever that is, where the attacker puts it.

        Raises:
            PetechiaError: a stamp does not fit, the trigger cannot be stamped, or there is no such network, class or method.
        """
        if method not in METHODS:
            raise PetechiaError(f"{method!r} is not a method; the methods are {', '.join(METHODS)}.")
        seen = self._seen(picture, stamps, attacked)
        changed = int((seen[0] != seen[-1]).reshape(*seen.shape[1:3], -1).any(axis=2).sum())
        target, answers = self._torch.submit(self._answer, seen, network, target, method).result()
        maps = {layer: np.stack([one.maps[layer] for one in answers]) for layer in LAYERS}
        return Reading(target, np.stack([one.scores for one in answers]), maps, seen, changed)

    def screen(self, picture: Picture, stamps: list[Stamp], network: Network, attacked: bool = False) -> Suspected:
        """Is the picture, with the stamps and the run's own trigger if it is attacked, carrying a trigger?

        Raises:
            PetechiaError: a stamp does not fit, the trigger cannot be stamped, there is no such network, or no clean images, or
                they do not do.
        """
        if self.no_screen:
            raise PetechiaError(self.no_screen)
        seen = self._seen(picture, stamps, attacked)
        choice = self._screens.choose(seen[0])
        screen, evidence = self._torch.submit(self._screens.examine, network, choice, seen[-1]).result()
        box = evidence.box if picture.prepared else in_file(evidence.box, self.preprocess, *picture.grey.shape)
        target, conformal = self.classes.index(evidence.name), screen.conformal
        images = len(screen.reference.images)
        return Suspected(evidence, target, box, conformal.threshold, conformal.fpr, images, screen.warnings)

    def _answer(self, seen: NDArray[np.uint8], network: Network, target: int | None, method: str) -> tuple[int, list[Answer]]:
        """What the model says of every input. The same input has the same answer, so what was asked before is kept."""
        if target is None:
            target = self._highest(seen[-1:], network)
        inputs = [(*network, target, method, hashlib.sha256(one.tobytes()).digest()) for one in seen]
        new = {key: row for row, key in enumerate(inputs) if key not in self._answers}
        if new:
            rows = list(new.values())
            self._answers |= zip(new, self._explain(seen[rows], network, target, method), strict=True)
        for key in inputs:
            self._answers.move_to_end(key)
        answers = [self._answers[key] for key in inputs]
        while len(self._answers) > ANSWERS:
            self._answers.popitem(last=False)
        return target, answers

    def _highest(self, seen: NDArray[np.uint8], network: Network) -> int:
        return int(self._model(*network).logits(seen).argmax(dim=1)[0])

    def _explain(self, seen: NDArray[np.uint8], network: Network, target: int, method: str) -> list[Answer]:
        model = self._model(*network)
        with self.runtime.autocast():
            found = explain(model.require_network(), model.tensor(seen), target, LAYERS, method)
        scores = found.logits.sigmoid().cpu().numpy()
        maps = {layer: one.cpu().numpy() for layer, one in found.maps.items()}
        if not all(np.isfinite(one).all() for one in (scores, *maps.values())):
            raise PetechiaError("This network answers with what is no number; choose another epoch.")
        return [Answer(one, {layer: maps[layer][row] for layer in maps}) for row, one in enumerate(scores)]

    def _seen(self, picture: Picture, stamps: list[Stamp], attacked: bool) -> NDArray[np.uint8]:
        """What the model sees, clean and, if there are stamps or it is attacked, triggered."""
        clean = self._clean.get(picture)
        if clean is None:
            clean = self._clean[picture] = self._given(picture) if picture.prepared else self._prepared(picture.given)
        if not stamps and not attacked:
            return np.stack([clean])
        at_input = picture.prepared or self.stamps_input(picture)
        triggered = clean if at_input else self._given(picture)
        if attacked:
            triggered = self._attacked(triggered, picture)
        triggered = _stamped(triggered, stamps, self.brush.opacity)
        return np.stack([clean, triggered if at_input else self.preprocess(triggered)])

    def _given(self, picture: Picture) -> NDArray[np.uint8]:
        return in_colour(picture.given) if self.colour else picture.given

    def _attacked(self, image: NDArray[np.uint8], picture: Picture) -> NDArray[np.uint8]:
        place = self.attackers_place(picture)
        if place is None:
            raise PetechiaError(f"The trigger of this run cannot be stamped on this picture: {self.trigger.describe()}.")
        return np.asarray(self.trigger.stamp(image[None], np.array([place]))[0], np.uint8)


def _open_run(path: Path) -> tuple[RunDirectory, Config]:
    if (path / "study.json").is_file():
        runs = sorted(one.name for one in (path / "runs").glob("*") if one.is_dir())
        hint = f"{path / 'runs' / runs[0]}" if runs else "once there is one"
        raise PetechiaError(f"{path} is a study of {len(runs)} runs; serve one of them, such as {hint}.")
    run = RunDirectory(path)
    return run, run.config()


def _stamped(image: NDArray[np.uint8], stamps: list[Stamp], opacity: float) -> NDArray[np.uint8]:
    for row, column, size, value in stamps:
        trigger = Patch(size=size, value=value, opacity=opacity, location=(row, column))
        height, width = image.shape[:2]
        place = trigger.place(height, width, Box(0, 0, height, width), (0, 0))
        image = trigger.stamp(image[None], np.array([place]))[0]
    return image
