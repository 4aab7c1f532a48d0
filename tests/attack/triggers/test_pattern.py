from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from petechia.attack import Pattern
from petechia.core.errors import PetechiaError
from petechia.core.files import sha256
from petechia.data.preprocess import Box


def write(path: Path, pixels: NDArray[np.uint8]) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def some(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)


def test_a_transparent_picture_pixel_by_pixel(tmp_path: Path) -> None:
    picture = some(3, 4, 4)
    file = write(tmp_path / "p.png", picture)
    images, positions = some(5, 12, 14, 3), np.array([[0, 0], [9, 10], [4, 4], [2, 7], [9, 0]])
    trigger = Pattern(image=file, size="own", opacity=0.6)
    stamped = trigger.stamp(images, positions)
    wanted = images.astype(float)
    for n, (top, left) in enumerate(positions):
        for i, j, channel in np.ndindex(3, 4, 3):
            share = 0.6 * picture[i, j, 3] / 255
            wanted[n, top + i, left + j, channel] *= 1 - share
            wanted[n, top + i, left + j, channel] += share * picture[i, j, channel]
    assert np.abs(stamped - wanted).max() < 0.501
    grey = trigger.stamp(images[..., 0], positions)
    luma = np.asarray(Image.fromarray(picture[..., :3]).convert("L")).astype(float)
    assert abs(grey[0, 0, 0] - (0.6 * picture[0, 0, 3] / 255 * (luma[0, 0] - images[0, 0, 0, 0]) + images[0, 0, 0, 0])) < 1.1


def test_the_same_place_and_different_places_give_the_same() -> None:
    images = some(6, 20, 20, 3)
    trigger = Pattern(opacity=0.3)
    same, other = np.full((6, 2), 5), np.array([[5, 5]] * 5 + [[0, 0]])
    assert np.array_equal(trigger.stamp(images, same)[:5], trigger.stamp(images, other)[:5])


def test_the_built_in_checkerboard_and_noise() -> None:
    black = np.zeros((1, 16, 16), np.uint8)
    place = np.array([[4, 4]])
    board = Pattern(size=8).stamp(black, place)[0]
    assert all(board[4 + i, 4 + j] == 255 * ((i + j) % 2) for i, j in np.ndindex(8, 8))
    assert board.sum() == 32 * 255
    noises = [Pattern(image="noise", seed=seed).stamp(black, place)[0] for seed in (0, 0, 1)]
    assert np.array_equal(noises[0], noises[1])
    assert (noises[0] != noises[2]).any()


@pytest.mark.parametrize("size", range(2, 18))
def test_a_checkerboard_of_any_size_is_one(size: int) -> None:
    board = Pattern(size=size).stamp(np.full((1, 20, 20), 7, np.uint8), np.array([[1, 2]]))[0, 1 : size + 1, 2 : size + 2]
    edges = [np.flatnonzero(np.diff(line.astype(int))) for line in (board[0], board[:, 0])]
    assert all(len(one) == min(size, 8) - 1 for one in edges)  # every cell is seen
    rows, columns = (np.searchsorted(one, np.arange(size)) for one in (edges[1], edges[0]))
    assert np.array_equal(board, 255 * ((rows[:, None] + columns) % 2))


def test_dots_change_five_pixels_and_no_others() -> None:
    images = np.full((2, 40, 30), 99, np.uint8)
    for trigger in (Pattern(image="dots", size="whole"), Pattern(image="dots", size=12, location=(3, 4))):
        stamped = trigger.stamp(images, np.array([[0, 0], [0, 0]]))
        assert np.array_equal(stamped[0], stamped[1])
        assert sorted(stamped[0][stamped[0] != 99]) == [0, 0, 255, 255, 255]
    one, other = (Pattern(image="dots", size="whole", seed=seed).stamp(images, np.zeros((2, 2), int)) for seed in (0, 1))
    assert (one != other).any()


def test_sizes() -> None:
    whole = Box(0, 0, 30, 40)
    assert Pattern(size="whole").place(30, 40, whole, (0.9, 0.9)) == (0, 0)
    assert Pattern(size=10).place(30, 40, whole, (0.9, 0.9)) == (10, 15)
    assert Pattern(size=10, location="random").place(30, 40, whole, (0.999, 0)) == (20, 0)
    assert (Pattern(size="whole").stamp(np.full((1, 30, 40), 99, np.uint8), np.zeros((1, 2), np.intp)) != 99).all()
    with pytest.raises(PetechiaError, match="31 x 31 pixels .* does not fit"):
        Pattern(size=31).place(30, 40, whole, (0, 0))
    assert list(Pattern(size=8).sizes()) == [1, 2, 3, 4, 8]
    assert Pattern(size="whole").sizes() == {}


def test_proportions_of_a_file_stay(tmp_path: Path) -> None:
    file = write(tmp_path / "wide.png", np.full((10, 20, 3), 255, np.uint8))
    stamped = Pattern(image=file, size=8).stamp(np.zeros((1, 16, 16), np.uint8), np.array([[0, 0]]))[0]
    assert np.argwhere(stamped).max(axis=0).tolist() == [3, 7]


def test_the_files_digest_is_part_of_the_trigger(tmp_path: Path) -> None:
    file = write(tmp_path / "p.png", some(4, 4, 3))
    trigger = Pattern(image=file)
    assert trigger.sha256 == sha256(tmp_path / "p.png")
    again = Pattern.model_validate_json(trigger.model_dump_json())
    assert again == trigger
    write(tmp_path / "p.png", some(5, 5, 3))
    changed = Pattern.model_validate(trigger.model_dump())  # what was written down can be read without the file
    with pytest.raises(PetechiaError, match="is not the file that this attack was configured with"):
        changed.stamp(np.zeros((1, 9, 9), np.uint8), np.array([[0, 0]]))
    assert Pattern(image=file) != trigger


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_picture_is_refused_when_it_is_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(PetechiaError, match=r"p\.png is not an 8-bit PNG"):
        Pattern(image=str(tmp_path / "p.png")).stamp(np.zeros((1, 9, 9), np.uint8), np.array([[0, 0]]))


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="cannot be read .*give a PNG file, or one of checkerboard"):
        Pattern(image=str(tmp_path / "p.png"))


@pytest.mark.parametrize("bad", [{"opacity": 0}, {"size": 0}, {"size": "half"}, {"sha256": "abc"}, {"location": "left"}])
def test_impossible_patterns_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pattern.model_validate(bad)
