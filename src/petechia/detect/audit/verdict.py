"""How surprising the evidence for a class is, given the strongest evidence in clean models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
LEVEL = 0.03  # p-value up to which a class is flagged, where there are models enough
FEWEST_MODELS = 2  # clean models that give a null
LEAST = 1.0  # of a stamp's margin, before the logarithm
LEAST_RISE = 2.0  # of the margin of another change, likewise: less is no evidence
LEAST_SPREAD = 0.1  # of a class's logits, before the logarithm: some classes never change
LEAST_STD = 0.1  # of a null: a few models that are alike by luck must not make it narrower
RIDGE = 0.1  # of the correction
TIE = 0.05  # in the evidence of all tests together: models that do not answer differ by the models they are compared with only
STAMPS_COUNT = 3  # times as much as another test
TINY = 1e-300  # of a p-value, before the logarithm


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
    """What one test finds in clean models.

    Attributes:
        weights: float64 [4], by how much what is known of a class moves its evidence.
        strongest: float64 [M], how far the strongest class of each stands out, corrected by the weights of the others.
        own: number of each → the p-values of its classes, as those of a model that is compared with the others.
    """

    weights: Values
    strongest: Values
    own: Mapping[int, Values]

    @staticmethod
    def of(known: Mapping[int, _Row]) -> Null:
        """From clean models, by number."""
        rows = list(known.values())
        standing = [row.standing(row.corrected(_weights([*rows[:n], *rows[n + 1 :]]))) for n, row in enumerate(rows)]
        strongest = np.array([one.max() for one in standing])
        own = {
            number: _surprise(one, np.delete(strongest, n)) for n, (number, one) in enumerate(zip(known, standing, strict=True))
        }
        return Null(_weights(rows), strongest, own)

    def p_values(self, row: _Row) -> Values:
        """For each class, how rare it is that any class of a clean model stands out as far, float64 [K]."""
        return _surprise(row.standing(row.corrected(self.weights)), self.strongest)


def _surprise(standing: Values, strongest: Values) -> Values:
    """Student's prediction for one more model: the chance that its strongest class stands out as far."""
    std = max(LEAST_STD, float(np.std(strongest, ddof=1)) if len(strongest) > 1 else 0.0)
    distance = (standing - strongest.mean()) / (std * sqrt(1 + 1 / len(strongest)))
    return np.asarray(stats.t.sf(distance, max(1, len(strongest) - 1)))


def _weights(rows: Sequence[_Row]) -> Values:
    """Ridge regression of the evidence of all classes of all models."""
    known, evidence = np.concatenate([row.known for row in rows]), np.concatenate([row.evidence for row in rows])
    return np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ evidence)


class Judgement(NamedTuple):
    """What the tests together say of one model.

    Attributes:
        p_values: float64 [K], the chance that any class of a clean model has evidence as strong, all tests together.
        tests: test → float64 [K], of each alone.
        models: clean models that it was compared with in every test.
        likeness: share of the clean models that are as far from the one next to them as this model is, or farther; 0 where
            this model is farther from all than any of them is.
    """

    p_values: Values
    tests: dict[str, Values]
    models: int
    likeness: float

    @property
    def evidence(self) -> Values:
        """Of all tests together, float64 [K], higher is stronger: it ranks classes and models whose p-values are equal."""
        return together(self.tests) if self.tests else np.zeros(len(self.p_values))

    @property
    def ranked(self) -> list[int]:
        """The classes, the strongest evidence first."""
        return [int(label) for label in np.lexsort((-self.evidence, self.p_values))]


def together(tests: Mapping[str, Values]) -> Values:
    """Of several tests: float64 [K], the sum of the negative logarithms of their p-values, as Fisher (1932) combines them.

    Tests that point at the same class add up, which a single test by chance does not. Stamps count as much as three others:
    they are what small marks are found by, and other searches hardly see these.
    """
    logarithms = [-np.log(np.clip(values, TINY, 1)) * (STAMPS_COUNT if test == STAMPS else 1) for test, values in tests.items()]
    return np.asarray(np.sum(logarithms, axis=0))


Nulls = Mapping[tuple[bool, str], Null]  # whether classes are few, test → its null


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
    def nulls(self) -> Nulls:
        """What each test finds in the clean models, by number; none where too few have evidence of this kind."""
        return _nulls((number, one.few, test, row) for number, one in enumerate(self.models) for test, row in self._rows(one))

    @cached_property
    def update_nulls(self) -> Nulls:
        """The same of updates: each clean model as an update of another one of the same data.

        They were trained apart, so they differ more than a model and its successor do: these nulls are on the safe side.
        """
        pairs = enumerate(self._pairs())
        return _nulls((n, new.few, test, row) for n, (new, old) in pairs for test, row in self._changes(new, old))

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

        The evidence for a class is that of all tests together. Its p-value is its rank among the strongest classes of the clean
        models, so p-values of clean models are uniform, and none is smaller than their number can support.
        """
        return self._compared(found, dict(self._rows(found)), self.nulls)

    def judge_update(self, found: Measured, before: Measured) -> Judgement:
        """Compare what changed from a model to its successor with what differs between clean models of the same data.

        A class must stand out twice, by what changed and in the model as it is: the larger p-value counts. A class that the
        predecessor answered to as strongly is no news. Otherwise as `judge`.
        """
        own = self.judge(found)
        changed = self._compared(found, dict(self._changes(found, before)), self.update_nulls)
        tests = {test: np.maximum(values, own.tests[test]) for test, values in changed.tests.items() if test in own.tests}
        p_values = np.maximum(own.p_values, changed.p_values)
        return Judgement(p_values, tests, min(own.models, changed.models), own.likeness)

    def _compared(self, found: Measured, rows: Mapping[str, _Row], nulls: Nulls) -> Judgement:
        known = {test: nulls[found.few, test] for test in rows if (found.few, test) in nulls}
        shared = set.intersection(*(set(null.own) for null in known.values())) if known else set()
        if len(shared) < FEWEST_MODELS:
            return Judgement(np.ones(len(found.classes)), {}, len(shared), 0.0)
        tests = {test: null.p_values(rows[test]) for test, null in known.items()}
        clean = np.array([together({test: null.own[one] for test, null in known.items()}).max() for one in shared])
        as_strong = (clean[:, None] + TIE >= together(tests)).sum(axis=0)
        return Judgement((1 + as_strong) / (1 + len(shared)), tests, len(shared), self.likeness(found))


def _nulls(rows: Iterable[tuple[int, bool, str, _Row]]) -> Nulls:
    """From the number of a clean model, whether its classes are few, a test, and what that found."""
    grouped: dict[tuple[bool, str], dict[int, _Row]] = {}
    for number, few, test, row in rows:
        grouped.setdefault((few, test), {})[number] = row
    return {key: Null.of(some) for key, some in grouped.items() if len(some) >= FEWEST_MODELS}


@cache
def packaged_calibration() -> Calibration:
    """The calibration that comes with Petechia."""
    return Calibration.packaged(DETECTOR)
