"""The child's side of `core.worker`: a process that runs functions of Petechia within limits; and the messages between the two.

A message is a head in JSON and the bytes of the arrays. Nothing is pickled: whoever takes over a decoder can send wrong pixels,
but cannot run anything in the process that asked.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError

MOST_HEAD = 8 << 20  # bytes of JSON
DTYPES = frozenset(["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"])
BYTES = "bytes"  # in the place of a dtype
GRACE = 5  # seconds after which a worker ends itself when nobody has ended it


class DamagedMessageError(Exception):
    """A message breaks the rules of `receive`."""


def message(value: Any) -> Iterator[bytes | memoryview]:
    """Yield the parts of a message. A value is None, a bool, number, text, bytes or array, or a list or dict of them."""
    arrays: list[NDArray[Any]] = []
    kinds: list[tuple[str, list[int]]] = []
    head = json.dumps({"value": _plain(value, arrays, kinds), "arrays": kinds}).encode()
    yield len(head).to_bytes(8, "little") + head
    for array in arrays:
        yield array.reshape(-1).view(np.uint8).data


def receive(read: Callable[[int], bytearray], most: int) -> Any:
    """Read a message; the inverse of `message`. What the sender claims is checked before memory is allocated.

    Args:
        read: returns the next bytes, exactly as many as requested.
        most: maximum number of bytes of all arrays together.

    Raises:
        DamagedMessageError: the message is too large or does not have the form that `message` writes.
    """
    length = int.from_bytes(read(8), "little")
    if length > MOST_HEAD:
        raise DamagedMessageError("a head of that length")
    try:
        head = json.loads(bytes(read(length)))
        sizes = [_size(kind, shape) for kind, shape in head["arrays"]]
        if sum(sizes) > most:
            raise DamagedMessageError("arrays of that size")
        arrays = [_array(read(size), kind, shape) for size, (kind, shape) in zip(sizes, head["arrays"], strict=True)]
        return _whole(head["value"], arrays)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedMessageError(type(error).__name__) from None


def _plain(value: Any, arrays: list[NDArray[Any]], kinds: list[tuple[str, list[int]]]) -> Any:
    if isinstance(value, dict):
        return {"dict": [[str(key), _plain(one, arrays, kinds)] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(one, arrays, kinds) for one in value]
    if isinstance(value, bytes | bytearray | memoryview):
        arrays.append(np.frombuffer(value, np.uint8))
        kinds.append((BYTES, [len(arrays[-1])]))
    elif isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value, value.dtype.newbyteorder("<")))
        kinds.append((arrays[-1].dtype.str, list(value.shape)))
    else:
        return value.item() if isinstance(value, np.generic) else value
    return {"array": len(arrays) - 1}


def _whole(value: Any, arrays: list[Any]) -> Any:
    if isinstance(value, list):
        return [_whole(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[int(value["array"])]
    return {str(key): _whole(one, arrays) for key, one in value["dict"]}


def _size(kind: str, shape: list[int]) -> int:
    if kind not in (BYTES, *DTYPES) or len(shape) > 8 or not all(type(side) is int and side >= 0 for side in shape):
        raise DamagedMessageError("an array of another form")
    return prod(shape) * (1 if kind == BYTES else int(kind[2]))


def _array(content: bytearray, kind: str, shape: list[int]) -> Any:
    return bytes(content) if kind == BYTES else np.frombuffer(content, kind).reshape(shape)


class _Server:
    """Answers questions until the other side is gone."""

    def __init__(self) -> None:
        self._in, self._out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):  # what a library prints must not get into the messages
            os.dup2(nothing, standard)
        for number, action in ((signal.SIGINT, signal.SIG_IGN), (signal.SIGALRM, signal.SIG_DFL)):
            signal.signal(number, action)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        threading.Thread(target=self._end_with_parent, args=(os.getppid(),), daemon=True).start()
        self._modules: dict[str, ModuleType] = {}  # whose functions may be called
        self._before = 0  # bytes of address space of this process when it is ready
        self._state: Any = None

    def run(self) -> None:
        """Set the limits, then answer."""
        setup = self._receive()
        self._modules = {name: importlib.import_module(name) for name in setup["modules"]}
        self._before = _address_space()
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process goes first
        for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, setup["files"])):
            with suppress(OSError, ValueError):
                resource.setrlimit(what, (most, most))
        self._send({"ready": True})
        while True:
            question = self._receive()
            self._limit(question["memory"])
            signal.setitimer(signal.ITIMER_REAL, question["seconds"] + GRACE)  # works even if C code never returns
            self._send(self._answer(question["function"], question["values"], question["opens"], question["state"]))
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _answer(self, name: str, values: list[Any], opens: bool, with_state: bool) -> dict[str, Any]:
        try:
            module, _, function = name.partition(":")
            answer = getattr(self._modules[module], function)(*([self._state] if with_state else []), *values)
            if opens:
                self._state, answer = answer
            return {"answer": answer}
        except PetechiaError as error:
            return {"refused": str(error)}
        except MemoryError:
            return {"memory": True}
        except Exception as error:  # whatever a library raises about a damaged file
            return {"memory": True} if "alloc" in str(error).lower() else {"failed": type(error).__name__}

    def _limit(self, memory: int) -> None:
        with suppress(OSError, ValueError):  # on macOS, the address space cannot be limited
            most = self._before + memory if self._before else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def _receive(self) -> Any:
        return receive(self._read, sys.maxsize)

    def _read(self, count: int) -> bytearray:
        content = bytearray(count)
        if self._in.readinto(content) < count:
            os._exit(0)
        return content

    def _send(self, value: Any) -> None:
        try:
            self._out.writelines(message(value))
            self._out.flush()
        except BrokenPipeError:
            os._exit(0)

    def _end_with_parent(self, parent: int) -> None:
        gone = select.poll()
        gone.register(self._in, 0)  # reports only that the other side has closed it
        while os.getppid() == parent and not gone.poll(1000):
            pass
        os._exit(0)


def _address_space() -> int:
    """Return the bytes of address space that this process has; 0 where that is unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    _Server().run()
