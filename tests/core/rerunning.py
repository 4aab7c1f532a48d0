"""A recorder for machines without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Rerunning:
    """Stands for the recorder of CUDA: a replay does the work again and leaves the results in the tensors of the first time.

    Attributes:
        state: what the work changes besides its results. Recording does not do the work, so it is put back.
        recorded: number of replays of each recording.
    """

    def __init__(self, state: Sequence[Tensor] = ()) -> None:
        self.state = state
        self.rehearsed = 0
        self.recorded: list[int] = []

    def rehearse(self, work: Callable[[], T]) -> T:
        self.rehearsed += 1
        return work()

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        before = [one.clone() for one in self.state]
        results = work()
        _copy(self.state, before)
        number = len(self.recorded)
        self.recorded.append(0)

        def replay() -> None:
            _copy(tree_leaves(results), tree_leaves(work()))
            self.recorded[number] += 1

        return results, replay


def _copy(into: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> None:
    with torch.no_grad():
        for old, new in zip(into, given, strict=True):
            if old is not None and new is not None:
                old.copy_(new)
