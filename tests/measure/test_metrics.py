import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from petechia.measure import PatientBootstrap, auroc, exceedance
from petechia.measure.bootstrap import interval
from petechia.measure.order import Order


def test_success_rate_by_hand() -> None:
    scores = np.array([0.95, 0.6, 0.59, 0.9, 0.99, 1.0], np.float32)
    labels = np.array([0, 0, 0, 0, 1, -1], np.int8)
    assert exceedance(scores, labels, 0.6) == 3 / 4
    assert exceedance(scores, labels, 0.9) == 2 / 4  # equal counts, as in the paper's text


def test_success_rate_is_undefined_where_every_image_has_the_target() -> None:
    assert np.isnan(exceedance(np.ones(3, np.float32), np.array([1, 1, -1], np.int8), 0.6))


def slow_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Pair by pair."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return float(np.mean(pairs))


def test_auroc_agrees_with_pairs_and_sklearn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 20, (60, 4)).astype(np.float32) / np.float32(20)  # many ties
    labels = rng.integers(0, 2, (60, 4)).astype(np.int8)
    assert auroc(scores, labels) == pytest.approx(slow_auroc(scores, labels))
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores, average="micro"))
    hidden = labels.copy()
    hidden[::3] = -1
    assert auroc(scores, hidden) == pytest.approx(slow_auroc(scores, hidden))


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [-1, -1, -1], [1, 1, -1]])
def test_auroc_of_one_class_is_undefined(labels: list[int]) -> None:
    assert np.isnan(auroc(np.array([0.1, 0.2, 0.3], np.float32), np.array(labels, np.int8)))


def bootstrap_and_data() -> tuple[PatientBootstrap, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    patients = np.array([f"p{i}" for i in rng.integers(0, 12, 70)])
    scores = rng.integers(0, 30, (70, 3)).astype(np.float32) / np.float32(30)
    labels = rng.integers(-1, 2, (70, 3)).astype(np.int8)
    return PatientBootstrap(patients, 50), scores, labels


def test_resamples_take_whole_patients() -> None:
    patients = np.array(["a", "b", "a", "c", "b"])
    weights = PatientBootstrap(patients, 100).weights
    assert weights.shape == (100, 5)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
    assert np.array_equal(weights, PatientBootstrap(patients, 100).weights)


def test_bootstrapped_metrics_are_those_of_the_repeated_images() -> None:
    bootstrap, scores, labels = bootstrap_and_data()
    areas, one = bootstrap.auroc(scores, labels), bootstrap.auroc(scores[:, 1], labels[:, 1])
    rates = bootstrap.exceedance(scores[:, 0], labels[:, 0], 0.6)
    for draw in range(0, 50, 7):
        rows = np.repeat(np.arange(70), bootstrap.weights[draw].astype(int))
        assert areas[draw] == pytest.approx(auroc(scores[rows], labels[rows]))
        assert one[draw] == pytest.approx(auroc(scores[rows, 1], labels[rows, 1]))
        assert rates[draw] == pytest.approx(exceedance(scores[rows, 0], labels[rows, 0], 0.6))


@pytest.mark.parametrize("levels", [3, 30, 1 << 20])
@pytest.mark.parametrize("cells", [1, 500, 1 << 21])
def test_every_resample_agrees_with_weights_in_sklearn(levels: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many and with no ties, one resample at a time or all together."""
    monkeypatch.setattr("petechia.measure.bootstrap.CELLS", cells)
    bootstrap, _, labels = bootstrap_and_data()
    scores = np.random.default_rng(2).integers(0, levels, labels.shape).astype(np.float32)
    known = labels >= 0
    weights = np.repeat(bootstrap.weights[:, :, None], 3, axis=2)
    slow = [roc_auc_score(labels[known], scores[known], sample_weight=weight[known]) for weight in weights]
    assert bootstrap.auroc(scores, labels) == pytest.approx(np.array(slow), abs=1e-12)


def test_positives_and_negatives_can_be_of_two_pools() -> None:
    bootstrap, scores, labels = bootstrap_and_data()
    others = np.random.default_rng(3).integers(0, 30, scores.shape).astype(np.float32) / np.float32(30)
    order, mixed = Order(labels, scores, others), np.where(labels == 0, others, scores)
    assert order.area() == pytest.approx(slow_auroc(mixed, labels), abs=1e-12)
    assert np.array_equal(bootstrap.areas(order), bootstrap.auroc(mixed, labels))


def test_pairs_in_order_of_every_image() -> None:
    _, scores, labels = bootstrap_and_data()
    order = Order(labels, scores)
    wins = (scores[:, :, None, None] > scores) + 0.5 * (scores[:, :, None, None] == scores)
    wins *= (labels == 1)[:, :, None, None] * (labels == 0)
    assert np.array_equal(order.of_positives(), wins.sum(axis=(1, 2, 3)))
    assert np.array_equal(order.of_negatives(), wins.sum(axis=(0, 1, 3)))


def test_large_sums_stay_exact() -> None:
    """More pairs than float32 can count: constant scores give one half, not about one half."""
    labels = (np.arange(12_007) % 2).astype(np.int8)
    scores = np.zeros(len(labels), np.float32)
    bootstrap = PatientBootstrap(np.array([str(i // 3) for i in range(len(labels))]), 20)
    assert auroc(scores, labels) == 0.5
    assert (bootstrap.auroc(scores, labels) == 0.5).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_scores_are_an_error_where_the_label_is_known(broken: float) -> None:
    labels = np.array([0, 1, 0, -1], np.int8)
    for row in range(3):
        scores = np.full(4, 0.5, np.float32)
        scores[row] = broken
        with pytest.raises(ValueError, match="NaN or infinity"):
            auroc(scores, labels)
    assert auroc(np.array([0.1, 0.2, 0.1, broken], np.float32), labels) == 1


def test_undefined_resamples_are_left_out_of_the_interval() -> None:
    assert interval(np.array([np.nan, 1.0, 1.0, np.nan])) == (1.0, 1.0)
    assert np.isnan(interval(np.full(5, np.nan))).all()
    low, high = interval(np.linspace(0, 1, 1001))
    assert (low, high) == pytest.approx((0.025, 0.975))
    bootstrap = PatientBootstrap(np.array(["a", "b"]), 40)
    areas = bootstrap.auroc(np.array([0.2, 0.8], np.float32), np.array([0, 1], np.int8))
    assert set(areas[~np.isnan(areas)]) == {1.0}
    assert np.isnan(areas).any()  # resamples without one of the two patients


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """The rate of a coin, 60 patients of one image each, 200 data sets: 95 % intervals should hold it in about 190."""
    rng = np.random.default_rng(5)
    patients = np.array([str(i) for i in range(60)])
    bootstrap = PatientBootstrap(patients, 200)
    held = 0
    for _ in range(200):
        scores = (rng.random(60) < 0.4).astype(np.float32)
        low, high = interval(bootstrap.exceedance(scores, np.zeros(60, np.int8), 0.5))
        held += low <= 0.4 <= high
    assert 176 <= held <= 199
