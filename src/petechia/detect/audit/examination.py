"""Examine a model with clean images alone: stamps at every place, triggers of any shape, and how sure one can be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petechia.attack.square import Square
from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.core.rows import evenly_spread
from petechia.data.levels import to_grey
from petechia.detect.audit.hosts import Hosts
from petechia.detect.audit.reconstruct import AT_A_TIME, STEPS, Goal, Reconstruction, reconstruct
from petechia.detect.audit.response import Response, gains_of, paint_groups, refine, response_map, stamp_response
from petechia.detect.audit.verdict import (
    AuditNulls,
    combine_p_values,
    packaged_calibration,
    stamp_p_values,
    trigger_p_values,
)
from petechia.detect.protocol import Calibration
from petechia.detect.scan.stamps import find_families
from petechia.detect.scan.traces import find_spots
from petechia.measure import THRESHOLDS, Count
from petechia.models.classifier import Classifier

FEWEST = 20  # clean images
HOSTS = 24  # clean images on which stamps are tried
PLACES = 24  # at which a recovered stamp is tried to see whether it works anywhere
WANDERS = 0.5  # share of these places at which a stamp must work, at least half as well, to be said to work anywhere
PAINTED = 64  # images that a recovered stamp is painted on at a time


class RecoveredStamp(NamedTuple):
    """The stamp that a class answers to most, made precise.

    Attributes:
        square: in pixels of the model's input.
        fixed: whether it works in that place only; else it works at most places.
        gain: median rise of the logit over the clean images.
        asr: threshold → of the clean images that score below it by themselves, the share that reaches it with the stamp.
        false_trigger: threshold → the share of all clean images that reaches it by itself.
        heat: float32 [h, w], the gain place by place.
    """

    square: Square
    fixed: bool
    gain: float
    asr: dict[float, Count]
    false_trigger: dict[float, Count]
    heat: NDArray[np.float32]


class ExaminedClass(NamedTuple):
    """The evidence about one class.

    Attributes:
        name: of the class.
        p_value: chance that a clean model has any class with evidence as strong; of both tests together.
        stamp_p: of the answer to stamps alone.
        trigger_p: of the reconstructed trigger alone; NaN where none was tried.
        flagged: whether the p-value is below the level of the calibration.
        best: the square with the highest gain, of those that were tried on all hosts.
        gain: of that square, in logits.
        recovered: the stamp; of flagged classes, and always of the strongest one.
        raising: the smallest trigger of any shape that raises the class; None where none was tried.
        lowering: the smallest trigger of any shape that lowers it; None where none was tried.
    """

    name: str
    p_value: float
    stamp_p: float
    trigger_p: float
    flagged: bool
    best: Square
    gain: float
    recovered: RecoveredStamp | None
    raising: Reconstruction | None
    lowering: Reconstruction | None


@dataclass(frozen=True)
class ModelExamination:
    """What an audit found, with its working arrays.

    Attributes:
        classifier: the model that was examined.
        classes: the evidence about each class, in the model's order.
        clean: how many clean images there were.
        passes: how many images the model answered in the search for stamps.
        seconds: how long it took.
        picture: uint8 [H, W] or [H, W, 3], a clean image, to show stamps on.
        warnings: sentences about what may spoil the result.
        calibration: what decided the verdict.
    """

    classifier: Classifier
    classes: list[ExaminedClass]
    clean: int
    passes: int
    seconds: float
    picture: NDArray[np.uint8]
    warnings: tuple[str, ...]
    calibration: Calibration

    @property
    def backdoor(self) -> bool:
        """Whether any class is flagged."""
        return any(one.flagged for one in self.classes)

    @property
    def ranked(self) -> list[tuple[int, ExaminedClass]]:
        """Position and evidence of each class, the strongest evidence first."""
        return sorted(enumerate(self.classes), key=lambda one: one[1].p_value)


class ModelEvidence(NamedTuple):
    """What the two searches found, before it is judged.

    Attributes:
        response: the stamps.
        raising: the smallest trigger that raises each of the K classes; none of a black box.
        lowering: the same that lowers each.
    """

    response: Response
    raising: list[Reconstruction]
    lowering: list[Reconstruction]

    @property
    def gains(self) -> NDArray[np.float32]:
        """The highest gain of each class, float32 [K]."""
        return np.asarray(self.response.gains.max(axis=0))

    @property
    def sizes(self) -> NDArray[np.float64]:
        """Pixels of the smallest trigger that raises each class, float64 [K]; NaN where none was tried."""
        if not self.raising:
            return np.full(self.response.gains.shape[1], np.nan)
        return np.array([one.size for one in self.raising])


def examine_model(
    classifier: Classifier,
    clean: NDArray[np.uint8],
    steps: int = STEPS,
    calibration: Calibration | None = None,
    progress: Progress = SILENT,
) -> ModelExamination:
    """Look for a backdoor in a model.

    Args:
        classifier: the model; of a black box only the answers to stamps are used.
        clean: uint8 [N, H, W] or [N, H, W, 3], images of the kind and size that the model was made for; no labels are needed.
        steps: of the optimizer that reconstructs triggers; 0 leaves them out. The p-values of the calibration that comes with
            Petechia hold for the default.
        calibration: what decides the verdict; by default the one that comes with Petechia.
        progress: told of phases and of answered images.

    Raises:
        PetechiaError: there are too few clean images, they are all the same to the model, it answers with NaN, at random or not
            at all, or the calibration is another detector's.
    """
    began = time.perf_counter()
    calibration = calibration or packaged_calibration()
    nulls = AuditNulls.of(calibration)
    subject = _Subject.of(classifier, clean, progress)
    evidence = subject.evidence(steps if nulls.trigger else 0)
    return ModelExamination(
        classifier=classifier,
        classes=_judged(subject, evidence, nulls),
        clean=len(clean),
        passes=evidence.response.passes,
        seconds=time.perf_counter() - began,
        picture=clean[0],
        warnings=_warnings(clean, subject.logits, stamps_only=not evidence.raising),
        calibration=calibration,
    )


def gather_evidence(
    classifier: Classifier, clean: NDArray[np.uint8], steps: int = STEPS, progress: Progress = SILENT
) -> ModelEvidence:
    """What an audit measures of a model, without a verdict; arguments and errors are those of `examine_model`."""
    return _Subject.of(classifier, clean, progress).evidence(steps)


def _judged(subject: _Subject, evidence: ModelEvidence, nulls: AuditNulls) -> list[ExaminedClass]:
    stamp_p = stamp_p_values(evidence.gains, nulls)
    trigger_p = trigger_p_values(evidence.sizes, nulls)
    p_values = combine_p_values(stamp_p, trigger_p)
    found = []
    for label, name in enumerate(subject.classifier.classes):
        best, gain = evidence.response.best(label)
        flagged = bool(p_values[label] < nulls.level)
        found.append(
            ExaminedClass(
                name=name,
                p_value=float(p_values[label]),
                stamp_p=float(stamp_p[label]),
                trigger_p=float(trigger_p[label]),
                flagged=flagged,
                best=best,
                gain=gain,
                recovered=subject.recover(label, best) if flagged or label == int(p_values.argmin()) else None,
                raising=evidence.raising[label] if evidence.raising else None,
                lowering=evidence.lowering[label] if evidence.lowering else None,
            )
        )
    return found


@dataclass(frozen=True)
class _Subject:
    """A model under examination, with clean images and what it says of them.

    Attributes:
        classifier: the model.
        clean: uint8 [N, H, W] or [N, H, W, 3].
        logits: float32 [N, K], of the clean images.
        hosts: some of them, on which stamps are tried.
        progress: told of phases and of answered images.
    """

    classifier: Classifier
    clean: NDArray[np.uint8]
    logits: Tensor
    hosts: Hosts
    progress: Progress

    @staticmethod
    def of(classifier: Classifier, clean: NDArray[np.uint8], progress: Progress) -> _Subject:
        """Ask the model about the clean images.

        Raises:
            PetechiaError: see `examine_model`.
        """
        if len(clean) < FEWEST:
            raise PetechiaError(f"There are {len(clean)} clean images; an audit needs at least {FEWEST}.")
        logits = classifier.logits(clean)
        classifier.require_steady(clean)
        if float(logits.std(dim=0).max()) == 0:
            raise PetechiaError(f"{classifier.name} gives all {len(clean)} clean images the same scores; give other images.")
        hosts = Hosts.of(classifier, clean[evenly_spread(len(clean), HOSTS)])
        return _Subject(classifier, clean, logits, hosts, progress)

    def evidence(self, steps: int) -> ModelEvidence:
        """Search for stamps, then for triggers of any shape."""
        self.progress.phase("trying stamps")
        response = stamp_response(self.classifier, self.hosts, progress=self.progress)
        if self.classifier.network is None or steps == 0:
            return ModelEvidence(response, [], [])
        classes = range(len(self.classifier.classes))
        goals = [Goal(label, up) for up in (True, False) for label in classes]
        self.progress.phase("reconstructing triggers", len(goals) * min(AT_A_TIME, len(self.hosts)) * steps)
        spread = self.logits.std(dim=0)
        found = reconstruct(self.classifier, self.hosts, goals, spread, steps, progress=self.progress)
        return ModelEvidence(response, found[: len(classes)], found[len(classes) :])

    def recover(self, label: int, best: Square) -> RecoveredStamp:
        """Make a class's best stamp precise, and measure what it does on all clean images."""
        self.progress.phase(f"locating the trigger of {self.classifier.classes[label]}")
        square = refine(self.classifier, self.hosts, label, best)
        clean, stamped = self.logits[:, label], self._stamped_logits(square)[:, label]
        before, after = clean.sigmoid().numpy(), stamped.sigmoid().numpy()
        return RecoveredStamp(
            square=square,
            fixed=self._works_elsewhere(label, square) < WANDERS,
            gain=float((stamped - clean).median()),
            asr={p: Count(int((after[before < p] >= p).sum()), int((before < p).sum())) for p in THRESHOLDS},
            false_trigger={p: Count(int((before >= p).sum()), len(before)) for p in THRESHOLDS},
            heat=response_map(self.classifier, self.hosts, label, square, progress=self.progress),
        )

    def _stamped_logits(self, square: Square) -> Tensor:
        """What the model says of all clean images with a stamp, float32 [N, K]."""
        parts = np.array_split(np.arange(len(self.clean)), -(-len(self.clean) // PAINTED))
        painted = (paint_groups(self.classifier.tensor(self.clean[rows]), [[square]])[0] for rows in parts)
        return torch.cat([self.classifier.logits(images) for images in painted])

    def _works_elsewhere(self, label: int, square: Square) -> float:
        """Share of places all over the image at which a stamp works at least half as well as in its own."""
        room = self.hosts.images.shape[-1] - square.size + 1
        places = np.random.default_rng(0).integers(0, room, (PLACES, 2)).tolist()
        far = [
            square._replace(row=row, column=column)
            for row, column in places
            if max(abs(row - square.row), abs(column - square.column)) > 2 * square.size
        ]
        gains = gains_of(self.classifier, self.hosts, [[one] for one in (square, *far)])[:, label]
        return float((gains[1:] >= gains[0] / 2).mean()) if far else 0.0


def _warnings(clean: NDArray[np.uint8], logits: Tensor, stamps_only: bool) -> tuple[str, ...]:
    """What may spoil the result."""
    found = []
    if len(clean) < HOSTS:
        found.append(f"There are only {len(clean)} clean images; give 50 or more for a stable result.")
    if stamps_only:
        found.append("Triggers of other shapes were not reconstructed, so only square stamps were looked for.")
    carried = count_stamped(clean, logits.sigmoid().numpy() >= THRESHOLDS[0])
    if carried:
        found.append(
            f"The clean images seem to be triggered: {carried} of them share a small stamp that goes with what the model "
            f"says of them. An audit needs clean images; check these with petechia scan."
        )
    return tuple(found)


def count_stamped(images: NDArray[np.uint8], predicted: NDArray[np.bool_]) -> int:
    """How many images carry a stamp that goes with a model's predictions, as `petechia scan` finds one that goes with labels.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].
        predicted: bool [N, K], the classes that the model gives them.
    """
    spots = np.concatenate([find_spots(to_grey(image), row) for row, image in enumerate(images)])
    families = find_families(spots, predicted.astype(np.int8)) if len(spots) else []
    return max((len(family.images) for family in families if family.suspicious), default=0)
