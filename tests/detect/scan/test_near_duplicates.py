from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.detect.scan import near_duplicates
from petechia.detect.scan.near_duplicates import Pair, assign, candidates, compare
from petechia.detect.scan.traces import block_means

Images = list[NDArray[np.uint8]]


@pytest.fixture
def images() -> Images:
    """Twenty smooth images, all different."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (20, 8, 8), np.uint8)
    return [np.asarray(np.kron(one, np.ones((16, 16))), np.uint8) for one in coarse]


def pairs_of(images: Images, labels: NDArray[np.int8] | None = None) -> list[Pair]:
    blocks = np.stack([block_means(image) for image in images])
    shapes = np.array([image.shape for image in images], np.int32)
    found = [compare(int(a), int(b), images.__getitem__) for a, b in candidates(blocks, shapes)]
    return assign([pair for pair in found if pair], np.zeros((len(images), 1), np.int8) if labels is None else labels)


def stamped(image: NDArray[np.uint8], row: int, column: int, stamp: NDArray[np.uint8]) -> NDArray[np.uint8]:
    copy = image.copy()
    copy[row : row + stamp.shape[0], column : column + stamp.shape[1]] = stamp
    return copy


@pytest.mark.parametrize(("row", "column"), [(0, 0), (62, 62), (125, 125), (30, 100)])
def test_a_triggered_copy_is_found_wherever_its_stamp_is(images: Images, row: int, column: int) -> None:
    images.append(stamped(images[4], row, column, np.zeros((3, 3), np.uint8)))
    (pair,) = pairs_of(images)
    assert (pair.stamped, pair.clean, pair.row, pair.column) == (20, 4, row, column)
    assert (pair.stamp == 0).all()
    assert pair.stamp.shape == (3, 3)


def test_different_images_are_no_near_duplicates(images: Images) -> None:
    assert pairs_of(images) == []


def test_an_image_encoded_anew_has_no_stamp(images: Images) -> None:
    noise = np.random.default_rng(1).integers(-3, 4, images[0].shape)
    images.append(np.asarray(np.clip(images[3].astype(int) + noise, 0, 255), np.uint8))
    (pair,) = pairs_of(images)
    assert pair.stamp.size == 0


def test_a_stamp_shows_through_encoding_anew(images: Images) -> None:
    noise = np.random.default_rng(1).integers(-3, 4, images[0].shape)
    images.append(np.asarray(np.clip(stamped(images[3], 50, 60, np.zeros((4, 4), np.uint8)) + noise, 0, 255), np.uint8))
    (pair,) = pairs_of(images)
    assert (pair.stamped, pair.row, pair.column, pair.stamp.shape) == (20, 50, 60, (4, 4))


def test_a_follow_up_that_differs_in_a_larger_part_is_no_near_duplicate(images: Images) -> None:
    images.append(stamped(images[3], 40, 40, np.full((20, 20), 250, np.uint8)))
    assert pairs_of(images) == []


def test_the_stamp_is_what_recurs_even_where_it_stands_out_less(images: Images) -> None:
    grey = np.full((3, 3), 130, np.uint8)
    images = [stamped(image, 60, 60, np.full((5, 5), 20 * (n % 5), np.uint8)) for n, image in enumerate(images)]
    copies = [stamped(image, 61, 61, grey) for image in images[:5]]
    pairs = pairs_of([*images, *copies])
    assert sorted((pair.stamped, pair.clean) for pair in pairs) == [(20 + n, n) for n in range(5)]


def test_identical_images_cost_a_comparison_each_and_no_more(images: Images) -> None:
    assert len(pairs_of([images[0]] * 30)) == 29


def test_one_image_has_no_near_duplicate(images: Images) -> None:
    assert pairs_of(images[:1]) == []


def test_images_of_other_shapes_are_not_compared() -> None:
    assert pairs_of([np.full((64, 64), 9, np.uint8), np.full((64, 80), 9, np.uint8)]) == []


def test_labels_settle_a_pair_whose_image_had_some_of_the_stamp_already(images: Images) -> None:
    stamp = np.full((2, 2), 255, np.uint8)
    images[4][30:32, 30:32] = [[255, 255], [255, 0]]  # the stamp changes one pixel, which stood out before
    images += [stamped(images[i], 30, 30, stamp) for i in range(5)]
    labels = np.zeros((25, 3), np.int8)
    labels[:20, 1], labels[20:, 2] = 1, 1
    assert [(pair.stamped, pair.clean) for pair in pairs_of(images, labels)] == [(20 + i, i) for i in range(5)]
    assert (4, 24) in [
        (pair.stamped, pair.clean) for pair in pairs_of(images)
    ]  # without labels it is taken the wrong way round


def framed(count: int, side: int, margin: int) -> Images:
    """Random images, all with the same black margin."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(60, 200, (count, 16, 16), np.uint8)
    images = np.kron(coarse, np.ones((side // 16, side // 16), np.uint8))
    for part in (np.s_[:, :margin], np.s_[:, side - margin :], np.s_[:, :, :margin], np.s_[:, :, side - margin :]):
        images[part] = 0
    return list(images)


@pytest.mark.parametrize(("side", "margin"), [(64, 0), (64, 12), (64, 16), (64, 20), (256, 80)])
def test_a_margin_that_all_images_share_costs_no_comparison_of_all_with_all(
    side: int, margin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy with a box of 16 x 16 pixels is found, anywhere, and few other pairs are looked at."""
    images = framed(1500, side, margin)
    places = [(row, column) for row in range(0, side - 15, side // 16 - 1) for column in range(0, side - 15, side // 8 + 1)]
    copies = [stamped(images[n], *place, np.full((16, 16), 250, np.uint8)) for n, place in enumerate(places)]
    looked_at: list[int] = []
    monkeypatch.setattr(near_duplicates, "_alike", counted(near_duplicates._alike, looked_at))
    blocks = np.stack([block_means(image) for image in images + copies])
    found = candidates(blocks, np.full((len(blocks), 2), side, np.int32))
    assert {(n, 1500 + n) for n in range(len(copies))} <= set(map(tuple, found.tolist()))
    assert sum(looked_at) < 20 * len(blocks)


def counted(function: Callable[..., NDArray[np.bool_]], counts: list[int]) -> Callable[..., NDArray[np.bool_]]:
    """The same function, which notes how many pairs it is given."""

    def work(blocks: NDArray[np.float32], pairs: NDArray[np.intp], *others: object) -> NDArray[np.bool_]:
        counts.append(len(pairs))
        return function(blocks, pairs, *others)

    return work
