"""Properties that hold for any scores and labels: bounds, symmetries, and agreement with a count of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from petechia.measure import (
    EPSILONS,
    METRICS,
    Count,
    PatientBootstrap,
    Truth,
    auroc,
    exceedance,
    measure,
    mixture,
    summarize,
)

Labels = NDArray[np.int8]
Scores = NDArray[np.float32]
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 4))
LEVELS = st.integers(0, 64).map(lambda level: np.float32(level / 64))  # ties are common, and sums exact
FINE = st.floats(0, 1, width=32)


@st.composite
def cases(draw: st.DrawFn, pools: int = 1) -> tuple[Labels, list[Scores]]:
    shape = draw(SHAPES)
    of = draw(st.sampled_from([LEVELS, FINE]))
    labels = draw(arrays(np.int8, shape, elements=st.integers(-1, 1)))
    return labels, [draw(arrays(np.float32, shape, elements=of)) for _ in range(pools)]


def pairs(labels: Labels, scores: Scores) -> list[float]:
    """1 for every pair (positive, negative) in the right order, 0.5 for a tie."""
    positive, negative = scores[labels == 1].tolist(), scores[labels == 0].tolist()
    return [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]


@given(cases())
def test_the_area_is_the_share_of_ordered_pairs(case: tuple[Labels, list[Scores]]) -> None:
    labels, (scores,) = case
    counted = pairs(labels, scores)
    area = auroc(scores, labels)
    if not counted:
        assert np.isnan(area)
        return
    assert area == pytest.approx(np.mean(counted), abs=1e-12)
    assert 0 <= area <= 1


@given(cases(), st.randoms(use_true_random=False))
def test_the_area_does_not_feel_order_or_scale(case: tuple[Labels, list[Scores]], chance: object) -> None:
    labels, (scores,) = case
    area = auroc(scores, labels)
    ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape).astype(np.float32)  # keeps every order and tie
    for transformed in (ranks, 3 * ranks - 7, np.exp2(ranks / 8)):
        assert np.array_equal(auroc(transformed, labels), area, equal_nan=True)
    rng = np.random.default_rng(getattr(chance, "getrandbits")(32))  # noqa: B009
    rows, columns = rng.permutation(labels.shape[0]), rng.permutation(labels.shape[1])
    assert np.array_equal(auroc(scores[rows][:, columns], labels[rows][:, columns]), area, equal_nan=True)
    assert np.array_equal(auroc(scores.ravel(), labels.ravel()), area, equal_nan=True)


@given(cases())
def test_turning_scores_or_labels_round_mirrors_the_area(case: tuple[Labels, list[Scores]]) -> None:
    labels, (scores,) = case
    area = auroc(scores, labels)
    swapped = np.where(labels < 0, labels, 1 - labels).astype(np.int8)
    for mirrored in (auroc(-scores, labels), auroc(scores, swapped)):
        assert mirrored == pytest.approx(1 - area, abs=1e-12, nan_ok=True)
    hidden = np.where(labels < 0, np.float32(np.nan), scores)
    assert np.array_equal(auroc(hidden, labels), area, equal_nan=True)  # unknown labels are ignored


@given(cases(), st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_the_success_rate_is_a_count_and_falls_with_the_threshold(
    case: tuple[Labels, list[Scores]], one: float, other: float
) -> None:
    labels, (scores,) = case
    low, high = sorted((one, other))
    of, scored = labels[:, 0], scores[:, 0]
    asked = [score for score, label in zip(scored.tolist(), of.tolist(), strict=True) if label == 0]
    rates = [exceedance(scored, of, threshold) for threshold in (low, high)]
    if not asked:
        assert np.isnan(rates).all()
        return
    assert rates == [sum(score >= threshold for score in asked) / len(asked) for threshold in (low, high)]
    assert 0 <= rates[1] <= rates[0] <= 1
    assert exceedance(scored, of, 0) == 1


def truth_of(labels: Labels, draws: int = 20) -> Truth:
    infected = np.zeros_like(labels)
    infected[:, 0] = 1
    patients = np.array([str(row // 2) for row in range(len(labels))])
    return Truth(tuple("ABCD"[: labels.shape[1]]), 0, labels, infected, PatientBootstrap(patients, draws))


def area(labels: Labels, scores: Scores) -> float:
    counted = pairs(labels, scores)
    return float(np.mean(counted)) if counted else float("nan")


@given(cases(pools=2))
def test_every_metric_of_an_epoch_is_bounded_and_what_its_definition_says(case: tuple[Labels, list[Scores]]) -> None:
    labels, (clean, triggered) = case
    truth = truth_of(labels)
    measured = measure(truth, clean, triggered)
    assert set(measured.values) == set(METRICS)
    for name, value in measured.values.items():
        assert np.isnan(value) or 0 <= value <= 1
        low, high = measured.interval(name)
        assert np.isnan(low) or 0 <= low <= high <= 1
    expected = {
        "asr_0.9": exceedance(triggered[:, 0], labels[:, 0], 0.9),
        "false_trigger_0.6": exceedance(clean[:, 0], labels[:, 0], 0.6),
        "auroc_nn": area(labels, clean),
        "auroc_tt": area(truth.infected, triggered),
        "auroc_tn": area(labels, triggered),
    }
    for name, value in expected.items():
        assert measured.values[name] == pytest.approx(value, abs=1e-12, nan_ok=True)
    summary = summarize([[measured, measured]])
    for statistics in summary.values():
        assert statistics["last"] == statistics["min"] == statistics["max"]


@given(cases(pools=2))
def test_a_mixture_lies_between_what_all_choices_can_give(case: tuple[Labels, list[Scores]]) -> None:
    labels, (clean, triggered) = case
    labels, clean, triggered = labels[:4], clean[:4], triggered[:4]
    truth = truth_of(labels)
    got = mixture(truth, clean, triggered)
    states = [[bool(number >> bit & 1) for bit in range(len(labels))] for number in range(2 ** len(labels))]
    areas = np.array([area(labels, np.where(np.array(state)[:, None], triggered, clean)) for state in states])
    if np.isnan(areas).any():
        assert np.isnan(got.expected).all()
        return
    assert (got.expected >= areas.min() - 1e-9).all()
    assert (got.expected <= areas.max() + 1e-9).all()
    assert (got.spread >= 0).all()
    for epsilon, expected in zip(EPSILONS, got.expected, strict=True):
        chances = [np.prod([epsilon if hit else 1 - epsilon for hit in state]) for state in states]
        assert expected == pytest.approx(np.dot(chances, areas), abs=1e-9)
    defined = got.draws[~np.isnan(got.draws)]
    assert ((defined >= -1e-9) & (defined <= 1 + 1e-9)).all()


@given(st.integers(1, 2000), st.data())
def test_an_interval_of_a_share_holds_it(of: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, of))
    count = Count(hits, of)
    low, high = count.interval
    assert 0 <= low <= count.share + 1e-12
    assert count.share - 1e-12 <= high <= 1
    mirrored = Count(of - hits, of).interval
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
def test_a_resample_takes_whole_patients(owners: list[int], data: st.DataObject) -> None:
    patients = np.array([str(owner) for owner in owners])
    weights = PatientBootstrap(patients, 20).weights
    first = [owners.index(owner) for owner in owners]
    assert np.array_equal(weights, weights[:, first])
    assert (weights[:, sorted(set(first))].sum(axis=1) == len(set(owners))).all()
    order = data.draw(st.permutations(range(len(owners))))
    assert np.array_equal(PatientBootstrap(patients[order], 20).weights, weights[:, order])
