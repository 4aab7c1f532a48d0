import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.detect.scan import nearest
from petechia.detect.scan.nearest import nearest_pairs

Vectors = NDArray[np.float32]


def unit(vectors: NDArray[np.float64]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def with_copies(count: int, copies: int, correlation: float) -> Vectors:
    """Random directions around a common one, and copies of the first ones."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(count, 128)) + 0.3)
    copied = correlation * vectors[:copies] + np.sqrt(1 - correlation**2) * unit(rng.normal(size=(copies, 128)))
    return np.concatenate([vectors, unit(copied)])


def all_with_all(vectors: Vectors, codes: NDArray[np.intp]) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """The nearest of each by brute force, and the nearest with another code."""
    alike = vectors.astype(float) @ vectors.astype(float).T
    np.fill_diagonal(alike, -1)
    unlike = np.where(codes[:, None] == codes, -1, alike)
    every, others = (
        {tuple(sorted((row, int(best)))) for row, best in enumerate(one.argmax(axis=1)) if one[row, best] > 0}
        for one in (alike, unlike)
    )
    return every, others  # type: ignore[return-value]


def as_set(pairs: NDArray[np.intp]) -> set[tuple[int, int]]:
    return {(one, other) for one, other in pairs.tolist()}


@pytest.mark.parametrize("codes", [2, 40])
def test_a_few_images_are_compared_with_all(codes: int) -> None:
    vectors = with_copies(1500, 100, 0.8)
    codes_of = np.random.default_rng(1).integers(0, codes, len(vectors))
    every, others = nearest_pairs(vectors, codes_of)
    assert (as_set(every), as_set(others)) == all_with_all(vectors, codes_of)


@pytest.mark.parametrize(("correlation", "recall"), [(0.9, 0.99), (0.7, 0.95)])
def test_of_many_images_nearly_all_copies_are_found(correlation: float, recall: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that compares each with a quarter of the others."""
    monkeypatch.setattr(nearest, "EXACT", 100)
    monkeypatch.setattr(nearest, "COMPARED", 1500)
    vectors = with_copies(5500, 500, correlation)
    codes = np.asarray(np.arange(len(vectors)) >= 5500, np.intp)
    every, others = (as_set(pairs) for pairs in nearest_pairs(vectors, codes))
    truth = {(row, 5500 + row) for row in range(500)}
    assert len(truth & every) >= recall * 500
    assert len(truth & others) >= recall * 500


def test_another_code_is_found_behind_a_series_with_the_same() -> None:
    """Two hundred frames that hardly differ; the last has other labels."""
    rng = np.random.default_rng(0)
    series = unit(np.ones((200, 128)) + rng.normal(0, 0.01, (200, 128)))
    vectors = np.concatenate([unit(rng.normal(size=(300, 128))), series])
    codes = np.zeros(500, np.intp)
    codes[-1] = 1
    _, others = nearest_pairs(vectors, codes)
    assert {(row, 499) for row in range(300, 499)} <= as_set(others)


def test_images_without_structure_are_like_no_other() -> None:
    every, others = nearest_pairs(np.zeros((50, 128), np.float32), np.arange(50))
    assert not len(every)
    assert not len(others)
    every, others = nearest_pairs(np.ones((1, 128), np.float32), np.zeros(1, np.intp))
    assert not len(every)
    assert not len(others)
