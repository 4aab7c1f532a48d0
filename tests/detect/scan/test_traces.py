import numpy as np
import pytest
from numpy.typing import NDArray

from petechia.detect.scan.traces import JUMP, LARGEST, block_means, blocks_and_texture, find_spots, pattern_of

RNG = np.random.default_rng(0)


def slow_boxes(image: NDArray[np.uint8]) -> set[tuple[int, int, int, int]]:
    """Try every box, one after the other: an edge along each whole side, and no side on the image's border."""
    levels = image.astype(int)
    rows, columns = image.shape
    found = set()
    for r in range(1, rows):
        for c in range(1, columns):
            for h in range(1, min(LARGEST, rows - r - 1) + 1):
                for w in range(1, min(LARGEST, columns - c - 1) + 1):
                    sides = (
                        levels[r, c : c + w] - levels[r - 1, c : c + w],
                        levels[r + h, c : c + w] - levels[r + h - 1, c : c + w],
                        levels[r : r + h, c] - levels[r : r + h, c - 1],
                        levels[r : r + h, c + w] - levels[r : r + h, c + w - 1],
                    )
                    if all((np.abs(side) >= JUMP).all() for side in sides):
                        found.add((r, c, h, w))
    return found


def boxes(image: NDArray[np.uint8]) -> set[tuple[int, int, int, int]]:
    spots = find_spots(image, 7)
    assert (spots["image"] == 7).all()
    return {tuple(int(spot[name]) for name in ("row", "column", "height", "width")) for spot in spots}  # type: ignore[misc]


def test_the_boxes_are_those_of_the_slow_search() -> None:
    image = RNG.integers(90, 101, (22, 26), np.uint8)
    image[3:6, 4:7] = 0
    image[10, 20] = 255
    image[12:18, 2:12] = RNG.integers(150, 256, (6, 10))
    assert boxes(image) == slow_boxes(image)
    assert {(3, 4, 3, 3), (10, 20, 1, 1), (12, 2, 6, 10)} <= boxes(image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (40, 40)])
def test_a_flat_image_has_no_spots(shape: tuple[int, int]) -> None:
    assert len(find_spots(np.full(shape, 128, np.uint8), 0)) == 0


def test_a_texture_of_edges_says_nothing_and_costs_little() -> None:
    assert len(find_spots(RNG.choice(np.array([0, 255], np.uint8), (400, 400)), 0)) == 0


def test_black_next_to_white_is_an_edge() -> None:
    image = np.full((9, 9), 255, np.uint8)
    image[4, 4] = 0
    assert boxes(image) == {(4, 4, 1, 1)}


@pytest.mark.parametrize("shape", [(64, 64), (192, 320), (70, 95), (1024, 1000), (5120, 4500)])
def test_block_means_are_means(shape: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, shape, np.uint8)
    height, width = shape[0] // 16, shape[1] // 16
    means = block_means(image)
    for i, j in [(0, 0), (3, 15), (15, 15)]:
        block = image[i * height : (i + 1) * height, j * width : (j + 1) * width]
        assert means[i, j] == pytest.approx(block.mean(), rel=1e-6)
    assert np.array_equal(blocks_and_texture(image)[0], means)


def test_a_pattern_is_its_size_and_its_grey_levels() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert pattern_of(pixels) == pattern_of(pixels.copy(order="F"))
    assert pattern_of(pixels) != pattern_of(pixels.reshape(3, 2))
    assert pattern_of(pixels) != pattern_of(pixels + 1)
