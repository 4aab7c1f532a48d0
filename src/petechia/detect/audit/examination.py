"""Examine a model with clean images alone: stamps at every place, changes of the image, and how sure one can be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

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
from petechia.detect.audit.measured import FEWEST as FEWEST_CLASSES
from petechia.detect.audit.measured import Measured, Values, rounded
from petechia.detect.audit.queries import QUERIES, rise_by_asking
from petechia.detect.audit.response import (
    MAP,
    Response,
    gains_of,
    paint_groups,
    place_leads,
    refine,
    response_map,
    stamp_response,
)
from petechia.detect.audit.rises import SHARES, Rise, rise
from petechia.detect.audit.transforms import FAMILIES, Family, family_named
from petechia.detect.audit.verdict import AuditNulls, Judgement, packaged_calibration
from petechia.detect.protocol import Calibration, ModelUnderTest
from petechia.detect.scan.stamps import find_families
from petechia.detect.scan.traces import find_spots
from petechia.measure import THRESHOLDS, Count
from petechia.models.classifier import Classifier

FEWEST = 20  # clean images
HOSTS = 24  # clean images on which stamps are tried, and changes of the image are fitted
STAMP_QUERIES = 12_000  # of a black box, for groups of stamps, about
JUDGES = 40  # others, on which these changes are judged
PLACES = 24  # at which a recovered stamp is tried to see whether it works anywhere
WANDERS = 0.5  # share of these places at which a stamp must work, at least half as well, to be said to work anywhere
PAINTED = 64  # images that a recovered trigger is put on at a time
POINTS = 0.2  # p-value of a class up to which a test of a change points at it; where nothing answers it is 0.5 and more
SURE = THRESHOLDS[-1]
TOOK = 0.5  # ASR from which a trigger does what a backdoor's does


Outcome = Literal["backdoor", "simple change", "nothing"]


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


class RecoveredChange(NamedTuple):
    """The change of the image that a class answers to most, at its family's limit.

    Attributes:
        family: of changes.
        strength: how far it goes, in the family's unit.
        gain: median rise of the logit over clean images that it was not fitted on.
        asr: as of a stamp, on all clean images.
        false_trigger: likewise.
        picture: uint8 [H, W] or [H, W, 3], the first clean image with the change.
        direction: float32 [1, …], of the change.
    """

    family: str
    strength: float
    gain: float
    asr: dict[float, Count]
    false_trigger: dict[float, Count]
    picture: NDArray[np.uint8]
    direction: Tensor


class ExaminedClass(NamedTuple):
    """The evidence about one class.

    Attributes:
        name: of the class.
        p_value: chance that a clean model has any class with evidence as strong; of all tests together.
        tests: test → the p-value of it alone.
        flagged: whether the p-value is not above the level of the calibration.
        natural: whether the same class of a clean reference model is flagged, too; None without a reference.
        best: the square with the highest gain, of those that were tried on all hosts.
        gain: of that square, in logits.
        recovered: the stamp; of flagged classes, and always of the strongest one.
        change: of the whole image; of the same classes, where such changes were tried.
    """

    name: str
    p_value: float
    tests: dict[str, float]
    flagged: bool
    natural: bool | None
    best: Square
    gain: float
    recovered: RecoveredStamp | None
    change: RecoveredChange | None

    @property
    def found_by(self) -> str:
        """The test with the smallest p-value; empty where none is evidence."""
        return min(self.tests, key=self.tests.__getitem__, default="") if self.p_value < 1 else ""

    @property
    def by_change(self) -> bool:
        """Whether the change of the image is the trigger to show, and not the stamp.

        It is the one that does what a backdoor's trigger does; where both do or none does, the one that the class was found by.
        """
        if self.change is None or self.recovered is None:
            return self.change is not None
        with_stamp, with_change = (one.asr[SURE].share >= TOOK for one in (self.recovered, self.change))
        return with_change if with_stamp != with_change else self.change.family == self.found_by

    @property
    def took(self) -> bool:
        """Whether a recovered trigger does what a backdoor's does: it brings half of the images below 0.9, or more, to 0.9."""
        return any(one.asr[SURE].share >= TOOK for one in (self.recovered, self.change) if one)


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
        measured: what the searches found, as numbers.
        baseline: name of the model that this one is an update of; None without one.
        compared: clean models that it was compared with.
        likeness: how near it is to them: see `petechia.detect.audit.verdict.Judgement`.
    """

    classifier: Classifier
    classes: list[ExaminedClass]
    clean: int
    passes: int
    seconds: float
    picture: NDArray[np.uint8]
    warnings: tuple[str, ...]
    calibration: Calibration
    measured: Measured
    baseline: str | None
    compared: int
    likeness: float

    @property
    def outcome(self) -> Outcome:
        """Whether any class is flagged, and is more than an answer to a simple change, which may be natural.

        A backdoor is said where a recovered trigger does what a backdoor's does, and a reference does not answer likewise.
        """
        flagged = [one for one in self.classes if one.flagged]
        if not flagged:
            return "nothing"
        return "backdoor" if any(one.took and not one.natural for one in flagged) else "simple change"

    @property
    def ranked(self) -> list[tuple[int, ExaminedClass]]:
        """Position and evidence of each class, the strongest evidence first."""
        return sorted(enumerate(self.classes), key=lambda one: (one[1].p_value, prod(one[1].tests.values())))


class ModelEvidence(NamedTuple):
    """What the searches found, before it is judged.

    Attributes:
        response: the stamps.
        rises: what each family of changes of the image does; none for few classes.
        leads: of the best stamps' places over others, float64 [K]; of a model with few classes, else [0].
    """

    response: Response
    rises: list[Rise]
    leads: Values


def examine_model(
    classifier: Classifier,
    clean: NDArray[np.uint8],
    quick: bool = False,
    calibration: Calibration | None = None,
    progress: Progress = SILENT,
    reference: ModelUnderTest | None = None,
    baseline: ModelUnderTest | None = None,
) -> ModelExamination:
    """Look for a backdoor in a model.

    Args:
        classifier: the model; of a black box only the answers are used, and no free shapes are tried.
        clean: uint8 [N, H, W] or [N, H, W, 3], images of the kind and size that the model was made for; no labels are needed.
        quick: of the changes of the image search for patterns only.
        calibration: what decides the verdict; by default the one that comes with Petechia.
        progress: told of phases and of answered images.
        reference: a clean model of the same data: what it answers to likewise is natural.
        baseline: the trusted model that this one is an update of: only what changed since is judged.

    Raises:
        PetechiaError: there are too few clean images, they are all the same to the model, it answers with NaN, at random or not
            at all, the calibration is another detector's or has too few models, the reference has none of the model's classes,
            the baseline has others, or only one of two models that are compared is a black box.
    """
    began = time.perf_counter()
    calibration = calibration or packaged_calibration()
    nulls = AuditNulls.of(calibration)
    subject = _Subject.of(classifier, clean, progress)
    evidence = subject.evidence(quick)
    measured = subject.measured(evidence)
    if baseline is None:
        judgement = nulls.judge(measured)
    else:
        judgement = nulls.judge_update(measured, _measured_before(baseline, classifier, quick, progress))
    if 1 / (judgement.models + 1) > nulls.level:
        likewise = f" of fewer than {FEWEST_CLASSES} classes, too" if measured.few else ""
        paired = "" if baseline is None else ", each with another one of the same data,"
        raise PetechiaError(
            f"The calibration has {judgement.models} clean models{paired} to compare {classifier.name} with, too few to flag "
            f"anything at {nulls.level:.2g}; calibrate with more (petechia calibrate){likewise}."
        )
    natural = None if reference is None else _flagged_of(reference, classifier, quick, nulls, progress)
    return ModelExamination(
        classifier=classifier,
        classes=_judged(subject, evidence, judgement, nulls.level, natural),
        clean=len(clean),
        passes=evidence.response.passes,
        seconds=time.perf_counter() - began,
        picture=clean[0],
        warnings=_warnings(clean, subject.logits, evidence, black_box=classifier.network is None),
        calibration=calibration,
        measured=measured,
        baseline=None if baseline is None else baseline.classifier.public_name,
        compared=judgement.models,
        likeness=judgement.likeness,
    )


def measure_model(
    classifier: Classifier, clean: NDArray[np.uint8], quick: bool = False, progress: Progress = SILENT
) -> Measured:
    """What an audit measures of a model, without a verdict; arguments and errors are those of `examine_model`."""
    subject = _Subject.of(classifier, clean, progress)
    return subject.measured(subject.evidence(quick))


def families_of(classifier: Classifier, quick: bool) -> tuple[Family, ...]:
    """The changes of the image that are searched for in a model: none where its classes are few."""
    if len(classifier.classes) < FEWEST_CLASSES:
        return ()
    families = FAMILIES if classifier.network is not None else tuple(map(family_named, QUERIES))
    return families[:1] if quick else families


def _measured_before(baseline: ModelUnderTest, examined: Classifier, quick: bool, progress: Progress) -> Measured:
    """What the searches find in a predecessor."""
    before = baseline.classifier
    if before.classes != examined.classes:
        raise PetechiaError(f"{before.name} has other classes than {examined.name}; give the model that it is an update of.")
    _check_alike(before, examined)
    progress.phase(f"the baseline: {before.name}")
    return measure_model(before, baseline.clean, quick, progress)


def _check_alike(other: Classifier, examined: Classifier) -> None:
    """Searches with and without gradients find different things."""
    if (other.network is None) != (examined.network is None):
        blind, open_one = (other, examined) if other.network is None else (examined, other)
        raise PetechiaError(f"{blind.name} is a black box and {open_one.name} is not; give both in the same format.")


def _flagged_of(
    reference: ModelUnderTest, examined: Classifier, quick: bool, nulls: AuditNulls, progress: Progress
) -> frozenset[str]:
    """The classes of a reference model that are flagged."""
    if not set(reference.classifier.classes) & set(examined.classes):
        raise PetechiaError(f"{reference.classifier.name} has no class of {examined.name}; give a reference of the same data.")
    _check_alike(reference.classifier, examined)
    progress.phase(f"the reference: {reference.classifier.name}")
    p_values = nulls.judge(measure_model(reference.classifier, reference.clean, quick, progress)).p_values
    return frozenset(name for name, p in zip(reference.classifier.classes, p_values, strict=True) if p <= nulls.level)


def _judged(
    subject: _Subject, evidence: ModelEvidence, judgement: Judgement, level: float, natural: frozenset[str] | None
) -> list[ExaminedClass]:
    p_values = judgement.p_values
    strongest = judgement.ranked[0]
    found = []
    for label, name in enumerate(subject.classifier.classes):
        best, gain = evidence.response.best(label)
        flagged = bool(p_values[label] <= level)
        shown = flagged or label == strongest
        found.append(
            ExaminedClass(
                name=name,
                p_value=float(p_values[label]),
                tests={test: float(values[label]) for test, values in judgement.tests.items()},
                flagged=flagged,
                natural=None if natural is None else name in natural,
                best=best,
                gain=gain,
                recovered=subject.recover(label, best) if shown else None,
                change=subject.recover_change(label, evidence.rises, judgement) if shown else None,
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

    def evidence(self, quick: bool) -> ModelEvidence:
        """Search for stamps, then for changes of the image."""
        self.progress.phase("trying stamps")
        most = STAMP_QUERIES if self.classifier.network is None else None
        response = stamp_response(self.classifier, self.hosts, queries=most, progress=self.progress)
        if len(self.classifier.classes) < FEWEST_CLASSES:
            return ModelEvidence(response, [], place_leads(self.classifier, self.hosts, response, self._cells, self.progress))
        return ModelEvidence(response, list(self._rises(families_of(self.classifier, quick))), np.zeros(0))

    def _rises(self, families: Sequence[Family]) -> Iterator[Rise]:
        rows = np.random.default_rng(0).permutation(len(self.clean))
        middle = min(HOSTS, len(rows) // 2)
        fit, judge = (Hosts.of(self.classifier, self.clean[some]) for some in (rows[:middle], rows[middle : middle + JUDGES]))
        for family in families:
            self.progress.phase(f"changing images: {family.name}")
            if self.classifier.network is None:
                yield rise_by_asking(self.classifier, fit, judge, family, QUERIES[family.name], progress=self.progress)
            else:
                yield rise(self.classifier, fit, judge, family, progress=self.progress)

    def measured(self, evidence: ModelEvidence) -> Measured:
        """The evidence as numbers, class by class."""
        return Measured(
            name=self.classifier.public_name,
            size=self.clean.shape[1],
            channels=1 if self.clean.ndim == 3 else 3,
            images=len(self.clean),
            classes=tuple(self.classifier.classes),
            chance=rounded(self.logits.sigmoid().mean(dim=0).numpy()),
            spread=rounded(self.logits.std(dim=0).numpy()),
            gains=rounded(evidence.response.margins.max(axis=0)),
            rises={one.family: tuple(map(rounded, one.margins)) for one in evidence.rises},
            leads=rounded(evidence.leads),
        )

    @property
    def _cells(self) -> int:
        return MAP if self.classifier.network is not None else MAP // 2

    def recover(self, label: int, best: Square) -> RecoveredStamp:
        """Make a class's best stamp precise, and measure what it does on all clean images."""
        self.progress.phase(f"locating the trigger of {self.classifier.classes[label]}")
        square = refine(self.classifier, self.hosts, label, best)
        clean, stamped = self.logits[:, label], self._stamped_logits(square)[:, label]
        return RecoveredStamp(
            square=square,
            fixed=self._works_elsewhere(label, square) < WANDERS,
            gain=float((stamped - clean).median()),
            **_rates(clean, stamped),
            heat=response_map(self.classifier, self.hosts, label, square, self._cells, self.progress),
        )

    def recover_change(self, label: int, rises: Sequence[Rise], judgement: Judgement) -> RecoveredChange | None:
        """What the most striking change of the image does to all clean images, at its family's limit.

        None where no test of a change points at the class, as with a stamp that works only in its place.
        """
        standing = {one.family: judgement.tests[one.family][label] for one in rises if one.family in judgement.tests}
        strongest = min(standing, key=standing.__getitem__, default=None)
        if strongest is None or standing[strongest] > POINTS:
            return None
        found = next(one for one in rises if one.family == strongest)
        family = family_named(found.family)
        direction = found.directions[label : label + 1].float().to(self.hosts.images.device)
        strength = SHARES[-1] * family.limit
        with torch.inference_mode():
            changed = torch.cat(
                [
                    self.classifier.logits(family.change(self.classifier.tensor(self.clean[rows]), direction, strength)[0])
                    for rows in np.array_split(np.arange(len(self.clean)), -(-len(self.clean) // PAINTED))
                ]
            )
            picture = family.shown(self.classifier.tensor(self.clean[:1]), direction, strength)
        return RecoveredChange(
            family=found.family,
            strength=strength,
            gain=float(found.own[-1, label]),
            picture=picture,
            direction=direction.cpu(),
            **_rates(self.logits[:, label], changed[:, label]),
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


def _rates(clean: Tensor, triggered: Tensor) -> dict[str, dict[float, Count]]:
    """Threshold → attack success and false triggers, of logits [N] without and with a trigger."""
    before, after = clean.sigmoid().numpy(), triggered.sigmoid().numpy()
    return {
        "asr": {p: Count(int((after[before < p] >= p).sum()), int((before < p).sum())) for p in THRESHOLDS},
        "false_trigger": {p: Count(int((before >= p).sum()), len(before)) for p in THRESHOLDS},
    }


def _warnings(clean: NDArray[np.uint8], logits: Tensor, evidence: ModelEvidence, black_box: bool) -> tuple[str, ...]:
    """What may spoil the result."""
    found = []
    if len(clean) < HOSTS:
        found.append(f"There are only {len(clean)} clean images; give 50 or more for a stable result.")
    left = [one.name for one in FAMILIES if one.name not in {rise.family for rise in evidence.rises}]
    if not evidence.rises:
        found.append(
            "Only square stamps were looked for: no triggers of other shapes, and no changes of the image. With fewer "
            "than four classes clean models answer to these as backdoored ones do."
        )
    elif left:
        found.append(f"Some triggers were not looked for: {' and '.join(left)}.")
    if evidence.rises and black_box:
        found.append("Only the answers of this model were used: changes of the image were searched for without gradients.")
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
