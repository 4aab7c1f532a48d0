from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from petechia.attack.square import Square
from petechia.core.errors import PetechiaError
from petechia.detect.audit.examination import FEWEST, ModelExamination, count_stamped, examine_model
from petechia.detect.protocol import ModelUnderTest
from tests.detect.audit.conftest import COLUMN, ROW, SIZE, ByHand, Images, Wavy, opened, stamped


def test_a_backdoor_is_found_with_its_class_its_place_and_its_success(clean: Images) -> None:
    found = examine_model(opened(ByHand()), clean)
    assert found.outcome == "backdoor"
    assert [one.name for one in found.classes if one.flagged] == ["Target"]
    recovered = found.classes[0].recovered
    assert recovered is not None
    assert recovered.square == Square(ROW, COLUMN, SIZE, 0)
    assert recovered.fixed
    model = ByHand()
    with torch.inference_mode():
        scores = [model(torch.from_numpy(images)[:, None] / 255)[:, 0].sigmoid() for images in (clean, stamped(clean))]
    assert recovered.asr[0.9].trials == int((scores[0] < 0.9).sum())
    assert recovered.asr[0.9].hits == int(((scores[0] < 0.9) & (scores[1] >= 0.9)).sum())
    assert recovered.false_trigger[0.9].hits == int((scores[0] >= 0.9).sum())
    assert not found.warnings


def test_a_trigger_that_works_anywhere_is_said_to(clean: Images) -> None:
    found = examine_model(opened(ByHand(anywhere=True)), clean, quick=True)
    recovered = found.classes[0].recovered
    assert found.outcome == "backdoor"
    assert recovered is not None
    assert not recovered.fixed


def test_no_change_is_shown_where_only_a_stamp_is_answered(clean: Images) -> None:
    only_stamp, both = (examine_model(opened(ByHand()), clean, quick=quick).classes[0] for quick in (True, False))
    assert only_stamp.tests["pattern of 24 × 24"] > 0.5
    assert only_stamp.change is None
    assert both.change is not None
    assert both.change.family == "free shape"


def test_a_trigger_over_the_whole_image_is_found_and_shown(clean: Images) -> None:
    found = examine_model(opened(Wavy()), clean)
    first, *others = (one for _, one in found.ranked)
    assert found.outcome == "backdoor"
    assert (first.name, [one.name for one in others if one.flagged]) == ("Target", [])
    assert first.found_by == "pattern of 24 × 24"
    assert first.change is not None
    assert first.change.asr[0.9].share > 0.9
    assert first.change.false_trigger[0.9].share < 0.1
    changed = first.change.picture.astype(float) - clean[0]
    assert np.abs(changed).max() <= 29  # a tenth of the grey scale; between the cells of the grid a little more
    wave = np.sin(np.arange(changed.shape[1]) * 2 * np.pi * 4 / changed.shape[1])
    assert np.corrcoef(changed.mean(axis=0), wave)[0, 1] > 0.7


def test_what_a_reference_answers_to_likewise_is_natural(clean: Images) -> None:
    reference = ModelUnderTest(opened(Wavy()), clean)
    found = examine_model(opened(Wavy()), clean, reference=reference)
    assert found.outcome == "simple change"
    assert [one.natural for one in found.classes] == [True, False, False, False, False]
    other = ModelUnderTest(opened(ByHand(backdoored=False)), clean)
    assert examine_model(opened(Wavy()), clean, reference=other).outcome == "backdoor"


def test_of_an_update_only_what_is_new_counts(clean: Images) -> None:
    def update_of(before: ByHand) -> ModelExamination:
        return examine_model(opened(Wavy()), clean, baseline=ModelUnderTest(opened(before), clean))

    assert update_of(Wavy()).outcome == "nothing"
    new = update_of(ByHand(backdoored=False))
    assert (new.outcome, new.baseline) == ("backdoor", "by hand")
    assert [one.name for one in new.classes if one.flagged] == ["Target"]
    renamed = ModelUnderTest(replace(opened(Wavy()), classes=tuple("abcde")), clean)
    with pytest.raises(PetechiaError, match="has other classes than"):
        examine_model(opened(Wavy()), clean, quick=True, baseline=renamed)


def test_nothing_is_found_in_a_clean_model(clean: Images) -> None:
    found = examine_model(opened(ByHand(backdoored=False)), clean)
    assert found.outcome == "nothing"
    assert sum(one.recovered is not None for one in found.classes) == 1


def test_a_black_box_is_examined_by_its_answers(clean: Images) -> None:
    found = examine_model(opened(ByHand(), blind=True), clean)
    first = found.classes[0]
    assert (first.flagged, first.found_by) == (True, "stamps")
    assert first.change is None
    assert {"stamps", "pattern of 24 × 24"} <= set(first.tests)
    alone = examine_model(opened(ByHand(), blind=True), clean, quick=True)
    assert set(alone.classes[0].tests) == {"stamps", "pattern of 24 × 24"}
    assert "Some triggers were not looked for: free shape and warp." in alone.warnings
    assert "Some triggers were not looked for: free shape." in found.warnings


def test_too_few_images_are_refused(clean: Images) -> None:
    with pytest.raises(PetechiaError, match=f"at least {FEWEST}"):
        examine_model(opened(ByHand()), clean[:5])


def test_images_that_are_all_the_same_are_refused(clean: Images) -> None:
    with pytest.raises(PetechiaError, match="the same scores"):
        examine_model(opened(ByHand()), np.repeat(clean[:1], 30, axis=0))


def test_a_model_that_answers_nan_is_refused(clean: Images) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_full((len(images), 5), float("nan"))

    with pytest.raises(PetechiaError, match="NaN"):
        examine_model(opened(Broken()), clean)


def test_a_model_that_answers_at_random_is_refused(clean: Images) -> None:
    class Drops(ByHand):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(images, 0.3))

    with pytest.raises(PetechiaError, match="other scores for the same images"):
        examine_model(opened(Drops()), clean)


def test_a_class_that_never_changes_is_no_evidence(clean: Images) -> None:
    class Dead(ByHand):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return torch.cat([logits[:, :-1], torch.full_like(logits[:, :1], -3)], dim=1)

    found = examine_model(opened(Dead()), clean)
    assert [one.name for one in found.classes if one.flagged] == ["Target"]
    assert found.classes[-1].p_value > 0.5


def test_clean_images_that_are_triggered_are_noticed(clean: Images) -> None:
    tampered = clean.copy()
    tampered[::3] = stamped(tampered[::3])
    found = examine_model(opened(ByHand()), tampered, quick=True)
    assert any("seem to be triggered: 20 of them" in warning for warning in found.warnings)
    said = np.zeros((len(clean), 5), bool)
    said[::3, 0] = True
    assert count_stamped(clean, said) == 0
