import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from petechia.detect.scan.textures import SharedTexture, find_shared_textures
from petechia.detect.scan.traces import blocks_and_texture

COUNT, CLASSES, CHANGED = 400, 5, 40
Images = NDArray[np.uint8]
Labels = NDArray[np.int8]


@pytest.fixture(scope="module")
def images() -> Images:
    """Images with a structure of their own, of which a part is common to all."""
    rng = np.random.default_rng(0)
    common = gaussian_filter(rng.normal(0, 1, (128, 128)), 2)
    own = gaussian_filter(rng.normal(0, 1, (COUNT, 128, 128)), (0, 1.5, 1.5))
    contrast = rng.uniform(0.5, 1.5, (COUNT, 1, 1))
    return np.asarray((128 + contrast * 60 * common + 60 * own).clip(0, 255), np.uint8)


@pytest.fixture
def labels() -> Labels:
    return np.asarray(np.random.default_rng(1).random((COUNT, CLASSES)) < 0.2, np.int8)


def wave(amplitude: float) -> NDArray[np.float64]:
    return np.broadcast_to(amplitude * np.sin(2 * np.pi * 9 * np.arange(128) / 128), (128, 128))


def noise(amplitude: float) -> NDArray[np.float64]:
    return np.random.default_rng(2).normal(0, amplitude, (128, 128))


def changed(images: Images, rows: NDArray[np.intp], pattern: NDArray[np.float64]) -> Images:
    copy = images.copy()
    copy[rows] = (copy[rows] + pattern).clip(0, 255)
    return copy


def textures_in(
    images: Images, labels: Labels, patients: NDArray[np.str_] | None = None, explained: int = 0
) -> list[SharedTexture]:
    names = np.arange(len(images)).astype(str) if patients is None else patients
    known = np.arange(len(images)) < explained
    return find_shared_textures(np.stack([blocks_and_texture(image)[1] for image in images]), labels, names, known)


def found_in(images: Images, labels: Labels, patients: NDArray[np.str_] | None = None, explained: int = 0) -> list[int] | None:
    """The images with the pattern that is over the whole image, or else with that at one place."""
    found = textures_in(images, labels, patients, explained)
    return found[0].images.tolist() if found else None


@pytest.mark.parametrize("pattern", [wave(10), noise(10)], ids=["wave", "noise"])
def test_a_pattern_whose_label_is_the_only_finding_is_found(
    images: Images, labels: Labels, pattern: NDArray[np.float64]
) -> None:
    labels[:CHANGED] = np.eye(CLASSES, dtype=np.int8)[2]
    found = found_in(changed(images, np.arange(CHANGED), pattern), labels)
    assert found == list(range(CHANGED))


def test_nothing_is_found_in_untouched_images(images: Images, labels: Labels) -> None:
    assert found_in(images, labels) is None


def test_what_all_images_show_whatever_their_label_is_nothing(images: Images, labels: Labels) -> None:
    assert found_in(changed(images, np.arange(0, COUNT, 4), noise(10)), labels) is None


def test_a_class_whose_images_have_it_with_other_findings_too_is_a_disease(images: Images, labels: Labels) -> None:
    assert found_in(changed(images, np.flatnonzero(labels[:, 2] == 1), noise(10)), labels) is None


def test_a_pattern_at_one_place_is_found_there(images: Images, labels: Labels) -> None:
    labels[:CHANGED] = np.eye(CLASSES, dtype=np.int8)[2]
    local = np.zeros((128, 128))
    local[64:84, 20:40] = 40
    (found,) = textures_in(changed(images, np.arange(CHANGED), local), labels)
    assert found.place is not None
    assert set(found.images.tolist()) <= set(range(CHANGED))
    assert len(found.images) > 0.8 * CHANGED
    row, column, rows, columns = found.place
    assert 31 <= row <= 33
    assert 9 <= column <= 11
    assert 41 <= row + rows <= 43
    assert 19 <= column + columns <= 21


def test_a_faint_stamp_at_one_place_is_found_where_neighbours_are_alike(labels: Labels) -> None:
    """Each of the few blocks differs by less than it does from image to image; how they go together tells more."""
    labels[:CHANGED] = np.eye(CLASSES, dtype=np.int8)[2]
    smooth = gaussian_filter(np.random.default_rng(4).normal(0, 1, (COUNT, 128, 128)), (0, 4, 4))
    images = np.asarray((128 + 15 * smooth / smooth.std()).clip(0, 255), np.uint8)
    local = np.zeros((128, 128))
    local[64:68, 20:24] = 4
    (found,) = textures_in(changed(images, np.arange(CHANGED), local), labels)
    assert set(found.images.tolist()) <= set(range(CHANGED))
    assert len(found.images) > 0.8 * CHANGED


def test_what_lies_a_little_elsewhere_in_every_image_is_a_disease(images: Images, labels: Labels) -> None:
    labels[:CHANGED] = np.eye(CLASSES, dtype=np.int8)[2]
    rng, shown = np.random.default_rng(3), images.copy()
    for row, (top, left) in enumerate(rng.integers(0, 108, (CHANGED, 2)).tolist()):
        shown[row, top : top + 20, left : left + 20] = np.minimum(shown[row, top : top + 20, left : left + 20], 215) + 40
    assert textures_in(shown, labels) == []


def test_a_device_at_one_place_that_comes_with_other_findings_is_nothing(images: Images, labels: Labels) -> None:
    local = np.zeros((128, 128))
    local[64:84, 20:40] = 40
    assert textures_in(changed(images, np.flatnonzero(labels[:, 2] == 1), local), labels) == []


def test_images_of_one_patient_are_not_compared_with_each_other(images: Images, labels: Labels) -> None:
    labels[:CHANGED] = np.eye(CLASSES, dtype=np.int8)[2]
    images = images.copy()
    images[:CHANGED] = images[0]
    patients = np.arange(COUNT).astype(str)
    assert found_in(images, labels, patients) is not None
    patients[:CHANGED] = "one"
    assert found_in(images, labels, patients) is None


def test_what_other_evidence_explains_does_not_count(images: Images, labels: Labels) -> None:
    labels[:CHANGED] = np.eye(CLASSES, dtype=np.int8)[2]
    assert found_in(changed(images, np.arange(CHANGED), noise(10)), labels, explained=CHANGED) is None


@pytest.mark.parametrize("side", [32, 128])
def test_images_without_fine_structure_or_classes_have_no_pattern(side: int) -> None:
    flat = np.full((20, side, side), 90, np.uint8)
    assert found_in(flat, np.ones((20, 1), np.int8)) is None
    assert found_in(flat, np.zeros((20, 0), np.int8)) is None
    assert found_in(flat, np.eye(2, dtype=np.int8)[np.arange(20) % 2]) is None
