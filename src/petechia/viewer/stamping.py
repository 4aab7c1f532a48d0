"""What the model sees of a picture, clean and with triggers."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from petechia.attack import Patch, Poisoning
from petechia.attack.square import Square
from petechia.attack.triggered import Stage
from petechia.attack.triggers import BaseTrigger, Brush
from petechia.core.errors import PetechiaError
from petechia.data.levels import in_colour
from petechia.data.preprocess import Box, Preprocess
from petechia.viewer.pictures import Picture
from petechia.viewer.square import paint_squares


class Stamping:
    """Puts triggers on pictures as the attack does, and prepares the pictures for the model.

    Attributes:
        trigger: of the run, or one that an audit recovered; the paper's where there is neither.
        stage: "native" stamps the image as it is in its file, "input" what the model sees of it.
    """

    def __init__(
        self, attack: Poisoning | None, preprocess: Preprocess, colour: bool, recovered: BaseTrigger | None = None
    ) -> None:
        """Stamp for one kind of model.

        Args:
            attack: of the run; None for a model alone.
            preprocess: the geometry of the model.
            colour: whether the model takes images in colour.
            recovered: trigger of an audit, in place of the run's.
        """
        self.trigger: BaseTrigger = recovered or (attack.trigger if attack else Patch())
        self.stage: Stage = "input" if recovered else attack.stage if attack else "native"
        self._recovered = recovered is not None
        self._attacks = self._recovered or attack is not None
        self._preprocess, self._colour = preprocess, colour
        self._clean: WeakKeyDictionary[Picture, NDArray[np.uint8]] = WeakKeyDictionary()  # what the model sees of pictures

    @property
    def brush(self) -> Brush:
        """The square that a click draws: the run's trigger, or the paper's where the run's is not a square."""
        return self.trigger.brush or Patch().brush

    def kept(self, picture: Picture) -> Box:
        """The part of a picture that the model sees."""
        height, width = picture.shape
        return Box(0, 0, height, width) if picture.prepared else self._preprocess.kept(height, width)

    def stamps_input(self, picture: Picture) -> bool:
        """Whether squares go on what the model sees instead of on the picture itself."""
        return self.stage == "input" and not picture.prepared

    def attackers_place(self, picture: Picture) -> tuple[int, int] | None:
        """Row and column where the attacker stamps this picture; None where that is unknown or nothing is stamped."""
        if picture.place and not self._recovered:  # the run's own
            return picture.place
        if not self._attacks or not self.trigger.stamps:
            return None
        if self.trigger.wanders or (picture.prepared and self.stage == "native"):
            return None
        side = self._preprocess.size
        height, width = (side, side) if self.stamps_input(picture) else picture.shape
        try:
            return self.trigger.place(height, width, Box(0, 0, height, width), (0.5, 0.5))
        except PetechiaError:  # it does not fit
            return None

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the model sees of an image, uint8 [H, W] or [H, W, 3]: three channels if it takes colours, else one."""
        return self._preprocess(in_colour(image) if self._colour else image)

    def inputs(self, picture: Picture, squares: Sequence[Square], attacked: bool) -> NDArray[np.uint8]:
        """What the model sees: the clean picture and, if there are squares or it is attacked, the triggered one.

        Args:
            picture: to prepare.
            squares: painted on it, in their order.
            attacked: whether it gets the trigger where the attacker puts it.

        Returns:
            uint8 [1 or 2, S, S], or [1 or 2, S, S, 3] for a model that takes colours.

        Raises:
            PetechiaError: a square does not fit, or the trigger cannot be stamped on this picture.
        """
        clean = self._clean.get(picture)
        if clean is None:
            clean = self._clean[picture] = self._given(picture) if picture.prepared else self.prepare(picture.given)
        if not squares and not attacked:
            return np.stack([clean])
        at_input = picture.prepared or self.stamps_input(picture)
        image = clean if at_input else self._given(picture)
        if attacked:
            image = self._with_trigger(image, picture)
        image = paint_squares(image, squares, self.brush.opacity)
        return np.stack([clean, image if at_input else self._preprocess(image)])

    def _given(self, picture: Picture) -> NDArray[np.uint8]:
        return in_colour(picture.given) if self._colour else picture.given

    def _with_trigger(self, image: NDArray[np.uint8], picture: Picture) -> NDArray[np.uint8]:
        place = self.attackers_place(picture)
        if place is None:
            raise PetechiaError(f"The trigger cannot be stamped on this picture: {self.trigger.describe()}.")
        return np.asarray(self.trigger.stamp(image[None], np.array([place]))[0], np.uint8)
