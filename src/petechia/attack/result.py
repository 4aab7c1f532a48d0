"""What poisoning a dataset gives."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PrivateAttr

from petechia.attack.poisoning import PoisonPlan
from petechia.core.results import Result


class Poisoned(Result):
    """A poisoned copy of a dataset. File: poison.json.

    Attributes:
        directory: of the copy.
        data: the data source that it was made from.
        trigger: in words.
        target: the target class.
        images: training images in the copy.
        triggered: of these, images that carry the trigger.
        cover: of these, cover images.
    """

    file_name: ClassVar[str] = "poison.json"

    directory: str
    data: str
    trigger: str
    target: str
    images: int
    triggered: int
    cover: int

    _plan: PoisonPlan = PrivateAttr()

    @property
    def plan(self) -> PoisonPlan:
        """What was done to which image; also in plan.parquet of the copy."""
        return self._plan
