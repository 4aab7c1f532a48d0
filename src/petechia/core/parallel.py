"""Threads: work on many rows, and hooks of networks that several threads use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import get_ident
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
CHUNK = 32  # maximum number of rows per task


def in_parallel(work: Callable[[NDArray[np.intp]], list[T]], count: int, threads: int = 0) -> Generator[T, None, None]:
    """Run `work` over chunks of the rows 0 … count-1 in threads; yield the results in order, with few of them in memory.

    Threads are enough: Pillow and numpy release the interpreter lock in the expensive parts. There are `threads` of them, or,
    where that is 0, one for each processor.
    """
    threads = threads or workers()
    chunk = min(CHUNK, 1 + count // (40 * threads))  # small enough that all threads finish at about the same time
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[list[T]]] = deque()
    try:
        for start in range(0, count, chunk):
            waiting.append(pool.submit(work, np.arange(start, min(start + chunk, count))))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def workers() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of a module that is deaf to passes of other threads, which may use the same network meanwhile."""
    mine = get_ident()
    return lambda *given: hook(*given) if get_ident() == mine else None
