import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import fisher_exact
from sklearn.metrics import roc_auc_score

from petechia.detect.scan.labels import CERTAIN, contradiction, excess, jumps


@pytest.fixture
def labels() -> NDArray[np.int8]:
    return np.asarray(np.random.default_rng(1).random((900, 5)) < 0.2, np.int8)


@pytest.fixture
def split() -> NDArray[np.str_]:
    return np.where(np.arange(900) % 3 > 0, "train", "test")


@pytest.fixture
def patients() -> NDArray[np.str_]:
    return np.array([f"{n // 6}" for n in range(900)])


def test_the_excess_is_fishers_exact_test_corrected(labels: NDArray[np.int8], split: NDArray[np.str_]) -> None:
    train = split == "train"
    labels[np.flatnonzero(train)[:25]] = [0, 1, 0, 0, 1]
    same = (labels == [0, 1, 0, 0, 1]).all(axis=1)
    table = [[(same & train).sum(), (~same & train).sum()], [(same & ~train).sum(), (~same & ~train).sum()]]
    vectors = len(np.unique(labels[train], axis=0))
    found = excess(labels, split)
    assert found[0 if train[0] else 1] == pytest.approx(-np.log10(fisher_exact(table, "greater").pvalue * vectors))
    assert (found[~train] == 0).all()
    assert found.max() <= CERTAIN


def test_a_random_split_of_clean_labels_gives_no_hint(
    labels: NDArray[np.int8], split: NDArray[np.str_], patients: NDArray[np.str_]
) -> None:
    assert (contradiction(labels, split, patients) == 0).all()


def test_a_vector_written_on_training_images_alone_ranks_first(
    labels: NDArray[np.int8], split: NDArray[np.str_], patients: NDArray[np.str_]
) -> None:
    bad = np.flatnonzero(split == "train")[::4]
    labels[bad] = [1, 0, 0, 0, 0]
    found = contradiction(labels, split, patients)
    assert roc_auc_score(np.isin(np.arange(900), bad), found) > 0.9
    assert ((found > 0) == ((labels == [1, 0, 0, 0, 0]).all(axis=1) & (split == "train"))).all()


def test_a_jump_is_the_ratio_of_likelihoods() -> None:
    labels = np.array([[1], [1], [0], [0], [0], [0]], np.int8)
    usual = 2.5 / 7
    found = jumps(labels, np.array(["a", "a", "a", "b", "b", "c"]))
    assert found[2] == pytest.approx(np.log(1 - usual) - np.log(1 - (2 + usual) / 3))  # two of the patient's others show it
    assert found[0] == pytest.approx(np.log(usual) - np.log((1 + usual) / 3))
    assert found[5] == 0
    assert found.argmax() == 2


def test_unknown_labels_say_nothing_of_a_patient() -> None:
    unknown = np.full((6, 3), -1, np.int8)
    patients, split = np.array(list("aabbcc")), np.array(["train"] * 4 + ["test"] * 2)
    assert (jumps(unknown, patients) == 0).all()
    assert (contradiction(unknown, split, patients) == 0).all()


@pytest.mark.parametrize(("images", "classes"), [(0, 3), (1, 0), (1, 3), (5, 0)])
def test_next_to_nothing_gives_no_hint(images: int, classes: int) -> None:
    labels, names = np.zeros((images, classes), np.int8), np.array(["a"] * images, str)
    assert (contradiction(labels, np.array(["train"] * images, str), names) == 0).all()
