"""Examine a model with clean images alone: stamps at every place, triggers of any shape, and how sure one can be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.core.rows import evenly_spread
from petechia.data.levels import to_grey
from petechia.detect.audit.reconstruct import AT_A_TIME, STEPS, Goal, Reconstruction, reconstruct
from petechia.detect.audit.response import Stamp, gains_of, put, refine, response_map, stamp_response
from petechia.detect.audit.verdict import LEVEL, combine_p_values, stamp_p_values, trigger_p_values
from petechia.detect.scan.stamps import find_families
from petechia.detect.scan.traces import find_spots
from petechia.measure import THRESHOLDS, Count
from petechia.models.classifier import Classifier

FEWEST = 20  # clean images
HOSTS = 24  # of them, on which stamps are tried
PLACES = 24  # at which a recovered stamp is tried to see whether it works anywhere
WANDERS = 0.5  # share of them at which it must work, half as well at least


class Recovered(NamedTuple):
    """The stamp that a class answers to most, made precise.

    Attributes:
        stamp: in pixels of the model's input.
        fixed: whether it works in that place alone; else at most places.
        gain: median rise of the logit over the clean images.
        asr: threshold → of the clean images that do not score as high by themselves, the share that does with the stamp.
        false_trigger: threshold → the share of all clean images that scores as high by themselves.
        heat: float32 [h, w], the gain place by place.
    """

    stamp: Stamp
    fixed: bool
    gain: float
    asr: dict[float, Count]
    false_trigger: dict[float, Count]
    heat: NDArray[np.float32]


class ClassFinding(NamedTuple):
    """What is found about one class.

    Attributes:
        name: of the class.
        p_value: chance that a clean model has any class with evidence as strong; of both tests together.
        stamp_p: of the answer to stamps alone.
        trigger_p: of the reconstructed trigger alone; NaN where none was tried.
        flagged: whether the p-value is under `LEVEL`.
        best: the stamp with the highest gain, of those that were tried on all hosts.
        gain: of it, in logits.
        recovered: of a flagged class, and of the strongest one in any case.
        raising: the smallest trigger of any shape that raises the class; None where none was tried.
        lowering: the same that lowers it.
    """

    name: str
    p_value: float
    stamp_p: float
    trigger_p: float
    flagged: bool
    best: Stamp
    gain: float
    recovered: Recovered | None
    raising: Reconstruction | None
    lowering: Reconstruction | None


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        classifier: that was examined.
        findings: one a class, in the model's order.
        clean: how many clean images there were.
        passes: images that the model answered for the stamps.
        seconds: that it took.
        picture: uint8 [H, W] or [H, W, 3], a clean image, to show stamps on.
        warnings: sentences about what may spoil the result.
    """

    classifier: Classifier
    findings: list[ClassFinding]
    clean: int
    passes: int
    seconds: float
    picture: NDArray[np.uint8]
    warnings: tuple[str, ...]

    @property
    def backdoor(self) -> bool:
        """Whether any class is flagged."""
        return any(finding.flagged for finding in self.findings)


def audit(
    classifier: Classifier,
    clean: NDArray[np.uint8],
    steps: int = STEPS,
    progress: Progress = SILENT,
) -> Audit:
    """Look for a backdoor.

    Args:
        classifier: a model; of a black box only the answers to stamps are used.
        clean: uint8 [N, H, W] or [N, H, W, 3], images of the kind and size that it was made for; labels are not needed.
        steps: of the optimiser that reconstructs triggers; 0 leaves them out. The p-values of triggers hold for the default.
        progress: told what happens.

    Raises:
        PetechiaError: there are too few clean images, they are all the same to the model, or it answers with NaN.
    """
    began = time.perf_counter()
    if len(clean) < FEWEST:
        raise PetechiaError(f"There are {len(clean)} clean images; an audit needs at least {FEWEST}.")
    logits = classifier.logits(clean)
    spread = logits.std(dim=0)
    if float(spread.max()) == 0:
        raise PetechiaError(f"{classifier.name} gives all {len(clean)} clean images the same scores; give other images.")
    hosts = classifier.tensor(clean[evenly_spread(len(clean), HOSTS)])
    progress.phase("trying stamps")
    response = stamp_response(classifier, hosts, progress=progress)
    stamp_p = stamp_p_values(response.gains.max(axis=0))
    raising, lowering = _rebuilt(classifier, hosts, spread, steps, progress)
    sizes = np.array([one.size for one in raising])
    trigger_p = trigger_p_values(sizes) if raising else np.full(len(stamp_p), np.nan)
    p_values = combine_p_values(stamp_p, trigger_p)
    findings = []
    for label, name in enumerate(classifier.classes):
        best, gain = response.best(label)
        shown = p_values[label] < LEVEL or label == int(p_values.argmin())
        findings.append(
            ClassFinding(
                name=name,
                p_value=float(p_values[label]),
                stamp_p=float(stamp_p[label]),
                trigger_p=float(trigger_p[label]),
                flagged=bool(p_values[label] < LEVEL),
                best=best,
                gain=gain,
                recovered=_recover(classifier, clean, logits, hosts, label, best, progress) if shown else None,
                raising=raising[label] if raising else None,
                lowering=lowering[label] if lowering else None,
            )
        )
    return Audit(
        classifier=classifier,
        findings=findings,
        clean=len(clean),
        passes=response.passes,
        seconds=time.perf_counter() - began,
        picture=clean[0],
        warnings=_warnings(classifier, clean, logits, stamps_only=not raising),
    )


def _rebuilt(
    classifier: Classifier, hosts: Tensor, spread: Tensor, steps: int, progress: Progress
) -> tuple[list[Reconstruction], list[Reconstruction]]:
    """The smallest triggers that raise each class, and those that lower it; none of a black box."""
    if classifier.network is None or steps == 0:
        return [], []
    classes = range(len(classifier.classes))
    goals = [Goal(label, up) for up in (True, False) for label in classes]
    progress.phase("reconstructing triggers", len(goals) * min(AT_A_TIME, len(hosts)) * steps)
    found = reconstruct(classifier, hosts, goals, spread, steps, progress=progress)
    return found[: len(classes)], found[len(classes) :]


def _recover(
    classifier: Classifier,
    clean: NDArray[np.uint8],
    logits: Tensor,
    hosts: Tensor,
    label: int,
    best: Stamp,
    progress: Progress,
) -> Recovered:
    progress.phase(f"locating the trigger of {classifier.classes[label]}")
    stamp = refine(classifier, hosts, label, best)
    stamped = torch.cat(
        [
            classifier.logits(put(classifier.tensor(clean[rows]), [[stamp]])[0])
            for rows in np.array_split(np.arange(len(clean)), -(-len(clean) // 64))
        ]
    )[:, label]
    before, after = logits[:, label].sigmoid().numpy(), stamped.sigmoid().numpy()
    return Recovered(
        stamp=stamp,
        fixed=_works_elsewhere(classifier, hosts, label, stamp) < WANDERS,
        gain=float((stamped - logits[:, label]).median()),
        asr={level: Count(int((after[before < level] >= level).sum()), int((before < level).sum())) for level in THRESHOLDS},
        false_trigger={level: Count(int((before >= level).sum()), len(before)) for level in THRESHOLDS},
        heat=response_map(classifier, hosts, label, stamp, progress=progress),
    )


def _works_elsewhere(classifier: Classifier, hosts: Tensor, label: int, stamp: Stamp) -> float:
    """Share of places all over the image at which a stamp works half as well, at least, as in its own."""
    room = hosts.shape[-1] - stamp.size + 1
    places = np.random.default_rng(0).integers(0, room, (PLACES, 2)).tolist()
    far = [(row, column) for row, column in places if max(abs(row - stamp.row), abs(column - stamp.column)) > 2 * stamp.size]
    groups = [[stamp], *([stamp._replace(row=row, column=column)] for row, column in far)]
    gains = gains_of(classifier, hosts, classifier.logits(hosts), groups, SILENT)[:, label]
    return float((gains[1:] >= gains[0] / 2).mean()) if far else 0.0


def _warnings(classifier: Classifier, clean: NDArray[np.uint8], logits: Tensor, stamps_only: bool) -> tuple[str, ...]:
    """What may spoil the result."""
    said = []
    if len(clean) < HOSTS:
        said.append(f"There are only {len(clean)} clean images; take 50 or more for a steady result.")
    if stamps_only:
        said.append("Triggers of other shapes were not reconstructed, so only square stamps were looked for.")
    carried = stamps_in(clean, logits.sigmoid().numpy() >= THRESHOLDS[0])
    if carried:
        said.append(
            f"The clean images seem to be triggered: {carried} of them share a small stamp that goes with what the model says "
            f"of them. An audit needs clean ones; scan them."
        )
    return tuple(said)


def stamps_in(images: NDArray[np.uint8], said: NDArray[np.bool_]) -> int:
    """How many images carry a stamp that goes with what a model says of them, as `petechia scan` finds it with labels.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].
        said: bool [N, K], the classes that the model gives them.
    """
    spots = np.concatenate([find_spots(to_grey(image), row) for row, image in enumerate(images)])
    families = find_families(spots, said.astype(np.int8)) if len(spots) else []
    return max((len(family.images) for family in families if family.suspicious), default=0)
