import numpy as np
import pytest
from numpy.typing import NDArray

import petechia
from petechia.data.sources.arrays import of_arrays
from petechia.detect.scan.mislabelled import SURE, Doubts, doubtful_labels
from petechia.detect.scan.traces import FINE, GRID

COUNT = 1500
Labels = NDArray[np.int8]


def shown(count: int = COUNT) -> tuple[NDArray[np.float32], NDArray[np.int8], Labels]:
    """Traces of images on which the first class is a bright corner, and the second is not to be seen; and the true labels."""
    rng = np.random.default_rng(0)
    truth = np.asarray(rng.random((count, 2)) < 0.2, np.int8)
    blocks = rng.normal(100, 10, (count, GRID, GRID)).astype(np.float32)
    blocks[truth[:, 0] == 1, :3, :3] += 20
    return blocks, np.zeros((count, FINE, FINE), np.int8), truth


def found(labels: Labels, usable: NDArray[np.bool_] | None = None) -> Doubts:
    blocks, textures, _ = shown(len(labels))
    patients = np.array([f"{row // 3}" for row in range(len(labels))])
    return doubtful_labels(blocks, textures, labels, patients, np.ones(len(labels), bool) if usable is None else usable)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_written_labels_rank_before_true_ones(share: float) -> None:
    labels = shown()[2]
    written = np.flatnonzero(labels[:, 0] == 0)[: int(share * COUNT)]
    labels[written, 0] = 1
    doubts = found(labels)
    clean = np.setdiff1d(np.arange(COUNT), written)
    assert (doubts.odds[written] > np.quantile(doubts.odds[clean], 0.99)).mean() >= 0.95
    assert (doubts.label[written] == 0).all()
    assert (np.argsort(doubts.odds, kind="stable") == np.argsort(doubts.strength, kind="stable")).all()
    assert 0 <= doubts.strength.min() <= doubts.strength.max() <= 1


def test_true_labels_and_classes_that_cannot_be_seen_are_not_doubted() -> None:
    labels = shown()[2]
    assert (found(labels).odds < 0).mean() > 0.999
    labels[:100, 1] = 1
    assert (found(labels).odds[:100] < 2).all()


def test_nothing_is_said_of_few_images_unknown_labels_and_images_that_were_not_read() -> None:
    assert (found(shown()[2][:60]).odds == -SURE).all()
    assert (found(np.zeros((COUNT, 0), np.int8)).odds == -SURE).all()
    assert (found(np.full((COUNT, 2), -1, np.int8)).odds == -SURE).all()
    labels = shown()[2]
    labels[:20, 0] = -1
    labels[20:60, 0] = 1
    usable = np.arange(COUNT) >= 40
    doubts = found(labels, usable)
    assert (doubts.odds[:40] == -SURE).all()
    assert (doubts.odds[40:60][shown()[2][40:60, 0] == 0] > 0).mean() > 0.9


def test_images_that_are_all_the_same_say_nothing() -> None:
    labels = shown()[2]
    same = np.full((COUNT, GRID, GRID), 7, np.float32), np.zeros((COUNT, FINE, FINE), np.int8)
    names = np.array([f"{row}" for row in range(COUNT)])
    assert (doubtful_labels(*same, labels, names, np.ones(COUNT, bool)).odds <= 0).all()
    one = doubtful_labels(*same, labels, np.full(COUNT, "one patient"), np.ones(COUNT, bool))
    assert np.isfinite(one.odds).all()


def test_a_scan_ranks_them_and_flags_none() -> None:
    rng = np.random.default_rng(1)
    truth = np.asarray(rng.random((600, 1)) < 0.3, np.int8)
    images = np.clip(rng.normal(100, 4, (600, 64, 64)), 0, 255)
    images[truth[:, 0] == 1, :12, :12] += 40
    labels = truth.copy()
    written = np.flatnonzero(truth[:, 0] == 0)[:12]
    labels[written] = 1
    result = petechia.scan(of_arrays(images.astype(np.uint8), labels, ("Mass",)))
    assert result.flagged == 0
    first = result.suspects.head(12)
    assert {int(name) for name in first["id"]} == set(written.tolist())
    assert all("is labelled with Mass, but looks as images without it do" in reason for reason in first["reason"])
