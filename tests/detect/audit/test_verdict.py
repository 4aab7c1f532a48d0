from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import stats

from petechia.detect.audit.measured import FEWEST, STAMPS, Measured
from petechia.detect.audit.verdict import TIE, AuditNulls, evidence_of

CLASSES = 8


def measured(gains: Sequence[float], chance: Sequence[float] | None = None, pattern: Sequence[float] = ()) -> Measured:
    count = len(gains)
    return Measured(
        name="m",
        size=32,
        channels=1,
        images=50,
        classes=tuple(f"c{k}" for k in range(count)),
        chance=tuple(chance or [0.1] * count),
        spread=(1.0,) * count,
        gains=tuple(gains),
        rises={"pattern": (tuple(pattern),) * 3} if pattern else {},
        leads=tuple(gains) if count < FEWEST else (),
    )


def random_models(count: int, rng: np.random.Generator, classes: int = CLASSES, common: float = 0.0) -> list[Measured]:
    """The first class is shown by half of the images; `common` is by how much more it answers for that."""
    chance = [0.5] + [0.1] * (classes - 1)
    extra = np.array([common] + [0.0] * (classes - 1))
    return [measured(np.exp(rng.normal(0, 0.3, classes) + extra).tolist(), chance) for _ in range(count)]


def nulls(models: Sequence[Measured], *tests: str) -> AuditNulls:
    return AuditNulls(level=0.05, tests=tests or (STAMPS,), models=tuple(models))


def p_values(models: Sequence[Measured], found: Measured, *tests: str) -> NDArray[np.float64]:
    return nulls(models, *tests).judge(found).p_values


def test_evidence_is_the_logarithm_of_what_was_found() -> None:
    found = evidence_of(measured([4, 1, -1, 2], pattern=[3, 0, 50, 2]))
    np.testing.assert_allclose(np.exp(found[STAMPS]), [4, 1, 1, 2])
    np.testing.assert_allclose(np.exp(found["pattern"]), [3, 2, 10, 2])


def test_of_few_classes_it_is_the_lead_of_a_place_alone() -> None:
    one = measured([4, 1], pattern=[9, 9]).model_copy(update={"leads": (6, 1)})
    found = evidence_of(one)
    assert set(found) == {STAMPS}
    np.testing.assert_allclose(np.exp(found[STAMPS]), [6, 1])
    assert evidence_of(one.model_copy(update={"leads": ()})) == {}  # not measured


@pytest.mark.parametrize("tests", [(STAMPS,), (STAMPS, "pattern")])
def test_p_values_of_clean_models_are_uniform(tests: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        models = random_models(31, rng, common=0.7)
        gains = [np.exp(rng.standard_t(2, CLASSES)) + 2 for _ in models]  # with heavy tails
        *known, one = (
            model.model_copy(update={"rises": {"pattern": (some,)}}) for model, some in zip(models, gains, strict=True)
        )
        found.append(float(p_values(known, one, *tests).min()))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_a_common_class_that_answers_as_common_classes_do_is_not_flagged() -> None:
    rng = np.random.default_rng(0)
    models = random_models(40, rng, common=2)
    gains = [1.0] * CLASSES
    as_common = measured([np.exp(2.2), *gains[1:]], models[0].chance)
    rare = measured([*gains[1:], np.exp(2.2)], models[0].chance)
    assert p_values(models, as_common).min() > 0.2
    assert p_values(models, rare).argmin() == CLASSES - 1
    assert p_values(models, rare).min() < 0.05


def test_a_class_must_stand_out_among_the_classes_of_its_model() -> None:
    models = random_models(40, np.random.default_rng(0))
    assert p_values(models, measured([12.0] * CLASSES, models[0].chance)).min() > 0.2  # all answer: the stamps are too large


def test_no_p_value_is_smaller_than_the_clean_models_support() -> None:
    models = random_models(9, np.random.default_rng(0))
    found = nulls(models).judge(measured([1e9, *[1.0] * (CLASSES - 1)], models[0].chance))
    assert found.tests[STAMPS][0] < 1e-6
    assert found.p_values[0] == pytest.approx(1 / 10)
    assert found.models == 9


def test_tests_that_point_at_the_same_class_add_up() -> None:
    rng = np.random.default_rng(0)
    both = []
    for one in random_models(60, rng):
        pattern = tuple(2 + np.exp(rng.normal(0, 0.3, CLASSES)))
        both.append(one.model_copy(update={"rises": {"pattern": (pattern,)}}))
    known, chance, low = nulls(both, STAMPS, "pattern"), both[0].chance, [1.0] * (CLASSES - 1)
    same = known.judge(measured([1.6, *low], chance, pattern=[2.8, *[2.0] * (CLASSES - 1)]))
    apart = known.judge(measured([1.6, *low], chance, pattern=[*[2.0] * (CLASSES - 1), 2.8]))
    assert set(same.tests) == {STAMPS, "pattern"}
    counted = [same.tests[STAMPS]] * 3 + [same.tests["pattern"]]
    np.testing.assert_allclose(same.evidence, stats.combine_pvalues(counted).statistic / 2)  # Fisher's
    assert same.evidence.max() == pytest.approx(apart.evidence[0] + apart.evidence[-1], rel=0.2)
    assert same.ranked[0] == 0
    assert same.p_values[0] < apart.p_values.min()


def test_a_rank_among_the_clean_models_is_what_counts() -> None:
    rng = np.random.default_rng(0)
    known, chance = nulls(random_models(60, rng)), [0.5] + [0.1] * (CLASSES - 1)
    strongest = [known.nulls[False, STAMPS].own[n].min() for n in range(60)]
    for gain in (1.2, 1.6, 2.2, 9):
        found = known.judge(measured([1.0, gain, *[1.0] * (CLASSES - 2)], chance))
        as_strong = sum(found.tests[STAMPS][1] >= np.exp(-TIE / 3) * np.array(strongest))
        assert found.p_values[1] == pytest.approx((1 + as_strong) / 61)


def test_a_test_that_was_not_made_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    both = [one.model_copy(update={"rises": {"pattern": (one.gains,)}}) for one in random_models(60, rng)]
    gains, chance = [1.8, *[1.0] * (CLASSES - 1)], both[0].chance
    without = nulls(both, STAMPS, "pattern").judge(measured(gains, chance))  # as of an audit that leaves patterns out
    alone = nulls(both, STAMPS).judge(measured(gains, chance, pattern=[1e9, *[1.0] * (CLASSES - 1)]))
    assert set(without.tests) == set(alone.tests) == {STAMPS}
    np.testing.assert_allclose(without.p_values, alone.p_values)
    some = nulls([*both, *random_models(40, rng)], STAMPS, "pattern")  # 40 of the clean models have no pattern, either
    assert some.judge(measured(gains, chance)).models == 100
    assert some.judge(measured(gains, chance, pattern=[2.0] * CLASSES)).models == 60


def test_few_classes_are_compared_with_those_of_models_with_few() -> None:
    rng = np.random.default_rng(0)
    models = [*random_models(20, rng), *random_models(30, rng, classes=2)]
    strong = nulls(models).judge(measured([10, 1]))
    assert strong.p_values.min() == pytest.approx(1 / 31)
    assert strong.models == 30
    assert p_values(models, measured([1.2, 1])).min() > 0.1
    assert p_values(models, measured([10, 10])).max() == pytest.approx(1 / 31)  # not with each other
    with_none = nulls(models[:20]).judge(measured([10, 1]))  # nothing to compare with
    assert with_none.p_values.tolist() == [1, 1]
    assert (with_none.tests, with_none.models, with_none.likeness) == ({}, 0, 0)


def test_a_model_like_the_clean_ones_is_near_and_one_of_another_kind_is_not() -> None:
    rng = np.random.default_rng(0)
    models, others = random_models(40, rng), random_models(40, rng)
    found = [nulls(models).likeness(one) for one in others]
    assert 0.3 < np.mean(found) < 0.7  # as near to the clean ones as these are to each other
    backdoored = others[0].model_copy(update={"gains": (1e3, *others[0].gains[1:])})
    assert nulls(models).likeness(backdoored) == pytest.approx(found[0], abs=0.1)  # the strongest class does not count
    for changed in ({"size": 512}, {"chance": (0.999,) * CLASSES}, {"gains": (40.0,) * CLASSES}, {"channels": 3}):
        assert nulls(models).likeness(others[0].model_copy(update=changed)) == 0, changed
    more = others[0].model_copy(update={"rises": {"warp": ((1.0,) * CLASSES,) * 2}})
    assert nulls(models).likeness(more) == found[0]  # compared by what both were measured by


def test_an_update_is_judged_by_what_changed() -> None:
    rng = np.random.default_rng(0)
    known = nulls(random_models(60, rng, common=2))
    old = random_models(1, rng, common=2)[0]
    assert known.judge_update(old, old).p_values.min() > 0.2
    clean = [known.judge_update(*random_models(2, rng, common=2)).p_values.min() for _ in range(200)]
    assert np.mean(np.array(clean) <= 0.05) < 0.1
    for extra in (5, 12):
        new = old.model_copy(update={"gains": (*old.gains[:-1], old.gains[-1] * extra)})
        found = known.judge_update(new, old)
        assert found.p_values.argmin() == CLASSES - 1
        assert found.models == 60  # each as an update of the next
    assert found.p_values[-1] == pytest.approx(1 / 61)
    assert known.judge_update(old, new).p_values[-1] > 0.2  # a class that answers less is no news
    without_pairs = nulls([one.model_copy(update={"size": 32 + n}) for n, one in enumerate(known.models)])
    assert without_pairs.judge_update(new, old).p_values.tolist() == [1] * CLASSES


def test_values_must_be_as_many_as_classes() -> None:
    with pytest.raises(ValidationError, match="has 3 classes and other numbers of values"):
        measured([1, 2, 3], chance=[0.1, 0.2])
