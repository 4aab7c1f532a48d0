"""Work on a GPU that is recorded once and replayed, because Python launches the kernels of small batches too slowly."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import ismethod
from threading import RLock
from typing import Generic, Protocol, TypeVar
from weakref import WeakMethod, finalize

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petechia.core.errors import PetechiaError, first_line

T = TypeVar("T")
Key = tuple[tuple[torch.Size, torch.dtype, torch.device], ...]  # what inputs have in common that share a recording

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
    """Records CUDA graphs on one stream. They share a pool of memory, so none may run while another one does.

    They are destroyed together, when nobody needs any of them any more: destroying one clears the workspaces of the libraries
    on the stream, which the others still use (pytorch issue 193402).
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._lock = RLock()  # what is collected may be so in any thread
        self._start()

    def _start(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._needed = 0

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
        with self._lock:
            self._graphs.append(graph)
            self._needed += 1
        try:
            # Other threads may go on copying images while this one records.
            capture = torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local")
            with self._undisturbed(), capture:
                found = work()
        except BaseException:
            self._done()
            raise
        replay = partial(graph.replay)
        finalize(replay, self._done)
        return found, replay

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """No earlier graph is collected meanwhile, and the caller's stream is the current one afterwards, whatever happens."""
        caller, collecting = torch.cuda.current_stream(self.stream.device), gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            yield
        finally:
            torch.cuda.set_stream(caller)
            if collecting:
                gc.enable()

    def _done(self) -> None:
        with self._lock:
            self._needed -= 1
            if not self._needed:
                self._start()


@dataclass(frozen=True)
class _Recording(Generic[T]):
    """What was recorded for inputs of one shape: their tensors, the results, and the replay."""

    inputs: tuple[Tensor, ...]
    results: T
    replay: Callable[[], None]


class Replayed(Generic[T]):
    """A function of tensors that is recorded for each shape of its inputs, and replayed from then on.

    The results of a replay are the same tensors each time, in memory that all recordings of a recorder share; use or copy them
    before anything else that is recorded runs. Work that cannot be recorded is done as it is, with a note in the log.
    """

    def __init__(
        self, work: Callable[..., T], recorder: Recorder | None, name: str, allowed: Callable[[], bool] = lambda: True
    ) -> None:
        """Wrap a function.

        Args:
            work: takes tensors, returns tensors, in any structure. What else it reads must be tensors that stay where they are,
                such as a network's weights. A method does not keep its object alive.
            recorder: None: nothing is recorded.
            name: of the work, for the log.
            allowed: whether the work may be recorded; asked after the rehearsals.
        """
        self._work = WeakMethod(work) if ismethod(work) else lambda: work
        self.recorder = recorder
        self.name = name
        self.allowed = allowed
        self.calls: Counter[Key] = Counter()
        self.recordings: dict[Key, _Recording[T]] = {}

    def __call__(self, *inputs: Tensor) -> T:
        """Do the work."""
        key = tuple((one.shape, one.dtype, one.device) for one in inputs)
        if self.recorder is None:
            return self.directly(*inputs)
        if key not in self.recordings:
            self.calls[key] += 1
            if self.calls[key] <= REHEARSALS or len(self.recordings) == MOST:
                return self._rehearsed(self.recorder, *inputs)
            if not self._recorded(self.recorder, key, inputs):
                return self.directly(*inputs)
        recording = self.recordings[key]
        for buffer, given in zip(recording.inputs, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        recording.replay()
        return recording.results

    def directly(self, *inputs: Tensor) -> T:
        """Do the work as it is."""
        work = self._work()
        assert work is not None, "whoever calls this has the object of the method"  # noqa: S101
        return work(*inputs)

    def _rehearsed(self, recorder: Recorder, *inputs: Tensor) -> T:
        try:
            return recorder.rehearse(lambda: self.directly(*inputs))
        except torch.OutOfMemoryError:
            if not self.recordings:
                raise
        self._give_up("there is no memory for batches of a second size beside the first")
        return self.directly(*inputs)

    def _recorded(self, recorder: Recorder, key: Key, inputs: tuple[Tensor, ...]) -> bool:
        """Record the work for inputs of one kind; whether that was possible."""
        if not self.allowed():
            self._give_up("it keeps tensors between calls")
            return False
        own = tuple(one.clone() for one in inputs)
        try:
            self.recordings[key] = _Recording(own, *recorder.record(lambda: self.directly(*own)))
        except (RuntimeError, PetechiaError) as error:  # a caller's code may have put the one into the other
            problem = first_line(error.__context__ or error)
        else:
            return True
        self._give_up(problem)  # out here, for the traceback of the error holds memory
        return False

    def _give_up(self, problem: str) -> None:
        LOGGER.warning("%s cannot be recorded as a graph and runs step by step: %s", self.name, problem)
        self.recorder = None
        self.recordings.clear()
        torch.cuda.empty_cache()  # does nothing where there is no GPU


class Piecewise:
    """A function from rows to rows, such as images to scores, of fewer rows at a time where a GPU has no memory for all.

    Attributes:
        most: rows at a time, once that was found; None: as many as are given.
    """

    def __init__(self, work: Callable[[Tensor], Tensor]) -> None:
        """Wrap a function; the results of rows must not depend on the rows beside them."""
        self.work = work
        self.most: int | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Do the work; what is returned is not written to again.

        Args:
            rows: [N, …], N at least 1.

        Raises:
            PetechiaError: there is no memory for a single row.
        """
        found: list[Tensor] = []
        while len(rows):
            some = rows[: self.most]
            if (done := self._done(some)) is not None:
                found.append(done)
                rows = rows[len(some) :]
            elif len(some) == 1:
                raise PetechiaError("The GPU has no memory for a single image; free some, or compute on the processor (cpu).")
            else:
                self.most = len(some) // 2
                LOGGER.warning("The GPU has no memory for %d images at a time; %d are tried.", len(some), self.most)
                torch.cuda.empty_cache()
        return torch.cat(found)

    def _done(self, rows: Tensor) -> Tensor | None:
        """The results; None if there is no memory. The error does not leave this function, for its traceback holds memory."""
        try:
            return self.work(rows).clone()
        except torch.OutOfMemoryError:
            return None


def keeps_tensors(module: nn.Module) -> bool:
    """Whether a network keeps tensors beside its parameters and buffers, such as caches that a change of its mode drops.

    A graph would go on reading them where they were.
    """
    known = {"_parameters", "_buffers", "_modules"}
    kept = (value for one in module.modules() for name, value in vars(one).items() if name not in known)
    return any(
        isinstance(leaf, Tensor)
        for value in kept
        if isinstance(value, Tensor | dict | list | tuple)
        for leaf in tree_leaves(value)
    )
