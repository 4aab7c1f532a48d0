"""Reads the images of a catalog shard by shard: on this machine, or on a Ray cluster. Both give the same."""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import PicklingError
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from petechia.core.cluster import connected
from petechia.core.errors import PetechiaError, ResumableError
from petechia.core.progress import SILENT, Progress
from petechia.core.version import __version__
from petechia.data.catalog import Reader

RETRIES = 3  # of a shard whose worker is lost
AHEAD = 2  # shards for each processor of the cluster that wait for a worker, or whose result waits for this process

OnError = Literal["error", "skip"]
Rows = NDArray[np.intp]


class Shard(NamedTuple):
    """What was made of some images.

    Attributes:
        files: name of a file → content.
        unread: row → why the image cannot be decoded.
    """

    files: dict[str, bytes]
    unread: dict[int, str]


class ReadShard(Protocol):
    """Makes something of some images. It is sent to other processes: a function of a module, or a `partial` of one."""

    def __call__(self, reader: Reader, rows: Rows, on_error: OnError, progress: Progress = SILENT, threads: int = 0) -> Shard:
        """Read images.

        Args:
            reader: of all images.
            rows: int [n], those to read.
            on_error: "skip" notes images that cannot be decoded in `unread`.
            progress: advances by one for every image.
            threads: that decode; 0 for one for each processor.

        Raises:
            PetechiaError: an image cannot be decoded and `on_error` is "error".
        """


class ReadShards(Protocol):
    """Where shards are read: `on_this_machine`, `on_ray`, or `on_cluster`."""

    def __call__(
        self, read: ReadShard, reader: Reader, shards: Sequence[Rows], on_error: OnError, progress: Progress
    ) -> Iterator[Shard]:
        """Yield the shards in their order; arguments and errors are those of `ReadShard`."""


def in_shards(start: int, stop: int, size: int) -> list[Rows]:
    """The rows from `start` to `stop` - 1, `size` together."""
    return [np.arange(first, min(first + size, stop)) for first in range(start, stop, size)]


def on_this_machine(
    read: ReadShard, reader: Reader, shards: Sequence[Rows], on_error: OnError, progress: Progress
) -> Iterator[Shard]:
    """Read shards one after the other, each with all processors."""
    for rows in shards:
        yield read(reader, rows, on_error, progress)


def on_ray(address: str) -> ReadShards:
    """Return a function that reads shards on a Ray cluster, as `on_cluster` does, to which it connects for that alone.

    Args:
        address: see `petechia.core.cluster.connected`, whose errors it raises.
    """

    def read_shards(
        read: ReadShard, reader: Reader, shards: Sequence[Rows], on_error: OnError, progress: Progress
    ) -> Iterator[Shard]:
        if shards:
            with connected(address):
                yield from on_cluster(read, reader, shards, on_error, progress)

    return read_shards


def on_cluster(
    read: ReadShard, reader: Reader, shards: Sequence[Rows], on_error: OnError, progress: Progress
) -> Iterator[Shard]:
    """Read shards on the Ray cluster that this process is connected to. Ray does all scheduling.

    The workers must see the files under the same paths as this process. One that is lost costs its shard.

    Raises:
        PetechiaError: as `ReadShard`; the reader works in this process alone; or a worker cannot read what this process can, or
            has another version.
        ResumableError: the workers of a shard were lost again and again.
    """
    import ray

    remote: Any = ray.remote(_work)
    submit = remote.options(num_cpus=1, max_retries=RETRIES).remote
    try:
        there = ray.put(reader)
    except (TypeError, PicklingError):
        raise PetechiaError("The images of this source can be read by this process alone; leave out --ray.") from None
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    running: deque[Any] = deque()
    for number, rows in enumerate(shards):
        while len(running) < most and number + len(running) < len(shards):
            running.append(submit(read, there, shards[number + len(running)], Path.cwd(), __version__))
        node, shard = _result(running.popleft())
        if shard.unread:
            _check_unread(read, reader, node, shard.unread, on_error)
        yield shard
        progress.advance(len(rows))


def _work(read: ReadShard, reader: Reader, rows: Rows, folder: Path, version: str) -> tuple[str, Shard]:
    """Read a shard in a worker; return the name of its machine, too."""
    node = platform.node()
    if version != __version__:
        raise PetechiaError(
            f"The worker on {node} has Petechia {__version__}, and this machine {version}; install one version."
        )
    if folder.is_dir():
        os.chdir(folder)  # paths of data may be relative
    return node, read(reader, rows, "skip", threads=1)


def _result(reference: Any) -> tuple[str, Shard]:
    import ray

    try:
        found: tuple[str, Shard] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PetechiaError):
            raise error.cause from None
        raise PetechiaError(f"A worker could not read its images ({type(error.cause).__name__}: {error.cause}).") from None
    except ray.exceptions.RayError as error:
        raise ResumableError(
            f"The worker of some images was lost {RETRIES + 1} times ({type(error).__name__}); check its memory, and give the "
            f"same command again, which goes on after the last shard."
        ) from None
    return found


def _check_unread(read: ReadShard, reader: Reader, node: str, unread: dict[int, str], on_error: OnError) -> None:
    """Check that the first image that a worker cannot decode cannot be decoded here either: else it does not see the files.

    Raises:
        PetechiaError: it can be, or `on_error` is "error".
    """
    row, reason = next(iter(unread.items()))
    if not read(reader, np.array([row]), "skip").unread:
        raise PetechiaError(
            f"A worker on {node} cannot read what this machine can ({reason.rstrip('.')}); let it see the files under the same "
            f"paths, and give it the same extras of Petechia."
        )
    if on_error == "error":
        raise PetechiaError(reason)
