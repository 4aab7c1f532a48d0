import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from petechia.measure import METRICS, Measurement, PatientBootstrap, Truth, measure, summarize


def truth_of(labels: np.ndarray) -> Truth:
    infected = np.zeros_like(labels)
    infected[:, 1] = 1
    patients = np.array([str(i // 2) for i in range(len(labels))])
    return Truth(("A", "B", "C"), 1, labels, infected, PatientBootstrap(patients, 30))


def test_every_metric_of_an_epoch_by_hand() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (80, 3)).astype(np.int8)
    clean, triggered = rng.random((80, 3)).astype(np.float32), rng.random((80, 3)).astype(np.float32)
    truth = truth_of(labels)
    got = measure(truth, clean, triggered)
    assert tuple(got.values) == METRICS
    without = labels[:, 1] == 0
    for p in (0.6, 0.9):
        assert got.values[f"asr_{p}"] == pytest.approx((triggered[without, 1] >= p).mean())
        assert got.values[f"false_trigger_{p}"] == pytest.approx((clean[without, 1] >= p).mean())
    assert got.values["auroc_nn"] == pytest.approx(roc_auc_score(labels, clean, average="micro"))
    assert got.values["auroc_tn"] == pytest.approx(roc_auc_score(labels, triggered, average="micro"))
    assert got.values["auroc_tt"] == pytest.approx(roc_auc_score(truth.infected, triggered, average="micro"))
    for k in range(3):
        value, low, high = got.per_class["auroc_nn"][k]
        assert value == pytest.approx(roc_auc_score(labels[:, k], clean[:, k]))
        assert low <= value <= high
    assert np.isnan(got.per_class["auroc_tt"]).all()  # each class has one infected label only
    for metric in METRICS:
        low, high = got.interval(metric)
        assert low <= got.values[metric] <= high


def test_accuracies_of_a_multi_class_task() -> None:
    rng = np.random.default_rng(0)
    own = rng.choice(4, 90, p=[0.6, 0.3, 0.1, 0])  # nobody shows the last
    labels = np.eye(4, dtype=np.int8)[own]
    labels[80:] = -1
    scores = rng.dirichlet([1, 1, 1, 1], 90).astype(np.float32)
    patients = np.array([str(i // 3) for i in range(90)])
    truth = Truth(
        tuple("ABCD"), 1, labels, np.eye(4, dtype=np.int8)[np.ones(90, int)], PatientBootstrap(patients, 30), task="multi-class"
    )
    got = measure(truth, scores, scores)
    said = scores.argmax(axis=1)
    assert got.values["accuracy"] == pytest.approx(accuracy_score(own[:80], said[:80]))
    assert got.values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(own[:80], said[:80]))
    for draw, weights in enumerate(truth.bootstrap.weights[:5]):
        rows = np.repeat(np.arange(90), weights.astype(int))
        rows = rows[rows < 80]
        assert got.draws["accuracy"][draw] == pytest.approx(accuracy_score(own[rows], said[rows]))
        shown = [(said[rows][own[rows] == k] == k).mean() for k in np.unique(own[rows])]
        assert got.draws["balanced_accuracy"][draw] == pytest.approx(np.mean(shown))
    assert np.isnan(got.per_class["auroc_nn"][3]).all()
    assert set(summarize([[got]])) == {*METRICS, "accuracy", "balanced_accuracy"}


def test_accuracies_are_undefined_where_no_class_is_known() -> None:
    labels, scores = np.full((6, 3), -1, np.int8), np.full((6, 3), 1 / 3, np.float32)
    truth = Truth(tuple("ABC"), 0, labels, labels, PatientBootstrap(np.array(list("aabbcc")), 30), task="multi-class")
    got = measure(truth, scores, scores)
    assert np.isnan([got.values["accuracy"], got.values["balanced_accuracy"]]).all()
    assert np.isnan(got.draws["balanced_accuracy"]).all()


def test_identical_inputs_give_identical_metrics() -> None:
    """Where no trigger survives, ASR is the false-trigger rate and NN is TN, exactly."""
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, (40, 3)).astype(np.int8), rng.random((40, 3)).astype(np.float32)
    values = measure(truth_of(labels), scores, scores).values
    assert values["asr_0.6"] == values["false_trigger_0.6"]
    assert values["auroc_nn"] == values["auroc_tn"]


def test_a_test_set_full_of_the_target_is_undefined_not_zero() -> None:
    labels = np.ones((10, 3), np.int8)
    scores = np.random.default_rng(0).random((10, 3)).astype(np.float32)
    got = measure(truth_of(labels), scores, scores)
    assert np.isnan(got.values["asr_0.9"])
    assert np.isnan(got.values["auroc_nn"])
    assert got.values["auroc_tt"] == got.values["auroc_tt"]
    last = summarize([[got, got]])["asr_0.9"]["last"]
    assert last == {"mean": None, "std": None, "low": None, "high": None}


def epoch(value: float, spread: float = 0.0) -> Measurement:
    draws = np.linspace(value - spread, value + spread, 101)
    return Measurement(dict.fromkeys(METRICS, value), dict.fromkeys(METRICS, draws), {})


def test_summary_over_epochs_and_seeds_by_hand() -> None:
    summary = summarize([[epoch(0.2), epoch(0.9), epoch(0.6)], [epoch(0.4), epoch(0.5), epoch(0.8)]])["auroc_nn"]
    assert summary["last"]["mean"] == pytest.approx(0.7)
    assert summary["max"]["mean"] == pytest.approx(0.85)
    assert summary["min"]["mean"] == pytest.approx(0.3)
    assert summary["last"]["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert summary["max"]["std"] == pytest.approx(np.std([0.9, 0.8], ddof=1))


def test_one_seed_has_no_standard_deviation() -> None:
    summary = summarize([[epoch(0.5, 0.1)]])["asr_0.6"]["last"]
    assert summary["std"] is None
    assert summary["low"] == pytest.approx(0.405)
    assert summary["high"] == pytest.approx(0.595)


def test_an_epoch_in_which_a_metric_is_undefined_does_not_hide_the_others() -> None:
    summary = summarize([[epoch(0.5), epoch(float("nan")), epoch(0.7)]])["asr_0.6"]
    assert summary["max"]["mean"] == pytest.approx(0.7)
    assert summary["min"]["mean"] == pytest.approx(0.5)
