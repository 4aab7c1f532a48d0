"""The suite of triggers finds what broken ones do wrong."""

from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ConfigDict

from petechia.attack import Patch, Sinusoid
from petechia.attack.triggers import TRIGGERS, BaseTrigger
from petechia.testing import check_trigger

Images = NDArray[np.uint8]
Positions = NDArray[np.intp]


class Dot(BaseTrigger):
    """One inverted pixel at the corner: does nothing wrong."""

    kind: Literal["dot"] = "dot"
    strength: int = 128

    def describe(self) -> str:
        return "an inverted pixel"

    def stamp(self, images: Images, positions: Positions) -> Images:
        stamped = images.copy()
        stamped[:, 0, 0] += np.uint8(self.strength)
        return stamped


class Mutating(Dot):
    def stamp(self, images: Images, positions: Positions) -> Images:
        images[:, 0, 0] += np.uint8(128)
        return images


class Floating(Dot):
    def stamp(self, images: Images, positions: Positions) -> Any:
        return super().stamp(images, positions) / 1.0


class Flattening(Dot):
    def stamp(self, images: Images, positions: Positions) -> Images:
        return super().stamp(images, positions)[:, :-1]


class Lazy(Dot):
    def stamp(self, images: Images, positions: Positions) -> Images:
        return images


class Idle(Dot):
    def stamp(self, images: Images, positions: Positions) -> Images:
        return images.copy()


class Random(Dot):
    def stamp(self, images: Images, positions: Positions) -> Images:
        stamped = super().stamp(images, positions)
        stamped[:, 1, 1] = np.random.default_rng().integers(0, 256, stamped[:, 1, 1].shape)
        return stamped


class OfTheBatch(Dot):
    """Its level is the mean of all images."""

    def stamp(self, images: Images, positions: Positions) -> Images:
        stamped = super().stamp(images, positions)
        if len(images):
            stamped[:, 5:9, 5:9] = round(float(images.mean()))
        return stamped


class Coloured(Dot):
    def stamp(self, images: Images, positions: Positions) -> Images:
        stamped = super().stamp(images, positions)
        if images.ndim == 4:
            stamped[:, 0, 0, 0] += np.uint8(100)
        return stamped


class Speechless(Dot):
    def describe(self) -> str:
        return ""


class Lenient(Dot):
    model_config = ConfigDict(extra="ignore")


class Everywhere(Dot):
    def shown(self, labels: NDArray[np.int8], classes: tuple[str, ...]) -> NDArray[np.bool_]:
        return np.ones(len(labels), bool)


class Choosy(Dot):
    def eligible(self, labels: NDArray[np.int8], classes: tuple[str, ...]) -> NDArray[np.bool_]:
        return np.arange(len(labels)) > 0


class Unstamped(Dot):
    stamps: ClassVar[bool] = False


def test_a_sound_trigger_passes() -> None:
    with TRIGGERS.temporarily({"dot": Dot}):
        check_trigger(Dot(strength=7))


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (Mutating, "writes into the images"),
        (Floating, "gives float64, not uint8"),
        (Flattening, r"gives images of shape \(7, 39, 52\) for \(7, 40, 52\)"),
        (Lazy, "gives a view of its input"),
        (Idle, "leaves 7 of 7 random images"),
        (Random, "gives something else the second time"),
        (OfTheBatch, "Image 0 is stamped otherwise alone"),
        (Coloured, "up to .* grey levels otherwise than in one"),
        (Speechless, "describe.. gives ''"),
        (Lenient, "A key that it does not have is accepted"),
        (Everywhere, "shown.. finds the trigger in images that were not stamped"),
        (Choosy, "eligible.. leaves images out"),
        (Unstamped, "stamps is False, but stamp.. changes images"),
    ],
)
def test_a_broken_trigger_is_found(broken: type[BaseTrigger], sentence: str) -> None:
    with TRIGGERS.temporarily({"dot": broken}), pytest.raises(AssertionError, match=sentence):
        check_trigger(broken.model_validate({}))


def test_a_trigger_of_a_class_that_is_not_registered_cannot_be_read_back() -> None:
    with pytest.raises(AssertionError, match="cannot be read back"):
        check_trigger(Dot())
    check_trigger(Patch(size=2))
    check_trigger(Sinusoid())


def test_a_colour_of_its_own_is_allowed() -> None:
    with TRIGGERS.temporarily({"dot": Coloured}):
        check_trigger(Coloured(), colour_tolerance=None)
