import numpy as np
import pytest
import torch
from pydantic import ValidationError

from petechia.core.errors import PetechiaError
from petechia.detect.audit.transforms import FAMILIES, Family, FreeShape, Pattern, packed
from petechia.detect.repair import KnownChange

IMAGES = np.random.default_rng(0).integers(40, 200, (3, 16, 16), np.uint8)


def known(family: Family, size: int = 16, channels: int = 1) -> KnownChange:
    shape = family.shape(torch.zeros(1, channels, size, size))
    direction = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (1, *shape)).astype(np.float32))
    return KnownChange(target="A", family=family.name, strength=family.limit, shape=shape, direction=packed(direction))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_change_of_its_family(family: Family, channels: int) -> None:
    images = IMAGES if channels == 1 else np.stack([IMAGES, IMAGES[::-1], IMAGES // 2], axis=3)
    change = known(family, channels=channels)
    planes = torch.from_numpy(images).reshape(3, 16, 16, channels).permute(0, 3, 1, 2).float() / 255
    expected = (255 * family.change(planes, change.numbers, family.limit)[0]).round().permute(0, 2, 3, 1).numpy()
    found = change.on(images, change.places(3, 16, np.random.default_rng(0)))
    assert found.dtype == np.uint8
    assert np.abs(found.reshape(expected.shape) - expected).max() <= 1  # one image or many: the last bit may differ


def test_opacity_is_a_share_of_its_strength() -> None:
    change = known(Pattern(24), size=24)
    images = np.repeat(np.random.default_rng(0).integers(40, 200, (1, 24, 24), np.uint8), 3, axis=0)
    moved = change.on(images, np.zeros((3, 2), np.intp), np.array([0.0, 0.5, 1.0])).astype(int) - images
    assert (moved[0] == 0).all()
    assert moved[2] == pytest.approx(2 * moved[1], abs=1.5)
    assert moved[2] == pytest.approx(25.5 * change.numbers[0, 0].numpy(), abs=1)


def test_it_must_suit_the_model() -> None:
    known(FreeShape()).check_fits(("A", "B"), 16)
    known(Pattern(24)).check_fits(("A",), 16)
    with pytest.raises(PetechiaError, match="raises 'A', which is not a class"):
        known(FreeShape()).check_fits(("B",), 16)
    with pytest.raises(PetechiaError, match="not made for the model's images of 32 x 32; audit this model"):
        known(FreeShape()).check_fits(("A",), 32)
    with pytest.raises(PetechiaError, match="no family of changes called 'x'"):
        known(FreeShape()).model_copy(update={"family": "x"}).check_fits(("A",), 16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": ()},
        {"shape": (0,)},
        {"shape": (3,)},
        {"shape": (10**9, 10**9)},
        {"direction": "!"},
        {"direction": packed(torch.full((1, 4), 2.0)), "shape": (4,)},
        {"direction": packed(torch.full((1, 4), float("nan"))), "shape": (4,)},
        {"strength": 0},
        {"strength": float("inf")},
    ],
)
def test_what_is_no_change(wrong: dict[str, object]) -> None:
    right = known(FreeShape()).model_dump()
    with pytest.raises(ValidationError):
        KnownChange.model_validate(right | wrong)
