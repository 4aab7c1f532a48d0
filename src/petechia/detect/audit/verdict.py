"""How surprising the evidence for a class is, given the strongest evidence in clean models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from math import log2, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from petechia.core.results import Record
from petechia.detect.audit.measured import MOST, SHARE, STAMPS, TOGETHER, Measured, Values
from petechia.detect.protocol import Calibration

DETECTOR = "audit"
LEVEL = 0.02  # p-value up to which a class is flagged, where there are models enough
FEWEST_MODELS = 2  # clean models that give a null
LEAST = 1.0  # of a stamp's margin, before the logarithm
LEAST_RISE = 2.0  # of the margin of another change, likewise: less is no evidence
LEAST_SPREAD = 0.1  # of a class's logits, before the logarithm: some classes never change
LEAST_STD = 0.1  # of a null: a few models that are alike by luck must not make it narrower
RIDGE = 0.1  # of the correction


def evidence_of(found: Measured) -> dict[str, Values]:
    """How strongly each class answers, test by test: test → float64 [K], logarithms, higher is stronger.

    The classes of a model that has enough of them are compared with each other: what counts are margins. Of a model with few
    classes, it is the lead of a stamp's place over other places alone.
    """
    if found.few:
        values = {STAMPS: np.array(found.leads)} if found.leads else {}
    else:
        values = {STAMPS: np.array(found.gains), **{name: np.array(shares[SHARE]) for name, shares in found.rises.items()}}
    return {test: np.log(np.clip(one, _least(test), MOST)) for test, one in values.items()}


def _least(test: str) -> float:
    return LEAST if test == STAMPS else LEAST_RISE


def _answers(test: str, evidence: Values) -> NDArray[np.bool_]:
    """Which classes answer more than the least that counts, bool [K]."""
    return np.asarray(evidence > np.log(_least(test)))


def _above(values: Values) -> Values:
    """Beyond the median class, of an even number of classes beyond the lower of the middle two."""
    return np.asarray(values - np.quantile(values, 0.5, method="lower"))


def _known(found: Measured) -> Values:
    """What a class's answer depends on in any model: how common it is, twice, and how spread its scores are.

    All false alarms are on the most common classes: what half of the images show answers to many changes.

    Returns:
        float64 [K, 4]; the last is the constant, for few classes.
    """
    chance = np.clip(found.chance, 1e-6, 1 - 1e-6)
    common, spread = np.log(chance / (1 - chance)), np.log(np.maximum(found.spread, LEAST_SPREAD))
    if not found.few:
        common, spread = _above(common), _above(spread)
    return np.stack([common, np.maximum(common, 0) ** 2, spread, np.full(len(common), float(found.few))], axis=1)


def _traits(found: Measured) -> dict[str, float]:
    """What a model is like, apart from its strongest class."""
    chance = np.clip(found.chance, 1e-6, 1 - 1e-6)
    medians = {f"median {test}": float(np.median(values)) for test, values in evidence_of(found).items()}
    return medians | {
        "size": log2(found.size),
        "channels": log2(found.channels),
        "classes": log2(len(found.classes)),
        "most common": float(np.log(chance / (1 - chance)).max()),
    }


class _Row(NamedTuple):
    """One model in one test.

    Attributes:
        evidence: float64 [K].
        known: what it depends on, float64 [K, 4].
        answers: bool [K], whether the class answers at all; one that does not is no evidence, whatever was expected of it.
        few: whether classes are not compared with those of their own model.
    """

    evidence: Values
    known: Values
    answers: NDArray[np.bool_]
    few: bool

    def corrected(self, weights: Values) -> Values:
        """The evidence beyond what is expected of such classes, float64 [K]; none for a class that does not answer."""
        beyond = self.evidence - self.known @ weights
        return np.where(self.answers, beyond, np.minimum(beyond, self.evidence))

    def standing(self, corrected: Values) -> Values:
        """How far each class stands out, float64 [K].

        Among the strongest classes the widest gap is looked for, as a backdoor may have several targets: those above it stand
        out by its width, the others do not.
        """
        if self.few:
            return np.where(self.answers, corrected, corrected.min())
        order = np.argsort(-corrected)
        gaps = -np.diff(corrected[order])[:TOGETHER]
        widest = int(gaps.argmax())
        found = np.zeros(len(corrected))
        found[order[: widest + 1]] = gaps[widest]
        return np.where(self.answers, found, 0)


class Null(NamedTuple):
    """How strong the evidence for the strongest class of a clean model is, in one test.

    Attributes:
        weights: float64 [4], by how much what is known of a class moves its evidence.
        mean: how far the strongest class of a clean model stands out, each corrected by the weights of the others.
        std: of that, as a sample.
        models: how many models were measured.
    """

    weights: Values
    mean: float
    std: float
    models: int

    @staticmethod
    def of(rows: Sequence[_Row]) -> Null:
        """From clean models."""
        strongest = [
            float(row.standing(row.corrected(_weights([*rows[:n], *rows[n + 1 :]]))).max()) for n, row in enumerate(rows)
        ]
        return Null(_weights(rows), float(np.mean(strongest)), max(LEAST_STD, float(np.std(strongest, ddof=1))), len(rows))

    def p_values(self, row: _Row) -> Values:
        """For each class, the chance that any class of another clean model stands out as far, float64 [K].

        This is Student's prediction for one more model, so few models give no small p-values. It counts all classes of a
        model together, so no correction for the number of classes is left to make.
        """
        distance = (row.standing(row.corrected(self.weights)) - self.mean) / (self.std * sqrt(1 + 1 / self.models))
        return np.asarray(stats.t.sf(distance, self.models - 1))


def _weights(rows: Sequence[_Row]) -> Values:
    """Ridge regression of the evidence of all classes of all models."""
    known, evidence = np.concatenate([row.known for row in rows]), np.concatenate([row.evidence for row in rows])
    return np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ evidence)


class Judgement(NamedTuple):
    """What the tests together say of one model.

    Attributes:
        p_values: float64 [K], the chance that any class of a clean model has evidence as strong in any test.
        tests: test → float64 [K], of each alone.
        models: clean models that it was compared with, the fewest of all tests.
        likeness: share of the clean models that are as far from the one next to them as this model is, or farther; 0 where
            this model is farther from all than any of them is.
    """

    p_values: Values
    tests: dict[str, Values]
    models: int
    likeness: float

    def least(self, label: int) -> float:
        """The smallest p-value of a class in any one test."""
        return min((float(values[label]) for values in self.tests.values()), default=1.0)


class AuditNulls(Record):
    """What decides the verdict of an audit: the values of its calibration file.

    Attributes:
        level: p-value up to which a class is flagged: the chance that a clean model is flagged.
        tests: those that count.
        models: what the tests found in clean models. Those with few classes are compared with those with few, the others with
            the others.
    """

    level: float = Field(gt=0, lt=1)
    tests: tuple[str, ...] = Field(min_length=1)
    models: tuple[Measured, ...]

    @staticmethod
    def of(calibration: Calibration | None = None) -> AuditNulls:
        """The values of a calibration, by default of the one that comes with Petechia.

        Raises:
            PetechiaError: the calibration is another detector's, or a value is missing or wrong.
        """
        return (calibration or packaged_calibration()).read(DETECTOR, AuditNulls)

    def with_models(self, models: Sequence[Measured]) -> AuditNulls:
        """The same rules with other clean models."""
        return AuditNulls(level=self.level, tests=self.tests, models=tuple(models))

    @cached_property
    def nulls(self) -> Mapping[tuple[bool, str], Null]:
        """Whether the classes are few, test → null; none where too few models have evidence of this kind."""
        rows: dict[tuple[bool, str], list[_Row]] = {}
        for one in self.models:
            for test, row in self._rows(one):
                rows.setdefault((one.few, test), []).append(row)
        return {key: Null.of(some) for key, some in rows.items() if len(some) >= FEWEST_MODELS}

    @cached_property
    def update_nulls(self) -> Mapping[tuple[bool, str], Null]:
        """The same of updates: each clean model as an update of another one of the same data.

        They were trained apart, so they differ more than a model and its successor do: these nulls are on the safe side.
        """
        rows: dict[tuple[bool, str], list[_Row]] = {}
        for new, old in self._pairs():
            for test, row in self._changes(new, old):
                rows.setdefault((new.few, test), []).append(row)
        return {key: Null.of(some) for key, some in rows.items() if len(some) >= FEWEST_MODELS}

    def _pairs(self) -> Iterator[tuple[Measured, Measured]]:
        """Of the models with the same classes, size and channels, each with the next, the last with the first."""
        alike: dict[tuple[tuple[str, ...], int, int], list[Measured]] = {}
        for one in self.models:
            alike.setdefault((one.classes, one.size, one.channels), []).append(one)
        for some in alike.values():
            yield from zip(some, [*some[1:], some[0]], strict=True) if len(some) > 1 else ()

    def _changes(self, new: Measured, old: Measured) -> Iterator[tuple[str, _Row]]:
        before = evidence_of(old)
        for test, evidence in evidence_of(new).items():
            if test in self.tests and test in before:
                change = evidence - before[test]
                answers = _answers(test, evidence)
                yield test, _Row(change if new.few else _above(change), np.zeros((len(change), 4)), answers, new.few)

    def _rows(self, found: Measured) -> Iterator[tuple[str, _Row]]:
        known = _known(found)
        for test, evidence in evidence_of(found).items():
            if test in self.tests:
                yield test, _Row(evidence if found.few else _above(evidence), known, _answers(test, evidence), found.few)

    def likeness(self, found: Measured) -> float:
        """How near a model is to the clean ones: see `Judgement`.

        Models are compared by their size, channels and number of classes, by how common the most common class is, and by how
        much a median class answers in each test: not by what a backdoor changes, the strongest class.
        """
        own, known = _traits(found), [_traits(one) for one in self.models if one.few == found.few]
        shared = [name for name in own if all(name in one for one in known)]
        if len(known) < FEWEST_MODELS:
            return 0.0
        rows = np.array([[one[name] for name in shared] for one in [*known, own]])
        rows /= np.maximum(rows[:-1].std(axis=0), LEAST_STD)
        distances = np.linalg.norm(rows[:, None] - rows[None, :-1], axis=2)
        np.fill_diagonal(distances, np.inf)
        nearest = distances.min(axis=1)
        return float((nearest[:-1] >= nearest[-1]).mean())

    def judge(self, found: Measured) -> Judgement:
        """Compare a model with the clean ones.

        The tests are combined as Holm (1979) does: the smallest of T p-values counts T times. No p-value is smaller than the
        number of clean models can support.
        """
        return self._combined(found, {test: (self.nulls.get((found.few, test)), row) for test, row in self._rows(found)})

    def judge_update(self, found: Measured, before: Measured) -> Judgement:
        """Compare what changed from a model to its successor with what differs between clean models of the same data.

        A class must stand out twice, by what changed and in the model as it is: the larger p-value counts. A class that the
        predecessor answered to as strongly is no news. Otherwise as `judge`.
        """
        own = self.judge(found)
        changes = self._changes(found, before)
        changed = self._combined(found, {test: (self.update_nulls.get((found.few, test)), row) for test, row in changes})
        tests = {test: np.maximum(values, own.tests[test]) for test, values in changed.tests.items() if test in own.tests}
        return self._judgement(found, tests, min(own.models, changed.models))

    def _combined(self, found: Measured, rows: Mapping[str, tuple[Null | None, _Row]]) -> Judgement:
        compared = {test: (null, row) for test, (null, row) in rows.items() if null is not None}
        tests = {test: null.p_values(row) for test, (null, row) in compared.items()}
        return self._judgement(found, tests, min((null.models for null, _ in compared.values()), default=0))

    def _judgement(self, found: Measured, tests: dict[str, Values], models: int) -> Judgement:
        if not tests:
            return Judgement(np.ones(len(found.classes)), {}, models, 0.0)
        combined = np.minimum(1, len(tests) * np.stack(list(tests.values())).min(axis=0))
        return Judgement(np.maximum(combined, 1 / (models + 1)), tests, models, self.likeness(found))


@cache
def packaged_calibration() -> Calibration:
    """The calibration that comes with Petechia."""
    return Calibration.packaged(DETECTOR)
