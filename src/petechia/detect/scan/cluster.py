"""Reads the images of a scan on a Ray cluster. Ray does all scheduling; a worker that is lost costs its shard."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from petechia.core.cluster import connect
from petechia.core.errors import PetechiaError
from petechia.core.progress import Progress
from petechia.data.catalog import Reader
from petechia.data.preparation import OnError
from petechia.detect.scan.reading import Files, ReadShards, Rows, read_shard

RETRIES = 3  # of a shard whose worker is lost
AHEAD = 2  # shards for each processor of the cluster that wait for a worker, or whose result waits for this process


@contextmanager
def on_ray(address: str) -> Iterator[ReadShards]:
    """Yield a function that reads shards on a Ray cluster, whose workers see the files under the same paths as this process.

    Args:
        address: see `petechia.core.cluster.connect`.

    Raises:
        PetechiaError: Ray is not installed, or no cluster answers at the address.
    """
    connect(address)
    import ray

    try:
        yield _read
    finally:
        ray.shutdown()


def _read(reader: Reader, shards: Sequence[Rows], on_error: OnError, progress: Progress) -> Iterator[Files]:
    import ray

    remote: Any = ray.remote(_work)
    submit = remote.options(num_cpus=1, max_retries=RETRIES).remote
    there = ray.put(reader)
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    running: deque[Any] = deque()
    for number, rows in enumerate(shards):
        while len(running) < most and number + len(running) < len(shards):
            running.append(submit(there, shards[number + len(running)], on_error, Path.cwd()))
        yield _result(running.popleft())
        progress.advance(len(rows))


def _result(reference: Any) -> Files:
    import ray

    try:
        files: Files = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PetechiaError):
            raise error.cause from None
        raise PetechiaError(f"A worker could not read its images ({type(error.cause).__name__}: {error.cause}).") from None
    except ray.exceptions.RayError as error:
        raise PetechiaError(
            f"The worker of some images was lost {RETRIES + 1} times ({type(error).__name__}); check its memory, scan again."
        ) from None
    return files


def _work(reader: Reader, rows: Rows, on_error: OnError, folder: Path) -> Files:
    if folder.is_dir():
        os.chdir(folder)  # paths of data may be relative
    return read_shard(reader, rows, on_error, threads=1)
