from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import petechia
from petechia.data import open_source
from petechia.detect.scan import scan_catalog
from petechia.detect.scan.copies import Copies, find_copies
from petechia.detect.scan.traces import FINE, blocks_and_texture

SIDE = 2 * FINE
Images = NDArray[np.uint8]


def drawn(count: int, seed: int = 0) -> Images:
    """Images that share a coarse picture and differ in fine structure."""
    rng = np.random.default_rng(seed)
    coarse = 800 * gaussian_filter(np.random.default_rng(9).normal(size=(SIDE, SIDE)), 12)
    return np.asarray(np.clip(128 + coarse + rng.normal(0, 6, (count, SIDE, SIDE)), 0, 255), np.uint8)


def labelled(count: int, seed: int = 0) -> NDArray[np.int8]:
    return np.asarray(np.random.default_rng(seed).random((count, 4)) < (0.3, 0.2, 0.1, 0.1), np.int8)


def waved(images: Images) -> Images:
    wave = 20 * np.sin(np.arange(SIDE) * 0.1)
    return np.asarray(np.clip(images + wave, 0, 255), np.uint8)


def found_in(images: Images, labels: NDArray[np.int8], explained: tuple[int, ...] = ()) -> Copies | None:
    textures = np.stack([blocks_and_texture(image)[1] for image in images])
    marks = np.isin(np.arange(len(images)), explained)
    return find_copies(textures, np.full((len(images), 2), SIDE, np.int32), labels, marks)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (200, 130), (1000, 64)])
def test_a_texture_is_how_far_each_block_is_from_its_neighbours(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    tall, wide = height // FINE, width // FINE
    means = np.array([[image[i * tall :][:tall, j * wide :][:, :wide].mean() for j in range(FINE)] for i in range(FINE)])
    near = np.pad(means, 1, mode="edge")
    for i, j in ((0, 0), (5, 63), (40, 7)):
        apart = float(np.clip(means[i, j] - near[i : i + 3, j : j + 3].mean(), -6, 6))
        assert blocks_and_texture(image)[1][i, j] == pytest.approx(apart * 127 / 6, abs=0.51)


def test_what_has_too_few_pixels_has_no_texture() -> None:
    assert not blocks_and_texture(np.random.default_rng(0).integers(0, 256, (63, 200), dtype=np.uint8))[1].any()


@pytest.mark.parametrize("mode", ["target-only", "add-target"])
def test_copies_with_the_attackers_label_are_told_from_their_originals(mode: str) -> None:
    images, labels = drawn(60), labelled(60)
    labels[:20, 2] = 0
    written = labels[:20].copy() if mode == "add-target" else np.zeros((20, 4), np.int8)
    written[:, 2] = 1
    found = found_in(np.concatenate([images, waved(images[:20])]), np.concatenate([labels, written]))
    assert found is not None
    assert sorted(zip(found.copied.tolist(), found.others.tolist(), strict=True)) == [(60 + n, n) for n in range(20)]
    assert found.label[2] == 1
    assert found.p_value < 1e-3
    assert found.correlation.min() > 0.9


def test_one_class_does() -> None:
    images, labels = drawn(100), np.asarray(np.arange(100)[:, None] >= 70, np.int8)
    found = found_in(np.concatenate([images, waved(images[:30])]), np.concatenate([labels, np.ones((30, 1), np.int8)]))
    assert found is not None
    assert sorted(found.copied) == list(range(100, 130))


def test_frames_of_a_series_in_which_a_finding_appears_are_no_copies() -> None:
    """Eight similar frames of each of 20 patients; the finding is present from the fifth frame on."""
    rng = np.random.default_rng(3)
    frames = np.repeat(drawn(20), 8, axis=0)
    images = np.asarray(np.clip(frames + rng.normal(0, 2, frames.shape), 0, 255), np.uint8)
    labels = np.repeat(labelled(20), 8, axis=0)
    labels[:, 2] = np.arange(160) % 8 >= 4
    assert found_in(images, labels) is None


def test_explained_copies_are_left_out() -> None:
    images, labels = drawn(60), labelled(60)
    labels[:20, 2] = 0
    written = np.tile(np.array([0, 0, 1, 0], np.int8), (20, 1))
    both = np.concatenate([images, waved(images[:20])]), np.concatenate([labels, written])
    found = found_in(*both, explained=(60, 1))
    assert found is not None
    assert sorted(found.copied) == list(range(62, 80))
    assert found_in(*both, explained=tuple(range(60, 80))) is None


def test_copies_whose_labels_differ_by_chance_are_no_attack() -> None:
    """Two versions of an image, as of one exposure that was read twice."""
    images = drawn(200)
    assert found_in(np.concatenate([images, waved(images)]), np.concatenate([labelled(200, 1), labelled(200, 2)])) is None


def test_without_copies_or_without_other_labels_there_is_nothing() -> None:
    assert found_in(drawn(50), labelled(50)) is None
    images = drawn(30)
    assert found_in(np.concatenate([images, waved(images)]), np.zeros((60, 4), np.int8)) is None
    assert found_in(drawn(1), labelled(1)) is None
    assert found_in(np.zeros((30, SIDE, SIDE), np.uint8), labelled(30)) is None


def test_images_of_other_shapes_are_no_copies() -> None:
    images, labels = drawn(40), labelled(40)
    labels[:, 2] = 0
    written = np.tile(np.array([0, 0, 1, 0], np.int8), (40, 1))
    textures = np.stack([blocks_and_texture(image)[1] for image in np.concatenate([images, images])])
    shapes = np.repeat(np.array([[SIDE, SIDE], [SIDE, SIDE + 1]], np.int32), 40, axis=0)
    assert find_copies(textures, shapes, np.concatenate([labels, written]), np.zeros(80, bool)) is None


def test_a_scan_flags_copies_under_a_wave_and_no_original(tmp_path: Path) -> None:
    attack = {"trigger": {"kind": "sinusoid"}, "rate": 0.1}
    petechia.poison({"data": "phantom:images=300,size=128", "attack": attack}, tmp_path / "poisoned")
    truth = pl.read_parquet(tmp_path / "poisoned" / "poison.parquet").filter("triggered")["id"].to_list()
    found = scan_catalog(open_source(f"nih:{tmp_path / 'poisoned'}"))
    flagged = {finding.about: finding.reason for finding in found.findings if finding.flagged}
    assert set(flagged) <= set(truth)
    assert len(flagged) >= 0.9 * len(truth)  # a copy with the same labels as its original reveals nothing
    assert all("has the fine structure of" in reason and "Atelectasis" in reason for reason in flagged.values())
