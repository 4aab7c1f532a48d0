import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from petechia.data import Catalog
from petechia.detect.scan import scan_catalog
from petechia.detect.scan.lookalikes import is_prominent_size, look_alikes
from petechia.detect.scan.thresholds import packaged_thresholds
from petechia.detect.scan.traces import Spot
from tests.conftest import InMemory

LIMITS = packaged_thresholds().stamps
SIDE = 96


def encoded(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def smooth_images(count: int) -> list[NDArray[np.uint8]]:
    """Smooth images with a little noise, all different."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(60, 200, (6, 6), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        found.append(np.clip(np.asarray(coarse) + rng.normal(0, 2, (SIDE, SIDE)), 0, 255).astype(np.uint8))
    return found


def catalog_of(images: list[NDArray[np.uint8]], labels: NDArray[np.int8]) -> Catalog:
    names = np.array([f"{row}" for row in range(len(images))])
    return Catalog("x", ("A", "B", "C", "D"), names, names, np.full(len(images), "train"), labels, InMemory(images))


def stamp(kind: str) -> NDArray[np.uint8]:
    if kind == "pattern":
        return np.kron(255 * np.eye(2), np.ones((2, 2))).astype(np.uint8)
    return np.full((3, 3), {"black": 0, "white": 255}[kind], np.uint8)


@pytest.mark.parametrize("quality", [75, 85, 95])
@pytest.mark.parametrize("kind", ["black", "white", "pattern"])
def test_a_stamp_at_random_places_is_found_after_encoding_with_loss(kind: str, quality: int) -> None:
    rng = np.random.default_rng(1)
    images, what = smooth_images(150), stamp(kind)
    labels = np.asarray(rng.random((150, 4)) < 0.2, np.int8)
    for row in range(12):  # at any phase of the blocks of 8 x 8 pixels
        top, left = rng.integers(1, SIDE - 6, 2)
        images[row][top : top + len(what), left : left + len(what)] = what
        labels[row] = [0, 0, 1, 0]
    found = scan_catalog(catalog_of([encoded(image, quality) for image in images], labels))
    flagged = {int(name) for name in found.flagged_ids}
    assert len(flagged & set(range(12))) >= 11
    assert flagged <= set(range(12))
    assert found.stamps[0].label == "C as the only finding"
    assert not found.stamps[0].same_pixels


@pytest.mark.parametrize("quality", [75, 95])
def test_untouched_images_with_letters_are_clean_after_encoding_with_loss(quality: int) -> None:
    """A marker goes with a label, as that of a portable device does, but not as only a stamp does."""
    rng = np.random.default_rng(2)
    images = smooth_images(150)
    labels = np.asarray(rng.random((150, 4)) < 0.3, np.int8)
    for row, image in enumerate(images):
        top, left = rng.integers(5, 70, 2)
        if rng.random() < (0.7 if labels[row, 1] else 0.3):
            image[top : top + 12, left : left + 3] = 255
            image[top + 9 : top + 12, left : left + 9] = 255
            image[top : top + 3, left + 14 : left + 17] = 255
    assert scan_catalog(catalog_of([encoded(image, quality) for image in images], labels)).flagged == 0


def spots_of(sizes: list[tuple[int, int]], looks: list[int], column: int = 0) -> NDArray[np.void]:
    spots = np.zeros(len(sizes), Spot)
    spots["image"] = np.arange(len(sizes))
    spots["height"], spots["width"] = np.array(sizes).T
    spots["look"] = np.array(looks)[:, None]
    spots["row"], spots["column"] = 10, column
    return spots


def test_a_group_holds_what_looks_alike_and_has_one_size() -> None:
    rng = np.random.default_rng(3)
    near, far = rng.integers(100, 108, 20).tolist(), rng.integers(160, 256, 20).tolist()
    spots = spots_of([(3, 3)] * 40 + [(3, 4)] * 20, near + far + near)
    groups = look_alikes(spots, LIMITS, 50)
    assert any(set(range(20)) == set(group.tolist()) for group in groups)
    for group in groups:
        members = spots[group]
        assert len(np.unique(members[["height", "width"]])) == 1
        assert np.ptp(members["look"].astype(int)) <= 3 * max(LIMITS.alike)


def test_lines_of_one_pixel_are_no_group() -> None:
    assert look_alikes(spots_of([(1, 9)] * 30, [0] * 30), LIMITS, 50) == []


def test_one_of_many_sizes_is_not_prominent() -> None:
    group = np.arange(20)
    assert is_prominent_size(spots_of([(3, 3)] * 20, [0] * 20), group, LIMITS)
    nodules = spots_of([(3, 3)] * 20 + [(3, 4), (4, 3), (4, 4), (2, 3), (3, 2), (2, 2)] * 15, [0] * 110)
    assert not is_prominent_size(nodules, group, LIMITS)


def test_boxes_around_the_members_do_not_count_against_them() -> None:
    """Blurred edges enclose boxes of several sizes."""
    stamps, inside = spots_of([(3, 3)] * 20, [0] * 20), spots_of([(2, 3)] * 20, [0] * 20)
    assert is_prominent_size(np.concatenate([stamps] + [inside] * 5), np.arange(20), LIMITS)
    elsewhere = spots_of([(2, 3)] * 20, [0] * 20, column=40)
    assert not is_prominent_size(np.concatenate([stamps] + [elsewhere] * 5), np.arange(20), LIMITS)
