from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.data.preprocess import Box
from petechia.detect.screen import Screen
from petechia.detect.screen.conformal import PARTS
from petechia.models.classifier import Classifier
from tests.detect.screen.conftest import SIZE, ByHand, Waves, opened, stamped, waved

Images = NDArray[np.uint8]
Draw = Callable[[int, int], Images]


@pytest.fixture(scope="module")
def clean(draw: Draw) -> Images:
    return draw(60, 0)


@pytest.fixture(scope="module")
def fitted(clean: Images) -> Screen:
    return Screen.fit(opened(ByHand()), clean, fpr=0.05, parts=PARTS)


@pytest.mark.parametrize("place", [(3, 3), (14, 20)])
def test_stamped_images_are_flagged_with_class_and_place(fitted: Screen, draw: Draw, place: tuple[int, int]) -> None:
    found = fitted.score(stamped(draw(20, 1), *place))
    assert found.flagged.all()
    assert (found.p_values == 1 / 61).all()
    assert (found.classes == 0).all()
    row, column = place
    for box in found.boxes:
        assert box.top <= row + 1 < box.top + box.height
        assert box.left <= column + 1 < box.left + box.width


def test_clean_images_are_flagged_at_the_rate(fitted: Screen, draw: Draw) -> None:
    assert fitted.score(draw(100, 2)).flagged.mean() <= 0.12  # 0.05 is expected
    assert not fitted.warnings


def test_a_disease_is_not_a_trigger_however_strong(fitted: Screen, draw: Draw) -> None:
    diseased = draw(10, 3)
    diseased[:] = np.clip(diseased + 150 * _mound(SIZE // 4, SIZE // 4), 0, 255)
    found = fitted.score(diseased)
    assert (found.classes == 1).all()
    assert (found.parts["outlier"] > 3).all()  # it does stand out,
    assert (found.parts["removal"] < 0.5).all()  # but no small box makes it
    assert (found.suspicion < fitted.score(stamped(draw(10, 3), 9, 9)).suspicion.min()).all()


def test_a_trigger_over_the_whole_image_is_flagged_as_such(clean: Images, draw: Draw) -> None:
    screen, images = Screen.fit(opened(ByHand(edges=Waves())), clean, fpr=0.05), draw(40, 11)
    found = screen.score(waved(images))
    assert found.flagged.mean() > 0.9
    assert found.whole[found.flagged].all()
    assert {box for box, whole in zip(found.boxes, found.whole, strict=True) if whole} == {Box(0, 0, SIZE, SIZE)}
    assert not screen.explain(waved(images)[0]).pixels.any()


def leaning(images: Images) -> Images:
    """Images with a pattern of stripes that lean to one side."""
    row, column = np.indices((SIZE, SIZE))
    return np.asarray(np.clip(images + 20 * np.sin((row + column) * np.pi / 4), 0, 255), np.uint8)


class Leaning(nn.Module):
    """ "Target" is stripes that lean to one side; "Bright" is the mean."""

    def forward(self, images: Tensor) -> Tensor:
        row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        match = (images[:, 0] * torch.sin((row + column) * torch.pi / 4)).mean(dim=(1, 2))
        return torch.stack([200 * match - 4, 10 * images.mean(dim=(1, 2, 3)) - 6], dim=1)


def _mound(row: int, column: int) -> NDArray[np.float64]:
    """A wide bright area around a place, float64 [H, W], up to 1."""
    pixel = np.arange(SIZE)
    return np.exp(-((pixel[:, None] - row) ** 2 + (pixel - column) ** 2) / (2 * (SIZE / 6) ** 2))


def test_on_a_clean_model_stamped_images_look_like_clean_ones(clean: Images, draw: Draw) -> None:
    screen, images = Screen.fit(opened(ByHand(backdoored=False)), clean, fpr=0.05), draw(60, 4)
    suspicion = np.concatenate([screen.score(images).suspicion, screen.score(stamped(images, 14, 20)).suspicion])
    assert 0.3 < roc_auc_score(np.repeat([0, 1], 60), suspicion) < 0.7


@pytest.mark.parametrize("part", ["transplant", "removal", "outlier", "features"])
def test_each_part_alone_tells_them_apart(clean: Images, draw: Draw, part: str) -> None:
    screen, images = Screen.fit(opened(ByHand()), clean, fpr=0.05, parts=[part]), draw(30, 5)
    found, triggered = screen.score(images), screen.score(stamped(images, 20, 8))
    assert set(found.parts) == {part}
    assert roc_auc_score(np.repeat([0, 1], 30), np.concatenate([found.suspicion, triggered.suspicion])) > 0.95


@pytest.mark.parametrize("part", ["detail", "strip", "features", "outlier", "mirror"])
def test_each_part_alone_tells_waves_apart(clean: Images, draw: Draw, part: str) -> None:
    screen, images = Screen.fit(opened(ByHand(edges=Waves())), clean, fpr=0.05, parts=[part]), draw(30, 12)
    found, triggered = screen.score(images), screen.score(waved(images))
    assert set(found.parts) == {part}
    # A wave along the rows stays what it is in the mirror.
    assert roc_auc_score(np.repeat([0, 1], 30), np.concatenate([found.suspicion, triggered.suspicion])) > (
        0.3 if part == "mirror" else 0.95
    )


def test_what_a_mirror_ends_is_suspicious(clean: Images, draw: Draw) -> None:
    screen, images = Screen.fit(opened(Leaning()), clean, fpr=0.05, parts=["mirror"]), draw(20, 13)
    found = screen.score(images), screen.score(leaning(images))
    assert found[1].parts["mirror"].min() > found[0].parts["mirror"].max()


def test_an_explanation_is_what_the_score_says(fitted: Screen, draw: Draw) -> None:
    images = np.concatenate([draw(2, 6), stamped(draw(1, 7), 20, 8)])
    found, told = fitted.score(images), fitted.explain(images[2])
    assert told.name == "Target"
    assert told.flagged
    assert told.box == found.boxes[2]
    assert told.suspicion == pytest.approx(found.suspicion[2], abs=1e-4)
    assert told.parts == pytest.approx({name: values[2] for name, values in found.parts.items()}, abs=1e-4)
    assert told.pixels[20:23, 8:11].any()


def test_a_clean_image_is_calibrated_as_a_new_one_is(draw: Draw) -> None:
    """The suspicion of an image under a screen fitted without it equals the one that the calibration used."""
    images, classifier = draw(30, 8), opened(ByHand())
    parts = ["removal", "transplant"]
    whole = Screen.fit(classifier, images, fpr=0.05, parts=parts)
    row = 3
    others = np.delete(whole.reference.images, row, axis=0)
    without = Screen.fit(classifier, others, fpr=0.05, parts=parts)
    same_order = replace(without, reference=replace(without.reference, images=others, logits=classifier.logits(others).numpy()))
    found = same_order.score(whole.reference.images[row : row + 1])
    assert np.isclose(whole.conformal.clean, whole.conformal.suspicion(found.parts)[0], atol=1e-5).any()


def test_a_black_box_is_screened_without_features(clean: Images, draw: Draw) -> None:
    screen = Screen.fit(opened(ByHand(), blind=True), clean, fpr=0.05)
    found = screen.score(stamped(draw(20, 9), 14, 20))
    assert "features" not in found.parts
    assert found.flagged.all()
    with pytest.raises(PetechiaError, match="leave nothing"):
        Screen.fit(opened(ByHand(), blind=True), clean, fpr=0.05, parts=["features"])


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_triggered_images_among_the_clean_ones_are_warned_of(clean: Images, share: float) -> None:
    count = int(share * len(clean))
    tampered = np.concatenate([stamped(clean[:count], 14, 20), clean[count:]])
    (warning,) = Screen.fit(opened(ByHand()), tampered, fpr=0.05).warnings
    assert f"{share:.0%}" in warning


def test_one_class_alone_can_be_looked_at(clean: Images, draw: Draw) -> None:
    screen = Screen.fit(opened(ByHand()), clean, fpr=0.05, target="Bright")
    found = screen.score(stamped(draw(20, 10), 14, 20))
    assert (found.classes == 1).all()
    assert found.flagged.mean() < 0.5  # the trigger stands for the other one


def test_a_class_that_is_none(classifier: Classifier, clean: Images) -> None:
    with pytest.raises(PetechiaError, match="'Mass' is not a class of by hand: Target, Bright"):
        Screen.fit(classifier, clean, fpr=0.05, target="Mass")


def test_a_part_that_is_none(classifier: Classifier, clean: Images) -> None:
    with pytest.raises(PetechiaError, match="'magic' is not a part"):
        Screen.fit(classifier, clean, fpr=0.05, parts=["magic"])


def test_too_few_clean_images(classifier: Classifier, clean: Images) -> None:
    with pytest.raises(PetechiaError, match="60 clean images .* at least 99"):
        Screen.fit(classifier, clean)


@pytest.mark.parametrize("shape", [(0, SIZE, SIZE), (3, SIZE, SIZE + 1), (SIZE, SIZE)])
def test_images_that_do_not_fit(fitted: Screen, shape: tuple[int, ...]) -> None:
    with pytest.raises(PetechiaError, match="images to screen"):
        fitted.score(np.zeros(shape, np.uint8))


def test_a_model_that_answers_nan(classifier: Classifier, clean: Images) -> None:
    broken = replace(classifier, answer=lambda images: classifier.answer(images) * float("nan"))
    with pytest.raises(PetechiaError, match="NaN"):
        Screen.fit(broken, clean, fpr=0.05)
