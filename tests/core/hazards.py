"""What a decoder can do in a worker."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from petechia.core.errors import PetechiaError


def echo(*values: Any) -> list[Any]:
    return list(values)


def process() -> int:
    return os.getpid()


def refuse(sentence: str) -> None:
    raise PetechiaError(sentence)


def fail() -> None:
    raise KeyError("Zebedee")


def crash() -> None:
    ctypes.string_at(0)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def hang() -> None:
    """Never return, and never let another thread run."""
    ctypes.PyDLL(None).sleep(1000)


def allocate(count: int) -> int:
    return int(np.ones(count, np.uint8).sum())


def grow(count: int) -> bytes:
    return bytes(count)


def write(path: str) -> None:
    Path(path).write_text("x" * 10)


def limits() -> dict[str, Any]:
    kinds = {"core": resource.RLIMIT_CORE, "size": resource.RLIMIT_FSIZE, "files": resource.RLIMIT_NOFILE}
    return {name: resource.getrlimit(kind)[0] for name, kind in kinds.items()} | {
        "torch": "torch" in sys.modules,
        "group": os.getpgid(0) == os.getpid(),
        "interrupted": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    }


def print_much() -> str:
    os.write(1, b"x" * 1000)
    os.write(2, b"x" * 1000)
    return "said"


def lie(answer: bytes) -> None:
    """Write something else than an answer, as a decoder that has been taken over could."""
    for number in range(3, 10):
        try:
            os.write(number, answer)
        except OSError:
            continue
    time.sleep(5)


def open_list(first: int) -> tuple[list[int], str]:
    return [first], f"opened {first}"


def add(kept: list[int], number: int) -> list[int]:
    kept.append(number)
    return kept


def crash_with(kept: list[int]) -> None:
    crash()
