import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from petechia.core.errors import PetechiaError
from petechia.detect.audit.transforms import FAMILIES, Family, Pattern, Warp, family_named, packed, unpacked

IMAGES = torch.from_numpy(np.random.default_rng(0).uniform(0.15, 0.85, (3, 1, 32, 40)).astype(np.float32))


def direction_of(family: Family, images: Tensor = IMAGES, goals: int = 2) -> Tensor:
    shape = (goals, *family.shape(images))
    return torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_no_strength_changes_nothing_and_more_changes_more(family: Family) -> None:
    direction = direction_of(family)
    none, some, more = ((family.change(IMAGES, direction, share * family.limit) - IMAGES).abs() for share in (0, 0.5, 1))
    assert none.shape == (2, 3, 1, 32, 40)
    assert none.max() < 1e-5
    assert 1e-4 < some.mean() < more.mean() < 0.1


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_gradients_reach_every_part_of_a_direction(family: Family) -> None:
    direction = direction_of(family).requires_grad_(True)
    weights = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 1, 32, 40)).astype(np.float32))
    (family.change(IMAGES, direction, family.limit) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert direction.grad is not None
    assert (direction.grad != 0).float().mean() > 0.6


def test_a_fine_pattern_is_added_as_it_is() -> None:
    family = Pattern(None)
    direction = direction_of(family)
    expected = (IMAGES.numpy()[None] + 0.05 * direction.numpy()[:, None]).clip(0, 1)
    assert family.change(IMAGES, direction, 0.05).numpy() == pytest.approx(expected, abs=1e-6)


def test_a_constant_warp_moves_the_image_by_a_share_of_its_side() -> None:
    square = torch.nn.functional.avg_pool2d(torch.rand(2, 1, 34, 34, generator=torch.Generator().manual_seed(0)), 3, 1)
    direction = torch.zeros(1, 2, 8, 8)
    direction[:, 0] = 1  # along a row
    moved = Warp().change(square, direction, 1.5 / 32)[0, :, 0].numpy()
    expected = scipy.ndimage.shift(square[:, 0].numpy(), (0, 0, -1.5), order=1, mode="nearest")
    assert moved == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_family_is_found_by_its_name_and_a_direction_comes_back_from_its_text(family: Family) -> None:
    direction = direction_of(family, goals=1)
    assert family_named(family.name) is family
    back = unpacked(packed(direction), direction.shape[1:])
    assert back.shape == direction.shape
    assert back.numpy() == pytest.approx(direction.numpy(), abs=5e-4)


def test_what_is_no_family_and_no_direction() -> None:
    with pytest.raises(PetechiaError, match="no family of changes called 'wave', only pattern of 24 × 24"):
        family_named("wave")
    for text in ("", "A", "AAAA", "ÄÄÄÄ", packed(torch.zeros(1, 4))):
        with pytest.raises(ValueError, match=r"."):
            unpacked(text, (3,))
