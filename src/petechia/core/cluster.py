"""A Ray cluster: finds one, or starts one on this machine."""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from petechia.core.errors import PetechiaError, first_line
from petechia.core.parallel import workers


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a Ray cluster as long as the block lasts.

    Args:
        address: host:port of a cluster, or "auto" for the cluster of this machine; if there is none, one is started.

    Raises:
        PetechiaError: Ray is not installed, or no cluster answers at the address. Raised before the block begins.
    """
    _connect(address)
    import ray

    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    if importlib.util.find_spec("ray") is None:
        raise PetechiaError("--ray needs Ray, which is not installed; install petechia[cluster].")
    import ray

    if address != "auto":
        _check_reachable(address)  # Ray itself waits for minutes
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": None}
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if address != "auto":
            raise PetechiaError(f"What answers at {address} is not a Ray cluster ({first_line(error)}).") from None
        ray.init(num_cpus=workers(), **(quiet | {"include_dashboard": False}))


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise PetechiaError(
            f"There is no Ray cluster at {address} ({error}); correct the address, or use --ray auto."
        ) from None
