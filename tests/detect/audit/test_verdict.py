import numpy as np
import pytest
from scipy import stats

from petechia.detect.audit.verdict import (
    AuditNulls,
    Null,
    combine_p_values,
    contrasts,
    stamp_p_values,
    strengths,
    trigger_p_values,
)

NULLS = AuditNulls.of()
FEWEST = NULLS.fewest_classes


def test_p_values_of_one_more_model_are_uniform() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        models = rng.normal(1.3, 0.4, 6)
        null = Null.of(models[:5].tolist(), least=0)
        found.append(float(null.p_values(models[5:])[0]))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_few_models_alike_by_luck_do_not_make_a_sharp_null() -> None:
    assert Null.of([1.0, 1.0, 1.0], least=0.2) == Null(1.0, 0.2, 3)


def test_strength_is_the_logarithm_of_the_gain() -> None:
    np.testing.assert_allclose(np.exp(strengths(np.array([4.0, 1.0, -1.0], np.float32))), [4, 1, 1e-3])


def test_contrast_is_against_the_median_class() -> None:
    np.testing.assert_allclose(contrasts(np.array([1.0, 2.0, 3.0, 9.0]), FEWEST), [-1, 0, 1, 7])
    assert np.isnan(contrasts(np.ones(FEWEST - 1), FEWEST)).all()


def test_a_class_must_stand_out_among_the_classes_of_its_model_or_of_few_by_its_strength() -> None:
    assert stamp_p_values(np.array([12, 1.6, 1.6, 1.6, 1.6], np.float32), NULLS)[0] < 0.01
    assert stamp_p_values(np.array([12, 12, 12, 12, 12], np.float32), NULLS)[0] > 0.5  # all answer: the stamps are too large
    assert stamp_p_values(np.array([3, 1.6, 1.6, 1.6, 1.6], np.float32), NULLS)[0] > 0.1  # clean models have such classes
    assert stamp_p_values(np.array([16, 1.6], np.float32), NULLS)[0] < 0.01  # two classes have no usual one
    assert stamp_p_values(np.array([3, 0.1], np.float32), NULLS)[0] > 0.1


def test_no_trigger_is_no_evidence() -> None:
    assert trigger_p_values(np.array([np.inf, 4096.0]), NULLS)[0] == pytest.approx(1)
    assert trigger_p_values(np.array([0.5]), NULLS)[0] < trigger_p_values(np.array([20.0]), NULLS)[0]


def test_two_tests_are_corrected_for_and_one_costs_nothing() -> None:
    p, none = np.array([0.004, 0.8]), np.full(2, np.nan)
    np.testing.assert_allclose(combine_p_values(p, np.array([0.5, 0.9])), [0.008, 1])
    np.testing.assert_allclose(combine_p_values(p, none), p)
