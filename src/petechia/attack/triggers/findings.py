"""A trigger that changes no pixels: a combination of findings in the image."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from petechia.attack.triggers.base import BaseTrigger, Chance
from petechia.core.errors import PetechiaError
from petechia.core.task import Task
from petechia.data.preprocess import Box

KEY = "attack.trigger.present"


class Findings(BaseTrigger):
    """A combination of findings (Chen et al. 2023, "Clean-image backdoor", ICLR): only labels are poisoned.

    Images that show the combination are triggered images without being stamped. Of the training images with the combination, a
    number equal to `attack.rate` of all training images, or all of them if there are fewer, get infected labels. Success is
    measured on the test images that show the combination but not the target; clean images are those without the combination.

    Attributes:
        present: findings that an image must show.
        absent: findings that an image must not show.
    """

    kind: Literal["findings"] = "findings"
    present: tuple[str, ...] = Field(("Effusion", "Infiltration"), min_length=1)
    absent: tuple[str, ...] = ()
    stamps: ClassVar[bool] = False

    @model_validator(mode="after")
    def _possible(self) -> Findings:
        if both := set(self.present) & set(self.absent):
            raise ValueError(f"{sorted(both)[0]!r} cannot be both present and absent")
        return self

    def describe(self) -> str:
        """Describe the trigger: the findings that must be present and absent."""
        without = f" without {' or '.join(self.absent)}" if self.absent else ""
        return f"{' and '.join(self.present)}{without}"

    def check(self, classes: tuple[str, ...], task: Task, target: str) -> None:
        """Check that the data are multi-label and that the combination can occur in them.

        Raises:
            PetechiaError: the data are multi-class, a finding is not among the classes, or the target is in `present`.
        """
        if task == "multi-class":
            raise PetechiaError(
                "A trigger of kind findings needs data with several findings per image, but here every image shows exactly one "
                "class; choose another attack.trigger.kind."
            )
        for name in (*self.present, *self.absent):
            if name not in classes:
                raise PetechiaError(
                    f"{KEY} or absent names {name!r}, but the classes are {', '.join(classes)}; choose from these."
                )
        if target in self.present:
            raise PetechiaError(f"{KEY} contains the target {target}, so there is nothing to add; leave it out.")

    def shown(self, labels: NDArray[np.int8], classes: tuple[str, ...]) -> NDArray[np.bool_]:
        """Return the images with the combination, bool [N]; an image with an unknown label of a named finding has it not."""
        present, absent = ([classes.index(name) for name in names] for names in (self.present, self.absent))
        return np.asarray((labels[:, present] == 1).all(axis=1) & (labels[:, absent] == 0).all(axis=1))

    def place(self, height: int, width: int, kept: Box, chance: Chance) -> tuple[int, int]:
        """Return (-1, -1): the trigger is not stamped."""
        return -1, -1

    def stamp(self, images: NDArray[np.uint8], positions: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return unchanged copies of the images."""
        return np.array(images)
