"""Work on a GPU that is recorded once and replayed, because Python launches the kernels of small batches too slowly."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from petechia.core.errors import PetechiaError, first_line

T = TypeVar("T")

LOGGER = logging.getLogger(__name__)
MOST = 8  # recordings of one function; for other shapes it is done as it is
REHEARSALS = 3  # calls before the work is recorded: libraries choose their kernels and reserve memory in the first ones


class Recorder(Protocol):
    """Records what a function does on a device. Tests replace the one of CUDA."""

    def rehearse(self, work: Callable[[], T]) -> T:
        """Do the work where it will be recorded."""

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record the work without doing it.

        Returns:
            What the work returns, and a function that does it again and leaves the results in the same tensors.

        Raises:
            RuntimeError: the work cannot be recorded, for instance because it reads a value on the host.
        """


class CudaRecorder:
    """Records CUDA graphs. They share one pool of memory, so none may run while another one does."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def rehearse(self, work: Callable[[], T]) -> T:
        """See `Recorder.rehearse`."""
        caller = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            found = work()
        caller.wait_stream(self.stream)
        return found

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """See `Recorder.record`."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on copying images while this one records.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            found = work()
        return found, graph.replay


@dataclass(frozen=True)
class _Recording(Generic[T]):
    """What was recorded for inputs of one shape: their tensors, the results, and the replay."""

    inputs: tuple[Tensor, ...]
    results: T
    replay: Callable[[], None]


class Replayed(Generic[T]):
    """A function of tensors that is recorded for each shape of its inputs, and replayed from then on.

    The results of a replay are the same tensors each time; use or copy them before the next call. Work that cannot be recorded
    is done as it is, with a note in the log.
    """

    def __init__(self, work: Callable[..., T], recorder: Recorder | None, name: str) -> None:
        """Wrap a function.

        Args:
            work: takes tensors, returns tensors, in any structure. What else it reads must be tensors that stay where they are,
                such as a network's weights.
            recorder: None: nothing is recorded.
            name: of the work, for the log.
        """
        self.work = work
        self.recorder = recorder
        self.name = name
        self.calls: Counter[tuple[torch.Size, ...]] = Counter()
        self.recordings: dict[tuple[torch.Size, ...], _Recording[T]] = {}

    def __call__(self, *inputs: Tensor) -> T:
        """Do the work."""
        if self.recorder is None:
            return self.work(*inputs)
        shapes = tuple(one.shape for one in inputs)
        if shapes not in self.recordings:
            self.calls[shapes] += 1
            if self.calls[shapes] <= REHEARSALS or len(self.recordings) == MOST:
                return self.recorder.rehearse(lambda: self.work(*inputs))
            own = tuple(one.clone() for one in inputs)
            try:
                self.recordings[shapes] = _Recording(own, *self.recorder.record(lambda: self.work(*own)))
            except (RuntimeError, PetechiaError) as error:  # a caller's code may have put the one into the other
                LOGGER.warning("%s cannot be recorded as a graph and runs step by step: %s", self.name, first_line(error))
                self.recorder = None
                return self.work(*inputs)
        recording = self.recordings[shapes]
        for buffer, given in zip(recording.inputs, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        recording.replay()
        return recording.results
