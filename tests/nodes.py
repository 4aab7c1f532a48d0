"""A Ray cluster for tests, in this machine, and the loss of one of its workers."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def two_nodes() -> Iterator[str]:
    """Two nodes, each with its own scheduler, resources and one CPU; yields their address, and stops them."""
    Cluster = pytest.importorskip("ray.cluster_utils").Cluster  # noqa: N806

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


def workers() -> list[int]:
    """The processes of this machine that do a task."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::_work"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@contextmanager
def one_worker_lost(ready: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Meanwhile, kill one worker as soon as there is one and it is time; fails if none was."""
    killed: list[int] = []
    done = threading.Event()

    def kill_one() -> None:
        while not killed and not done.is_set():
            if ready() and (running := workers()):
                os.kill(running[0], signal.SIGKILL)
                killed.append(running[0])
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        yield
    finally:
        done.set()
        killer.join()
    assert killed
