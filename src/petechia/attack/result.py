"""The result of poisoning a dataset."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PrivateAttr

from petechia.attack.poisoning import PoisonPlan
from petechia.core.results import Result
from petechia.data.not_read import EVERYTHING_READ, NotRead


class Poisoned(Result):
    """A poisoned copy of a dataset. File: poison.json.

    Attributes:
        directory: folder of the copy.
        data: data source that the copy was made from.
        trigger: description of the trigger.
        target: target class.
        images: number of training images in the copy.
        triggered: number of triggered images among them.
        cover: number of cover images among them.
        not_read: images of the source that are not in the copy.
    """

    file_name: ClassVar[str] = "poison.json"

    schema_: int = Field(2, alias="schema")
    directory: str
    data: str
    trigger: str
    target: str
    images: int
    triggered: int
    cover: int
    not_read: NotRead = EVERYTHING_READ

    _plan: PoisonPlan = PrivateAttr()

    @property
    def plan(self) -> PoisonPlan:
        """The poisoning plan: what was done to each image. It is also in poison.parquet of the copy."""
        return self._plan
