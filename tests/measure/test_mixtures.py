from itertools import product

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from petechia.measure import EPSILONS, Mixture, PatientBootstrap, Truth, measure, mixture, summarize_mixtures
from petechia.measure.order import Order

Data = tuple[Truth, np.ndarray, np.ndarray]


def truth_of(labels: np.ndarray, patients: list[str] | None = None, draws: int = 30) -> Truth:
    infected = np.zeros_like(labels)
    infected[:, 0] = 1
    of_images = np.array(patients or [str(row // 2) for row in range(len(labels))])
    return Truth(tuple("ABC"[: labels.shape[1]]), 0, labels, infected, PatientBootstrap(of_images, draws))


def data(images: int, levels: int = 1 << 20, unknown: float = 0.1, seed: int = 0) -> Data:
    """An attack that lifts the first class and lowers the others; few levels make ties, also between the two pools."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (images, 3)).astype(np.int8)
    labels[rng.random(labels.shape) < unknown] = -1
    clean = np.clip(0.3 * (labels == 1) + 0.7 * rng.random(labels.shape), 0, 1)
    triggered = np.clip(0.6 * clean + np.array([0.4, 0, 0]), 0, 1)
    grid = np.float32(levels)
    return truth_of(labels), *(np.round(scores * levels).astype(np.float32) / grid for scores in (clean, triggered))


def area(labels: np.ndarray, scores: np.ndarray) -> float:
    known = labels >= 0
    return float(roc_auc_score(labels[known], scores[known]))


def every_state(truth: Truth, clean: np.ndarray, triggered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All choices of the triggered images, bool [2^N, N], and the area of each."""
    states = np.array(list(product([False, True], repeat=len(clean))))
    return states, np.array([area(truth.labels, np.where(state[:, None], triggered, clean)) for state in states])


def chances(states: np.ndarray, epsilon: float) -> np.ndarray:
    return np.asarray(np.where(states, epsilon, 1 - epsilon).prod(axis=1))


@pytest.mark.parametrize("levels", [4, 1 << 20])
@pytest.mark.parametrize("unknown", [0, 0.25])
def test_mean_and_spread_over_every_choice(levels: int, unknown: float) -> None:
    """The spread is built from what triggering one image changes on average over the choices of the others."""
    truth, clean, triggered = data(6, levels, unknown, seed=3)
    states, areas = every_state(truth, clean, triggered)
    got = mixture(truth, clean, triggered)
    assert got.epsilons == EPSILONS
    for index, epsilon in enumerate(EPSILONS):
        assert got.expected[index] == pytest.approx(chances(states, epsilon) @ areas, abs=1e-12)
        gains = []
        for image in range(6):
            others = chances(np.delete(states, image, axis=1), epsilon)
            gains.append(others @ np.where(states[:, image], areas, -areas))
        assert got.spread[index] == pytest.approx(np.sqrt(epsilon * (1 - epsilon) * np.sum(np.square(gains))), abs=1e-12)


def test_repeated_draws() -> None:
    truth, clean, triggered = data(150, 200)
    rng = np.random.default_rng(1)
    epsilons = (0.05, 0.6)
    got = mixture(truth, clean, triggered, epsilons=epsilons)
    for index, epsilon in enumerate(epsilons):
        chosen = rng.random((400, 150, 1)) < epsilon
        areas = np.array([area(truth.labels, np.where(one, triggered, clean)) for one in chosen])
        assert got.expected[index] == pytest.approx(areas.mean(), abs=4 * areas.std() / np.sqrt(400))
        assert got.spread[index] == pytest.approx(areas.std(), rel=0.14)  # four standard errors of a standard deviation


def test_the_ends_are_nn_and_tn() -> None:
    truth, clean, triggered = data(80, 20)
    measured = measure(truth, clean, triggered)
    got = mixture(truth, clean, triggered, epsilons=(0.0, 0.5, 1.0))
    for index, metric in ((0, "auroc_nn"), (2, "auroc_tn")):
        assert got.expected[index] == measured.values[metric]
        assert np.array_equal(got.draws[index], measured.draws[metric], equal_nan=True)
        assert got.interval(index) == measured.interval(metric)
        assert got.spread[index] == 0
    assert measured.values["auroc_nn"] > got.expected[1] > measured.values["auroc_tn"]
    low, high = got.interval(1)
    assert low < got.expected[1] < high


def test_draws_of_a_measurement_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, clean, triggered = data(40)
    measured, alone = measure(truth, clean, triggered), mixture(truth, clean, triggered)
    calls, areas = [], PatientBootstrap.areas

    def counted(self: PatientBootstrap, order: Order) -> np.ndarray:
        calls.append(order)
        return areas(self, order)

    monkeypatch.setattr(PatientBootstrap, "areas", counted)
    assert np.array_equal(mixture(truth, clean, triggered, measured).draws, alone.draws)
    assert len(calls) == 2  # the cross terms


def test_resamples_are_those_of_the_repeated_images() -> None:
    truth, clean, triggered = data(40, 12)
    got = mixture(truth, clean, triggered)
    for draw in range(0, 30, 7):
        rows = np.repeat(np.arange(40), truth.bootstrap.weights[draw].astype(int))
        repeated = mixture(truth_of(truth.labels[rows], draws=1), clean[rows], triggered[rows])
        assert got.draws[:, draw] == pytest.approx(repeated.expected, abs=1e-12)


def test_a_trigger_that_does_nothing_changes_nothing() -> None:
    truth, clean, _ = data(40, 12)
    got = mixture(truth, clean, clean)
    assert got.expected == pytest.approx(np.full(len(EPSILONS), area(truth.labels, clean)), abs=1e-12)
    assert got.spread == pytest.approx(np.zeros(len(EPSILONS)), abs=1e-12)


@pytest.mark.parametrize("label", [-1, 0, 1])
def test_one_kind_of_label_is_undefined(label: int) -> None:
    truth = truth_of(np.full((10, 3), label, np.int8))
    scores = np.random.default_rng(0).random((2, 10, 3)).astype(np.float32)
    got = mixture(truth, *scores)
    assert np.isnan(got.expected).all()
    assert np.isnan(got.spread).all()
    assert np.isnan(got.interval(0)).all()
    row = summarize_mixtures([[got], [got]])[0]
    assert row["spread"] is None
    assert row["last"] == {"mean": None, "std": None, "low": None, "high": None}


def test_resamples_without_a_positive_are_left_out() -> None:
    labels = np.array([[1, 0], [0, 0], [0, 0]], np.int8)
    truth = truth_of(labels, ["a", "b", "c"], 60)
    scores = np.random.default_rng(0).random((2, 3, 2)).astype(np.float32)
    got = mixture(truth, *scores)
    undefined = truth.bootstrap.weights[:, 0] == 0
    assert undefined.any()
    assert (np.isnan(got.draws) == undefined).all()
    assert not np.isnan(got.interval(3)).any()


def epoch(value: float, spread: float = 0.01) -> Mixture:
    expected = np.array([value, value - 0.1])
    return Mixture((0.1, 1.0), expected, np.array([spread, 0.0]), expected[:, None] + np.linspace(-0.1, 0.1, 101))


def test_summary_over_epochs_and_seeds_by_hand() -> None:
    first, second = summarize_mixtures([[epoch(0.2), epoch(0.9, 0.03), epoch(0.6)], [epoch(0.4), epoch(0.5), epoch(0.8)]])
    assert (first["epsilon"], second["epsilon"]) == (0.1, 1.0)
    assert first["last"]["mean"] == pytest.approx(0.7)
    assert first["max"]["mean"] == pytest.approx(0.85)
    assert first["min"]["mean"] == pytest.approx(0.3)
    assert second["min"]["mean"] == pytest.approx(0.2)
    assert first["last"]["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert first["max"]["std"] == pytest.approx(np.std([0.9, 0.8], ddof=1))
    assert (first["max"]["low"], first["max"]["high"]) == pytest.approx((0.755, 0.945))
    assert (first["spread"], second["spread"]) == pytest.approx((0.08 / 6, 0))


def test_one_seed_has_no_standard_deviation() -> None:
    assert summarize_mixtures([[epoch(0.5)]])[0]["last"]["std"] is None
