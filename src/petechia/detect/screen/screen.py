"""Detects triggered images, one by one, with a model and a few clean images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.data.preprocess import Box
from petechia.detect.protocol import Calibration
from petechia.detect.screen.conformal import (
    PACKAGED,
    PARTS,
    ConformalThreshold,
    Parts,
    ReferenceValues,
    ScreenValues,
    check_count,
)
from petechia.detect.screen.disturbances import carried, details, strip
from petechia.detect.screen.features import Features, answered, has_maps, strangeness
from petechia.detect.screen.hotspots import find_hotspots, transplant
from petechia.detect.screen.reference import Reference
from petechia.models.classifier import Classifier

HOSTS = 16  # clean images on which the pixels of an image are transplanted
FEWER = 8  # clean images that get an image's detail, and that are superimposed on it
BATCH = 16  # images examined at a time; each needs many altered copies
SUDDEN: float = PACKAGED.values["sudden_fall"]  # of a logit without one small box; from it on a clean image is doubtful
DOUBTED: float = PACKAGED.values["doubtful_share"]  # share of doubtful clean images from which a warning is given
CLOSE = 0.03  # by how much usual logits may differ between machines and precisions


class Suspicions(NamedTuple):
    """How suspicious N images are.

    Attributes:
        suspicion: float64 [N], higher is more suspicious.
        p_values: float64 [N], share of images like the clean ones that would be at least as suspicious.
        flagged: bool [N], whether the suspicion is above the threshold.
        classes: int [N], the class that a trigger would be for.
        whole: bool [N], whether the image is flagged for a trigger that lies over all of it and not in a box.
        boxes: where the trigger would be, in pixels of the input; if over the whole image, all of it.
        parts: name → float64 [N], the score of each part; higher is more suspicious.
    """

    suspicion: NDArray[np.float64]
    p_values: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    classes: NDArray[np.intp]
    whole: NDArray[np.bool_]
    boxes: tuple[Box, ...]
    parts: Parts


class ImageEvidence(NamedTuple):
    """The evidence for a trigger in one image, for a person to look at.

    Attributes:
        suspicion: as in `Suspicions`.
        p_value: of the suspicion.
        flagged: whether the suspicion is above the threshold.
        name: of the class that the trigger would be for.
        whole: whether the image is flagged for a trigger that lies over all of it and not in a box.
        box: where the trigger would be, in pixels of the input; if over the whole image, all of it.
        pixels: bool [H, W], the pixels that the trigger would consist of; if over the whole image, none.
        parts: name → its score.
    """

    suspicion: float
    p_value: float
    flagged: bool
    name: str
    whole: bool
    box: Box
    pixels: NDArray[np.bool_]
    parts: dict[str, float]


class _Examined(NamedTuple):
    parts: Parts
    classes: NDArray[np.intp]
    falls: NDArray[np.float32]
    pixels: NDArray[np.bool_]


@dataclass(frozen=True)
class Screen:
    """A screen that is fitted to one model and its clean images; made by `fit` or `restore`.

    Attributes:
        classifier: the model.
        reference: the clean images.
        known: float32 [n, D], their features; [n, 0] where these are not computed.
        conformal: the threshold.
        names: of the parts that are computed.
        target: index of the one class that is examined, or None.
        doubtful_share: share of the clean images that may be triggered themselves.
    """

    classifier: Classifier
    reference: Reference
    known: Features
    conformal: ConformalThreshold
    names: tuple[str, ...]
    target: int | None = None
    doubtful_share: float = 0.0

    @staticmethod
    def fit(
        classifier: Classifier,
        clean: NDArray[np.uint8],
        fpr: float = 0.01,
        target: str | None = None,
        parts: Sequence[str] = PARTS,
        progress: Progress = SILENT,
    ) -> Screen:
        """Set the threshold on clean images. Each is compared with the others, as a further image is with all.

        Args:
            classifier: the model. A black box is screened without features and gradients.
            clean: uint8 [n, H, W] or [n, H, W, 3], prepared; 100 to 200 images that nobody has tampered with.
            fpr: the share of clean images that may be flagged.
            target: the one class to examine; None takes, for each image, the class whose logit stands out most.
            parts: names from `PARTS`.
            progress: advances by one for every image.

        Raises:
            PetechiaError: there are too few clean images for the rate, they are all the same, there is no such class or part,
                or the model answers with NaN, or at random.
        """
        check_count(len(clean), fpr)
        names = _known(parts, classifier)
        if target is not None and target not in classifier.classes:
            raise PetechiaError(f"{target!r} is not a class of {classifier.name}: {', '.join(classifier.classes)}.")
        index = None if target is None else classifier.classes.index(target)
        classifier.require_steady(clean)
        reference = Reference.of(classifier, clean)
        known = _features(classifier, reference, names)
        unfitted = Screen(classifier, reference, known, ConformalThreshold(fpr, {}, {}, {}, np.zeros(0)), names, index)
        found = unfitted._examine(reference.images, own=True, progress=progress)
        return replace(unfitted, conformal=ConformalThreshold.of(found.parts, fpr), doubtful_share=unfitted._doubtful(found))

    @staticmethod
    def restore(classifier: Classifier, clean: NDArray[np.uint8], calibration: Calibration) -> Screen:
        """A screen from its calibration and the clean images that it was made with, which are not examined again.

        Args:
            classifier: the model of the calibration.
            clean: uint8 [n, H, W] or [n, H, W, 3], the clean images of the calibration, in the same order.
            calibration: from `to_calibration`.

        Raises:
            PetechiaError: the calibration is not the screen's, or was made with another model or other clean images.
        """
        conformal = ConformalThreshold.from_calibration(calibration)
        names = _known(tuple(conformal.middle), classifier)
        reference, values = Reference.of(classifier, clean), ScreenValues.of(calibration).reference
        if values is None or not _same_reference(values, reference, len(conformal.clean), len(names) == len(conformal.middle)):
            raise PetechiaError(
                f"The calibration of the screen was not made with {classifier.name} and these {len(clean)} clean images; "
                f"give those that it was made with, or calibrate again."
            )
        known = _features(classifier, reference, names)
        return Screen(classifier, reference, known, conformal, names, values.target, values.doubtful_share)

    def to_calibration(self) -> Calibration:
        """The threshold and everything else that was computed from the clean images, but not the images themselves."""
        usual = np.median(self.reference.logits, axis=0)
        reference = ReferenceValues(
            usual_logits=tuple(map(float, usual)),
            target=self.target,
            doubtful_share=self.doubtful_share,
        )
        count = len(self.reference.images)
        return self.conformal.to_calibration(f"{count} clean images and the model {self.classifier.public_name}", reference)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about the clean images."""
        if self.doubtful_share < DOUBTED:
            return ()
        return (
            f"In {self.doubtful_share:.0%} of the clean images one small box decides the model's answer, as a trigger would. "
            f"If they are triggered, triggered images look clean in comparison. Take clean images from a source you trust.",
        )

    def score(self, images: NDArray[np.uint8], progress: Progress = SILENT) -> Suspicions:
        """Examine images.

        Args:
            images: uint8 [N, H, W] or [N, H, W, 3], prepared as the clean ones are.
            progress: advances by one for every image.

        Raises:
            PetechiaError: there is no image, their shape is not that of the clean ones, or the model answers with NaN.
        """
        return self._judge(self._examine(images, own=False, progress=progress))

    def explain(self, image: NDArray[np.uint8]) -> ImageEvidence:
        """The evidence in one image, uint8 [H, W] or [H, W, 3]."""
        return self.evidence(image[None])[0]

    def evidence(self, images: NDArray[np.uint8], progress: Progress = SILENT) -> tuple[ImageEvidence, ...]:
        """The evidence in each of some images; arguments and errors are those of `score`."""
        examined = self._examine(images, own=False, progress=progress)
        found = self._judge(examined)
        return tuple(
            ImageEvidence(
                float(found.suspicion[row]),
                float(found.p_values[row]),
                bool(found.flagged[row]),
                self.classifier.classes[found.classes[row]],
                bool(found.whole[row]),
                found.boxes[row],
                examined.pixels[row] & ~found.whole[row],
                {name: float(values[row]) for name, values in found.parts.items()},
            )
            for row in range(len(images))
        )

    def _judge(self, found: _Examined) -> Suspicions:
        suspicion, threshold = self.conformal.suspicion(found.parts), self.conformal.threshold
        part = self.conformal.by_kind(found.parts).get("part", np.full(len(suspicion), -np.inf))
        flagged = suspicion > threshold
        whole = flagged & (part <= threshold)  # a small part explains more, where it suffices
        return Suspicions(
            suspicion,
            self.conformal.p_values(suspicion),
            flagged,
            found.classes,
            whole,
            tuple(_bounds(pixels | all_of_it) for pixels, all_of_it in zip(found.pixels, whole, strict=True)),
            found.parts,
        )

    def _examine(self, images: NDArray[np.uint8], own: bool, progress: Progress) -> _Examined:
        """All parts. `own`: the images are those of the reference, in their order."""
        expected = self.reference.images.shape[1:]
        if not len(images) or images.shape[1:] != expected or images.dtype != np.uint8:
            given = f"{images.dtype} {list(images.shape)}"
            raise PetechiaError(f"The images to screen are {given}; give uint8 [N, {', '.join(map(str, expected))}], N > 0.")
        hosts = self.reference.hosts(len(images), HOSTS, own)
        usual, spread = self.reference.usual(len(images), own)
        tried = self.reference.images[: FEWER + 1]  # all that are hosts of detail: of the clean images one is left out
        coarse = tried - details(tried)
        found = []
        for start in range(0, len(images), BATCH):
            rows = slice(start, start + BATCH)
            found.append(self._examine_batch(images[rows], hosts[rows], usual[rows], spread[rows], coarse))
            progress.advance(len(images[rows]))
        parts = {name: np.concatenate([one.parts[name] for one in found]) for name in found[0].parts}
        classes, falls, pixels = (np.concatenate([getattr(one, name) for one in found]) for name in _Examined._fields[1:])
        if own and "features" in self.names:
            parts["features"] = strangeness(self.known, self.known, own)
        return _Examined(parts, classes, falls, pixels)

    def _examine_batch(
        self,
        images: NDArray[np.uint8],
        hosts: NDArray[np.intp],
        usual: NDArray[np.float64],
        spread: NDArray[np.float64],
        coarse: NDArray[np.float32],
    ) -> _Examined:
        every, logits, seen = np.arange(len(images)), *self._answered(images)
        surprise = (logits - usual) / spread
        classes = surprise.argmax(axis=1) if self.target is None else np.full(len(images), self.target)
        spots = find_hotspots(self.classifier, images, logits, classes)
        on, before = self.reference.images[hosts], self.reference.logits[hosts]
        of_class = usual[every, classes]
        work: dict[str, Callable[[], NDArray[np.floating]]] = {
            "transplant": lambda: transplant(self.classifier, images, spots.moved, on, before)[every, classes],
            "removal": lambda: spots.falls,
            "outlier": lambda: surprise[every, classes],
            "detail": lambda: (
                carried(self.classifier, images, coarse, hosts[:, :FEWER], before)[every, classes] / spread[every, classes]
            ),
            "mirror": lambda: (logits - self._mirrored(images))[every, classes] / spread[every, classes],
            "features": lambda: strangeness(seen, self.known),
            "strip": lambda: strip(self.classifier, images, on[:, :FEWER], classes, of_class),
        }
        parts = {name: np.asarray(do(), np.float64) for name, do in work.items() if name in self.names}
        return _Examined(parts, classes, spots.falls, spots.pixels)

    def _answered(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Features]:
        """Logits and, where they are asked for, features; else [N, 0]."""
        if "features" not in self.names:
            return self.classifier.logits(images).numpy(), np.zeros((len(images), 0), np.float32)
        return answered(self.classifier, images)

    def _mirrored(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of mirrored images: a pattern is no longer the one that was learnt, while findings stay."""
        return self.classifier.logits(np.ascontiguousarray(images[:, :, ::-1])).numpy()

    def _doubtful(self, found: _Examined) -> float:
        """Share of the clean images in which one small box decides the answer."""
        sudden = found.falls >= SUDDEN
        # If most of them are triggered, the target stands out in none of them; but the model is sure of it.
        surest = self.reference.logits.argmax(axis=1)
        rows = np.flatnonzero((surest != found.classes) & (self.reference.logits.max(axis=1) > 0))
        if len(rows):
            images, logits = self.reference.images[rows], self.reference.logits[rows]
            sudden[rows] |= find_hotspots(self.classifier, images, logits, surest[rows]).falls >= SUDDEN
        return float(sudden.mean())


def _known(parts: Sequence[str], classifier: Classifier) -> tuple[str, ...]:
    """The parts in the order of `PARTS`; without features for a black box, and for a network none of whose layers is a map."""
    if unknown := set(parts) - set(PARTS):
        raise PetechiaError(f"{min(unknown)!r} is not a part of the screen; the parts are {', '.join(PARTS)}.")
    found = tuple(name for name in PARTS if name in parts and (name != "features" or has_maps(classifier)))
    if not found:
        raise PetechiaError(
            f"The parts {', '.join(parts) or '(none)'} leave nothing to compute for {classifier.name}; add another."
        )
    return found


def _features(classifier: Classifier, reference: Reference, names: Sequence[str]) -> Features:
    """Those of the clean images, if they are asked for; else [n, 0]."""
    return (
        answered(classifier, reference.images)[1] if "features" in names else np.zeros((len(reference.images), 0), np.float32)
    )


def _same_reference(values: ReferenceValues, reference: Reference, count: int, same_parts: bool) -> bool:
    """Whether clean images and model are those of a calibration, as far as their number and their logits show."""
    usual = np.median(reference.logits, axis=0)
    known = np.array(values.usual_logits)
    if not same_parts or len(reference.images) != count or known.shape != usual.shape:
        return False
    return bool(np.allclose(known, usual, rtol=CLOSE, atol=CLOSE))


def _bounds(pixels: NDArray[np.bool_]) -> Box:
    """The smallest box around pixels."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
