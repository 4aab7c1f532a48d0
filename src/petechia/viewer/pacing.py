"""Cuts long computations with a network into pieces, between which others have their turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from petechia.core.runtime import Runtime
from petechia.models.classifier import Classifier
from petechia.viewer.work import Turns

EXPLAINING, EXAMINING, FITTING = range(3)  # how urgent work is; 0 is the most urgent
PIECE = 4 * 224**2  # pixels that a network gets at a time


class Pace:
    """The turns of one long computation."""

    def __init__(self, turns: Turns, urgency: int, check: Callable[[], None]) -> None:
        """Compute in pieces.

        Args:
            turns: of all that use the networks.
            urgency: of this computation.
            check: raises an exception when the computation is to stop; called before every piece.
        """
        self._turns, self._urgency, self._check = turns, urgency, check
        self._depth = 0  # of contexts within each other; the outermost has the turn

    def start(self) -> None:
        """Wait for the turn."""
        self._check()
        if not self._depth:
            self._turns.take(self._urgency)
        self._depth += 1

    def step(self) -> None:
        """Let others have their turn."""
        if not self._depth:
            return
        self._turns.give()
        try:
            self._check()
        finally:
            self._turns.take(self._urgency)

    def stop(self) -> None:
        """End the turn."""
        self._depth -= 1
        if not self._depth:
            self._turns.give()


def paced(classifier: Classifier, pace: Pace) -> Classifier:
    """The same classifier, answering a few images at a time, with turns for others in between.

    All code that runs a classifier enters its runtime's autocast first, and there the turn begins.
    """

    def answer(batch: Tensor) -> Tensor:
        some = max(1, PIECE // (batch.shape[2] * batch.shape[3]))
        parts = []
        for number, part in enumerate(torch.split(batch, some)):
            if number:
                pace.step()
            parts.append(classifier.answer(part))
            if number and parts[-1].requires_grad:
                parts[-1].register_hook(lambda _: pace.step())  # type: ignore[no-untyped-call]  # on the way back as well
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return replace(classifier, answer=answer, runtime=_PacedRuntime(classifier.runtime, pace))


class _PacedRuntime(Runtime):
    """A runtime in whose autocast it is the turn of a computation."""

    def __init__(self, runtime: Runtime, pace: Pace) -> None:
        super().__init__(runtime.device, runtime.bf16, runtime.rank, runtime.world_size)
        self._pace = pace

    def autocast(self, cache: bool = True) -> torch.autocast:
        return _Turn(self._pace, self.device.type, self.bf16)


class _Turn(torch.autocast):
    def __init__(self, pace: Pace, device: str, bf16: bool) -> None:
        super().__init__(device, torch.bfloat16, enabled=bf16)
        self._pace = pace

    def __enter__(self) -> Any:
        self._pace.start()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> Any:
        try:
            return super().__exit__(*error)
        finally:
            self._pace.stop()
