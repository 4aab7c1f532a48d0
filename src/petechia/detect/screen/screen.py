"""Is a single image carrying a trigger? Fitted to a model and a few clean images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.data.preprocess import Box
from petechia.detect.screen.calibration import FUSED, PARTS, Calibration, Parts, check_count
from petechia.detect.screen.disturbances import strip, teco
from petechia.detect.screen.heat import divergence, heat
from petechia.detect.screen.hotspots import find_hotspots, transplant
from petechia.detect.screen.reference import Reference
from petechia.models.classifier import Classifier

HOSTS = 16  # clean images on which what was found is transplanted
SUPERIMPOSED = 8  # clean images that an image is superimposed on
BATCH = 16  # images examined at a time; their copies with something removed or transplanted are many
SUDDEN = 4.0  # fall of a logit by the removal of one small box from which a clean image is doubted
DOUBTED = 0.1  # share of doubted clean images from which a warning is given

Maps = NDArray[np.float32]


class Suspicions(NamedTuple):
    """What a screen says of N images.

    Attributes:
        suspicion: float64 [N], higher is more suspicious.
        p_values: float64 [N], share of images like the clean ones that would be at least as suspicious.
        flagged: bool [N], whether the suspicion is above the threshold.
        classes: int [N], the class that a trigger would stand for.
        boxes: where it would be; pixels of the input.
        parts: name → float64 [N], what each part alone says; higher is more suspicious.
    """

    suspicion: NDArray[np.float64]
    p_values: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    classes: NDArray[np.intp]
    boxes: tuple[Box, ...]
    parts: Parts


class ImageEvidence(NamedTuple):
    """What speaks for a trigger in one image, for a person to look at.

    Attributes:
        suspicion: as in `Suspicions`, as are the next two.
        p_value: of the suspicion.
        flagged: whether it is above the threshold.
        name: of the class.
        box: where the trigger would be.
        pixels: bool [H, W], which pixels it would be.
        parts: name → what it alone says.
    """

    suspicion: float
    p_value: float
    flagged: bool
    name: str
    box: Box
    pixels: NDArray[np.bool_]
    parts: dict[str, float]


class _Examined(NamedTuple):
    parts: Parts
    classes: NDArray[np.intp]
    falls: NDArray[np.float32]
    pixels: NDArray[np.bool_]
    maps: Maps | None


@dataclass(frozen=True)
class Screen:
    """A detector of triggered images; made by `fit`.

    Attributes:
        classifier: the model.
        reference: the clean images.
        usual_heat: float32 [h, w], their mean heat; None for a black box.
        calibration: sets the threshold.
        names: of the parts that are computed.
        target: the one class that is looked at, or None.
        warnings: sentences about the clean images.
    """

    classifier: Classifier
    reference: Reference
    usual_heat: Maps | None
    calibration: Calibration
    names: tuple[str, ...]
    target: int | None = None
    warnings: tuple[str, ...] = ()

    @staticmethod
    def fit(
        classifier: Classifier,
        clean: NDArray[np.uint8],
        fpr: float = 0.01,
        target: str | None = None,
        parts: Sequence[str] = FUSED,
        progress: Progress = SILENT,
    ) -> Screen:
        """Calibrate on clean images, each of which is examined as if the others were all.

        Args:
            classifier: the model; of a black box, maps and gradients are left out.
            clean: uint8 [n, H, W] or [n, H, W, 3], 50 to 200 images that nobody has tampered with.
            fpr: the share of clean images that may be flagged.
            target: the one class to look at; None is, for each image, the class whose logit stands out most.
            parts: what to compute, of `PARTS`; those of a weight in `WEIGHTS` are fused, the others told beside them.
            progress: told of every examined image.

        Raises:
            PetechiaError: there are too few clean images for the rate, they are all the same, there is no such class or part,
                or the model answers with NaN.
        """
        check_count(len(clean), fpr)
        names = _known(parts, classifier)
        if target is not None and target not in classifier.classes:
            raise PetechiaError(f"{target!r} is not a class of {classifier.name}: {', '.join(classifier.classes)}.")
        index = None if target is None else classifier.classes.index(target)
        reference = Reference.of(classifier, clean)
        unfitted = Screen(classifier, reference, None, Calibration(fpr, {}, {}, np.zeros(0)), names, index)
        found = unfitted._examine(reference.images, own=True, progress=progress)
        maps = found.maps
        calibration = Calibration.of(found.parts, fpr)
        usual_heat = None if maps is None else maps.mean(axis=0)
        return Screen(classifier, reference, usual_heat, calibration, names, index, unfitted._doubts(found))

    def score(self, images: NDArray[np.uint8], progress: Progress = SILENT) -> Suspicions:
        """Examine images, uint8 [N, H, W] or [N, H, W, 3]; `progress` is told of every examined one.

        Raises:
            PetechiaError: there is none, they do not fit the clean ones, or the model answers with NaN.
        """
        return self._judge(self._examine(images, own=False, progress=progress))

    def explain(self, image: NDArray[np.uint8]) -> ImageEvidence:
        """Examine one image, uint8 [H, W] or [H, W, 3]."""
        return self.evidence(image[None])[0]

    def evidence(self, images: NDArray[np.uint8], progress: Progress = SILENT) -> tuple[ImageEvidence, ...]:
        """`explain` each of the images, uint8 [N, H, W] or [N, H, W, 3]; as `score`, which tells of all together."""
        examined = self._examine(images, own=False, progress=progress)
        found = self._judge(examined)
        return tuple(
            ImageEvidence(
                float(found.suspicion[row]),
                float(found.p_values[row]),
                bool(found.flagged[row]),
                self.classifier.classes[found.classes[row]],
                found.boxes[row],
                examined.pixels[row],
                {name: float(values[row]) for name, values in found.parts.items()},
            )
            for row in range(len(images))
        )

    def _judge(self, found: _Examined) -> Suspicions:
        suspicion = self.calibration.suspicion(found.parts)
        return Suspicions(
            suspicion,
            self.calibration.p_values(suspicion),
            suspicion > self.calibration.threshold,
            found.classes,
            tuple(map(_bounds, found.pixels)),
            found.parts,
        )

    def _examine(self, images: NDArray[np.uint8], own: bool, progress: Progress) -> _Examined:
        """All parts. `own`: the images are the clean ones themselves, in their order."""
        expected = self.reference.images.shape[1:]
        if not len(images) or images.shape[1:] != expected or images.dtype != np.uint8:
            given = f"{images.dtype} {list(images.shape)}"
            raise PetechiaError(f"The images to screen are {given}; give uint8 [N, {', '.join(map(str, expected))}], N > 0.")
        hosts = self.reference.hosts(len(images), HOSTS, own)
        usual, spread = self.reference.usual(len(images), own)
        found = []
        for start in range(0, len(images), BATCH):
            rows = slice(start, start + BATCH)
            found.append(self._examine_batch(images[rows], hosts[rows], usual[rows], spread[rows]))
            progress.advance(len(images[rows]))
        parts = {name: np.concatenate([one.parts[name] for one in found]) for name in found[0].parts}
        classes, falls, pixels = (np.concatenate([getattr(one, name) for one in found]) for name in _Examined._fields[1:4])
        maps = None
        if "heat" in self.names:
            maps = heat(self.classifier, images, classes)
            parts["heat"] = divergence(maps, self._usual_heat(maps, own))
        return _Examined(parts, classes, falls, pixels, maps)

    def _examine_batch(
        self,
        images: NDArray[np.uint8],
        hosts: NDArray[np.intp],
        usual: NDArray[np.float64],
        spread: NDArray[np.float64],
    ) -> _Examined:
        every, logits = np.arange(len(images)), self.classifier.logits(images).numpy()
        surprise = (logits - usual) / spread
        classes = surprise.argmax(axis=1) if self.target is None else np.full(len(images), self.target)
        spots = find_hotspots(self.classifier, images, logits, classes)
        on, before = self.reference.images[hosts], self.reference.logits[hosts]
        of_class = usual[every, classes]
        work: dict[str, Callable[[], NDArray[np.floating]]] = {
            "transplant": lambda: transplant(self.classifier, images, spots.moved, on, before)[every, classes],
            "removal": lambda: spots.falls,
            "outlier": lambda: surprise[every, classes],
            "strip": lambda: strip(self.classifier, images, on[:, :SUPERIMPOSED], classes, of_class),
            "teco": lambda: teco(self.classifier, images, logits, classes, of_class),
        }
        parts = {name: np.asarray(do(), np.float64) for name, do in work.items() if name in self.names}
        return _Examined(parts, classes, spots.falls, spots.pixels, None)

    def _usual_heat(self, maps: Maps, own: bool) -> Maps:
        if own:
            return np.asarray((maps.sum(axis=0) - maps) / (len(maps) - 1))
        assert self.usual_heat is not None, "fitted to a network that can be looked into"  # noqa: S101
        return np.broadcast_to(self.usual_heat, maps.shape)

    def _doubts(self, found: _Examined) -> tuple[str, ...]:
        """Whether the clean images are triggered themselves."""
        sudden = found.falls >= SUDDEN
        # If most of them are, the target stands out in none; but the model is sure of it.
        surest = self.reference.logits.argmax(axis=1)
        rows = np.flatnonzero((surest != found.classes) & (self.reference.logits.max(axis=1) > 0))
        if len(rows):
            images, logits = self.reference.images[rows], self.reference.logits[rows]
            sudden[rows] |= find_hotspots(self.classifier, images, logits, surest[rows]).falls >= SUDDEN
        share = sudden.mean()
        if share < DOUBTED:
            return ()
        return (
            f"In {share:.0%} of the clean images one small box decides what the model says, as a trigger would; "
            f"if they are triggered, triggered images look clean beside them. Take clean images from a source you trust.",
        )


def _known(parts: Sequence[str], classifier: Classifier) -> tuple[str, ...]:
    """The parts in their own order; of a black box, without the heat."""
    if unknown := set(parts) - set(PARTS):
        raise PetechiaError(f"{min(unknown)!r} is not a part of the screen; the parts are {', '.join(PARTS)}.")
    found = tuple(name for name in PARTS if name in parts and (name != "heat" or classifier.network is not None))
    if not found:
        raise PetechiaError(
            f"The parts {', '.join(parts) or '(none)'} leave nothing to compute for {classifier.name}; add another."
        )
    return found


def _bounds(pixels: NDArray[np.bool_]) -> Box:
    """The smallest box around pixels."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
