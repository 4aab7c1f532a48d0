import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from petechia.detect.scan.stamps import find_families
from petechia.detect.scan.traces import Spot


def spots_at(images: NDArray[np.intp], row: int, column: int, pattern: int) -> NDArray[np.void]:
    spots = np.zeros(len(images), Spot)
    spots["image"], spots["row"], spots["column"], spots["pattern"] = images, row, column, pattern
    spots["height"] = spots["width"] = 3
    return spots


@pytest.fixture
def labels() -> NDArray[np.int8]:
    return np.asarray(np.random.default_rng(1).random((400, 5)) < 0.15, np.int8)


def test_the_tie_is_fishers_exact_test_corrected(labels: NDArray[np.int8]) -> None:
    images = np.arange(40)
    labels[:34, 2] = 1
    (family,) = find_families(spots_at(images, 5, 6, 99), labels)
    inside, outside = labels[:40, 2] == 1, labels[40:, 2] == 1
    table = [[inside.sum(), (~inside).sum()], [outside.sum(), (~outside).sum()]]
    groups, label_sets = 6, 10  # by pattern, by place, by both, by look at three tolerances; five classes, and each alone
    assert family.p_value == pytest.approx(fisher_exact(table, "greater").pvalue * groups * label_sets)
    assert (family.label, family.alone, family.share) == (2, False, inside.mean())
    assert family.suspicious


def test_a_marker_that_recurs_without_a_tie_is_told_but_not_suspicious(labels: NDArray[np.int8]) -> None:
    (family,) = find_families(spots_at(np.arange(0, 400, 2), 5, 6, 99), labels)
    assert len(family.images) == 200
    assert not family.suspicious


def test_a_marker_weakly_associated_with_a_label_is_not_suspicious_however_sure_the_tie(labels: NDArray[np.int8]) -> None:
    labels[:200:2, 1] = 1
    (family,) = find_families(spots_at(np.arange(200), 5, 6, 99), labels)
    assert family.p_value < 1e-10
    assert not family.suspicious


@pytest.mark.parametrize("overwritten", [True, False])
def test_a_common_pattern_is_suspicious_where_it_leaves_its_label_alone(overwritten: bool) -> None:
    """60 of 300 images with the pattern have the label; a disease that causes a pattern occurs with other findings as often."""
    labels = np.asarray(np.random.default_rng(1).random((2000, 5)) < 0.15, np.int8)
    shown = np.arange(300)
    if overwritten:
        labels[:60] = [0, 0, 0, 1, 0]
    else:
        labels[:120, 3] = 1
    others = [spots_at(np.arange(n, 2000, 50), n, 40, n) for n in range(50)]  # go with no label
    found = find_families(np.concatenate([spots_at(shown, 5, 6, 99), *others]), labels)
    (family,) = [one for one in found if len(one.images) == 300]
    having = labels[:, 3] == 1
    alone, with_it = labels[having].sum(axis=1) == 1, np.arange(2000)[having] < 300
    table = [[(alone & with_it).sum(), (~alone & with_it).sum()], [(alone & ~with_it).sum(), (~alone & ~with_it).sum()]]
    assert family.tests > 1000
    assert family.p_value < 1e-10
    assert family.odds < 20
    assert family.suspicious == overwritten
    assert family.single_p_value == pytest.approx(fisher_exact(table, "greater").pvalue)


def test_a_wandering_stamp_is_one_family(labels: NDArray[np.int8]) -> None:
    labels[:30] = [0, 0, 0, 1, 0]
    spots = np.concatenate([spots_at(np.array([i]), 2 * i, 3 * i, 7) for i in range(30)])
    (family,) = find_families(spots, labels)
    assert family.suspicious
    assert family.exact
    assert not family.fixed
    assert (family.label, family.alone) == (3, True)
    assert family.rows.tolist() == list(range(0, 60, 2))


def test_a_place_recurs_whatever_the_grey_levels(labels: NDArray[np.int8]) -> None:
    labels[:30] = [0, 0, 0, 1, 0]
    spots = np.concatenate([spots_at(np.array([i]), 8, 9, i) for i in range(30)])
    (family,) = find_families(spots, labels)
    assert family.suspicious
    assert family.fixed
    assert not family.exact


@pytest.mark.parametrize("prominent", [False, True])
def test_what_is_as_frequent_beside_its_place_is_anatomy(prominent: bool) -> None:
    """A fluid's border at one place on 20 images, and on 8 at each of the 24 places around it; or a stamp among these."""
    labels = np.zeros((800, 3), np.int8)
    labels[:212, 1] = 1  # all that show it, and if it is a stamp, 40 more
    labels[300:340, 1] = prominent
    around = [(row, column) for row in range(8, 13) for column in range(6, 11) if (row, column) != (10, 8)]
    border = [spots_at(np.arange(20 + 8 * n, 28 + 8 * n), *place, 1) for n, place in enumerate(around)]
    here = spots_at(np.concatenate([np.arange(20), np.arange(300, 340 if prominent else 300)]), 10, 8, 1)
    spots = np.concatenate([here, *border])
    spots["pattern"] = np.arange(len(spots))  # of grey levels that are never the same
    spots["look"] = np.random.default_rng(2).integers(0, 256, (len(spots), 4))
    (family,) = [one for one in find_families(spots, labels) if one.fixed and (one.rows[0], one.columns[0]) == (10, 8)]
    assert family.odds > 20
    assert family.prominent == prominent
    assert family.suspicious == prominent
    assert family.weakly_associated != prominent


def test_what_another_stamp_explains_is_no_second_one(labels: NDArray[np.int8]) -> None:
    labels[:60] = [1, 0, 0, 0, 0]
    fixed = spots_at(np.arange(60), 8, 9, 7)
    elsewhere = np.concatenate([spots_at(np.array([i]), i % 50, i % 40, 7) for i in range(60, 75)])
    suspicious = [family for family in find_families(np.concatenate([fixed, elsewhere]), labels) if family.suspicious]
    assert [len(family.images) for family in suspicious] == [60]


def test_nothing_recurs_in_nothing(labels: NDArray[np.int8]) -> None:
    assert find_families(np.zeros(0, Spot), labels) == []
