from __future__ import annotations

import math

import numpy as np
import pytest

from petechia.core.errors import PetechiaError
from petechia.detect.screen.conformal import PARTS, ConformalThreshold, check_count


def _normal(count: int, seed: int, shift: float = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(shift, 1, count) for name in ("transplant", "removal")}


@pytest.mark.parametrize(("count", "fpr", "rank"), [(99, 0.01, 99), (100, 0.01, 100), (199, 0.01, 198), (50, 0.05, 49)])
def test_the_threshold_is_the_conformal_rank(count: int, fpr: float, rank: int) -> None:
    found = ConformalThreshold.of(_normal(count, 0), fpr)
    assert found.threshold == sorted(found.clean)[rank - 1]


def test_an_image_is_above_the_threshold_just_when_its_p_value_is_at_most_the_rate() -> None:
    found = ConformalThreshold.of(_normal(150, 0), 0.05)
    suspicion = np.concatenate([found.clean, np.linspace(-3, 5, 1000)])
    p_values = found.p_values(suspicion)
    by_hand = [(1 + (found.clean >= one).sum()) / 151 for one in suspicion]
    np.testing.assert_allclose(p_values, by_hand)
    np.testing.assert_array_equal(suspicion > found.threshold, p_values <= 0.05)


def test_of_clean_images_the_rate_is_flagged() -> None:
    alarms = []
    for seed in range(300):
        found = ConformalThreshold.of(_normal(99, 2 * seed), 0.1)
        alarms.append((found.suspicion(_normal(200, 2 * seed + 1)) > found.threshold).mean())
    assert abs(np.mean(alarms) - 0.1) < 0.01  # 5 standard errors or so


def _drawn() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 1, 20_000) for name in PARTS}


def _of(values: dict[str, float]) -> dict[str, np.ndarray]:
    return {name: np.array([values.get(name, 0.0)]) for name in PARTS}


def test_parts_count_alike_in_units_of_their_spread() -> None:
    rng = np.random.default_rng(0)
    parts = {"transplant": rng.normal(5, 2, 20_000), "removal": rng.normal(0.1, 0.01, 20_000)}
    found = ConformalThreshold.of(parts, 0.01)
    one = {"transplant": np.array([5 + 3 * 2.0]), "removal": np.array([0.1 + 0.03])}
    other = {"transplant": np.array([5 + 2 * 2.0]), "removal": np.array([0.1 + 0.04])}
    assert found.suspicion(one)[0] == pytest.approx(found.suspicion(other)[0], rel=0.02)


def test_suspicion_is_in_units_of_the_most_suspicious_clean_images() -> None:
    values = np.random.default_rng(0).exponential(3, 20_000)
    found = ConformalThreshold.of({"strip": values}, 0.01)
    start = np.quantile(values, 0.8)
    given = np.array([start, start + 3, start + 12])
    np.testing.assert_allclose(found.suspicion({"strip": given}), [0, 1, 4], atol=0.1)  # the excess of an exponential is 3


def test_the_likelier_kind_of_trigger_counts() -> None:
    found = ConformalThreshold.of(_drawn(), 0.01)
    patch = _of({"transplant": 6, "removal": 6, "outlier": 3})
    wave = _of({"detail": 6, "strip": 6, "features": 6, "mirror": 6, "outlier": 3})
    for given, kind in ((patch, "part"), (wave, "whole")):
        by_kind = found.by_kind(given)
        assert max(by_kind, key=lambda one: by_kind[one][0]) == kind
        assert found.suspicion(given) == by_kind[kind]
        assert found.suspicion(given)[0] > found.threshold


def test_what_is_not_taken_along_does_not_count() -> None:
    found = ConformalThreshold.of(_drawn(), 0.01)
    striking = _of(dict.fromkeys(set(PARTS) - {"transplant", "detail"}, 1000.0))
    assert found.suspicion(striking)[0] < found.threshold
    assert found.suspicion(_of(dict.fromkeys(PARTS, 9.0)))[0] > found.threshold


def test_a_part_can_be_alone() -> None:
    found = ConformalThreshold.of({"strip": np.arange(100.0)}, 0.01)
    assert found.groups == {"whole": ("strip",)}
    assert list(found.suspicion({"strip": np.array([99.0, 1.0])}).argsort()) == [1, 0]


def test_parts_without_spread_give_numbers() -> None:
    found = ConformalThreshold.of({"removal": np.zeros(100)}, 0.01)
    assert np.isfinite(found.suspicion({"removal": np.array([0.0, 1.0])})).all()
    assert found.suspicion({"removal": np.array([1.0])})[0] > found.threshold


@pytest.mark.parametrize(("fpr", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.001, 999), (1 / 3, 2)])
def test_too_few_images(fpr: float, needed: int) -> None:
    check_count(needed, fpr)
    assert (needed + 1) * fpr >= 1 - 1e-9
    with pytest.raises(PetechiaError, match=f"at least {needed}"):
        check_count(needed - 1, fpr)


@pytest.mark.parametrize("fpr", [0, 1, -0.1, 2, math.nan])
def test_rates_that_are_none(fpr: float) -> None:
    with pytest.raises(PetechiaError, match="between 0 and 1"):
        check_count(1000, fpr)
