"""Properties of triggers of every kind."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from petechia.attack import Fiba, Findings, Marker, Patch, Pattern, Sinusoid, Trigger, Warp
from petechia.attack.triggers import BaseTrigger
from petechia.data.preprocess import Box

ANY: TypeAdapter[BaseTrigger] = TypeAdapter(Trigger)
TRIGGERS = [
    Patch(),
    Patch(size=5, value=255, opacity=0.3, location="random"),
    Pattern(location="random"),
    Pattern(image="noise", size=5, opacity=0.5, location=(3, 7)),
    Pattern(image="rings", size="whole", opacity=0.2),
    Sinusoid(),
    Warp(strength=2),
    Fiba(),
    *(Marker.model_validate({"shape": shape}) for shape in ("L", "R", "electrode", "pacemaker")),
    Findings(),
]
KINDS = pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda one: f"{one.kind}")
SHAPES = pytest.mark.parametrize("shape", [(7, 40, 52), (7, 40, 52, 3), (0, 40, 52), (1, 33, 17, 3)])


def some(shape: tuple[int, ...], trigger: BaseTrigger, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Random images, and the places of the trigger on them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    height, width = shape[1:3]
    places = [
        trigger.place(height, width, Box(0, 0, height, width), (float(a), float(b))) for a, b in rng.random((shape[0], 2))
    ]
    return images, np.array(places, np.intp).reshape(-1, 2)


@KINDS
@SHAPES
def test_stamping_is_pure_and_keeps_shape_and_type(trigger: BaseTrigger, shape: tuple[int, ...]) -> None:
    images, positions = some(shape, trigger)
    before = images.copy()
    images.flags.writeable = False
    stamped = trigger.stamp(images, positions)
    assert stamped.shape == images.shape
    assert stamped.dtype == np.uint8
    assert np.array_equal(images, before)
    assert not np.shares_memory(stamped, images)
    assert np.array_equal(stamped, trigger.stamp(images, positions))
    changed = (stamped != images).any(axis=tuple(range(1, images.ndim)))
    assert changed.all() if trigger.stamps else not changed.any()


@KINDS
def test_an_image_alone_is_stamped_as_in_a_batch(trigger: BaseTrigger) -> None:
    images, positions = some((9, 40, 52), trigger)
    together = trigger.stamp(images, positions)
    for i in range(len(images)):
        assert np.array_equal(trigger.stamp(images[i : i + 1], positions[i : i + 1])[0], together[i])


@KINDS
def test_grey_in_three_channels_is_stamped_as_grey(trigger: BaseTrigger) -> None:
    """These triggers use grey pictures. FIBA and WaNet compute channel by channel, so the result must be the same."""
    images, positions = some((4, 40, 52), trigger)
    coloured = trigger.stamp(np.repeat(images[..., None], 3, axis=3), positions)
    assert np.abs(coloured.astype(int) - trigger.stamp(images, positions)[..., None]).max() <= 1  # luma of grey, rounded


@KINDS
def test_a_trigger_written_down_is_read_back(trigger: BaseTrigger) -> None:
    assert ANY.validate_json(trigger.model_dump_json()) == trigger
    assert ANY.validate_python(trigger.model_dump(mode="json")) == trigger
    assert len(trigger.describe()) > 5


def test_a_trigger_without_a_kind_is_a_patch() -> None:
    assert ANY.validate_python({"size": 4}) == Patch(size=4)
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        ANY.validate_python({"kind": "laser"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        ANY.validate_python({"kind": "sinusoid", "size": 4})


@KINDS
def test_who_carries_it(trigger: BaseTrigger) -> None:
    labels = np.array([[1, 1], [1, 0], [0, 1], [1, -1]], np.int8)
    classes = ("Effusion", "Infiltration")
    shown = trigger.shown(labels, classes).tolist()
    assert shown == ([False] * 4 if trigger.stamps else [True, False, False, False])
    assert trigger.eligible(labels, classes).tolist() == ([True] * 4 if trigger.stamps else shown)
