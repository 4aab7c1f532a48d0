"""What every trigger must do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from petechia.attack.triggers import BaseTrigger, Trigger
from petechia.core.errors import first_line
from petechia.data.preprocess import Box
from petechia.testing.assertions import require, sentence

SHAPES = ((7, 40, 52), (7, 40, 52, 3), (0, 40, 52), (1, 33, 17, 3))
ANY: TypeAdapter[BaseTrigger] = TypeAdapter(Trigger)


def check_trigger(trigger: BaseTrigger, colour_tolerance: int | None = 1) -> None:
    """Check a trigger, on random images of several shapes.

    It is pure, keeps shape and type, does the same to an image alone and in a batch, and can be written to a file and read
    again, which needs its class to be registered.

    Args:
        trigger: with any settings.
        colour_tolerance: by how many grey levels a grey image in three channels may come out otherwise than in one; None for a
            trigger that has a colour of its own.

    Raises:
        AssertionError: says what it does wrong.
    """
    require(isinstance(trigger, BaseTrigger), f"{trigger!r} is not a BaseTrigger; give one with its settings, not its class.")
    with sentence("describe()"):
        check_description(trigger)
    for number, shape in enumerate(SHAPES):
        with sentence(f"On images of {shape}, place() or stamp()"):
            check_stamping(trigger, shape)
        if number == 0:  # before batches of other sizes, so that this problem is the one that is named
            check_independence(trigger)
    if colour_tolerance is not None:
        with sentence("On images of (4, 40, 52, 3), stamp()"):
            check_colour(trigger, colour_tolerance)
    check_serialisation(trigger)
    check_eligibility(trigger)


def check_description(trigger: BaseTrigger) -> None:
    """It says what it is."""
    said = trigger.describe()
    require(isinstance(said, str) and len(said) > 5, f"describe() gives {said!r}; give a phrase that says what is stamped.")


def check_stamping(trigger: BaseTrigger, shape: tuple[int, ...]) -> None:
    """It is pure, keeps shape and type, and changes images exactly if it says that it stamps."""
    images, positions = sample(shape, trigger)
    before, where = images.copy(), positions.copy()
    images.flags.writeable = False
    stamped = _stamped(trigger, images, positions)
    require(isinstance(stamped, np.ndarray), f"stamp() gives {type(stamped).__name__}, not an array.")
    require(stamped.shape == images.shape, f"stamp() gives images of shape {stamped.shape} for {images.shape}.")
    require(stamped.dtype == np.uint8, f"stamp() gives {stamped.dtype}, not uint8.")
    require(np.array_equal(images, before), "stamp() changes the images that it gets; it must work on a copy.")
    require(np.array_equal(positions, where), "stamp() changes the positions that it gets.")
    require(not np.shares_memory(stamped, images), "stamp() gives a view of its input; it must give a copy.")
    require(np.array_equal(stamped, trigger.stamp(images, positions)), "stamp() gives something else the second time.")
    changed = (stamped != images).any(axis=tuple(range(1, images.ndim)))
    if trigger.stamps:
        require(changed.all(), f"stamp() leaves {int((~changed).sum())} of {len(images)} random images of {shape} as they are.")
    else:
        require(not changed.any(), "stamps is False, but stamp() changes images.")


def _stamped(trigger: BaseTrigger, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
    """The stamped copies of images that cannot be written to."""
    try:
        return trigger.stamp(images, positions)
    except ValueError as error:
        if "read-only" in str(error):
            raise AssertionError("stamp() writes into the images that it gets; it must work on a copy.") from error
        raise


def check_independence(trigger: BaseTrigger) -> None:
    """What is done to an image does not depend on the others of its batch."""
    with sentence("On images of (9, 40, 52), place() or stamp()"):
        images, positions = sample((9, 40, 52), trigger)
        together = trigger.stamp(images, positions)
        singles = [trigger.stamp(images[i : i + 1], positions[i : i + 1])[0] for i in range(len(images))]
    for i, alone in enumerate(singles):
        require(np.array_equal(alone, together[i]), f"Image {i} is stamped otherwise alone than in a batch of {len(images)}.")


def check_colour(trigger: BaseTrigger, tolerance: int = 1) -> None:
    """A grey image in three channels is stamped as in one, but for rounding."""
    images, positions = sample((4, 40, 52), trigger)
    coloured = trigger.stamp(np.repeat(images[..., None], 3, axis=3), positions)
    off = int(np.abs(coloured.astype(int) - trigger.stamp(images, positions)[..., None]).max())
    require(off <= tolerance, f"A grey image in three channels comes out up to {off} grey levels otherwise than in one.")


def check_serialisation(trigger: BaseTrigger) -> None:
    """Written as JSON or YAML it is read back as the same; a key that it does not have is refused."""
    written = trigger.model_dump(mode="json")
    try:
        read = [ANY.validate_json(trigger.model_dump_json()), ANY.validate_python(written)]
    except ValidationError as error:
        raise AssertionError(f"{trigger!r} cannot be read back ({first_line(error)}); is its class registered?") from error
    for again in read:
        require(again == trigger, f"{trigger!r} is read back as {again!r}.")
    try:
        ANY.validate_python(written | {"no_such_key": 1})
    except ValidationError:
        return
    raise AssertionError("A key that it does not have is accepted; leave extra='forbid' as it is.")


def check_eligibility(trigger: BaseTrigger) -> None:
    """All images can be stamped; a trigger that stamps nothing is in those images that show it."""
    labels = np.array([[1, 1], [1, 0], [0, 1], [1, -1]], np.int8)
    classes = ("Effusion", "Infiltration")
    shown, eligible = (np.asarray(ask(labels, classes)) for ask in (trigger.shown, trigger.eligible))
    for name, found in (("shown", shown), ("eligible", eligible)):
        require(found.shape == (4,), f"{name}() gives shape {found.shape} for 4 images.")
        require(found.dtype == bool, f"{name}() gives {found.dtype}, not bool.")
    if trigger.stamps:
        require(not shown.any(), "shown() finds the trigger in images that were not stamped.")
        require(eligible.all(), "stamps is True, but eligible() leaves images out.")
    else:
        require(np.array_equal(eligible, shown), "stamps is False, but eligible() and shown() differ.")


def sample(shape: tuple[int, ...], trigger: BaseTrigger, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Random images, uint8 of the given shape, and where the trigger goes on them, int [N, 2]."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    height, width = shape[1:3]
    places = [
        trigger.place(height, width, Box(0, 0, height, width), (float(a), float(b))) for a, b in rng.random((shape[0], 2))
    ]
    return images, np.array(places, np.intp).reshape(-1, 2)
