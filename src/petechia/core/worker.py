"""Run functions on strangers' bytes in processes with limits, so that one bad file costs one process and one error.

C code that decodes what an attacker has made can crash, never end, or take all memory. A `Pool` runs such code in workers:
fresh Python processes that may use a certain address space and time for a call. A `Session` keeps one worker with something
open in it, such as a model. `core.serving` is their side. A worker is a bound, not a sandbox: it has the rights of the user.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from petechia.core.errors import PetechiaError, printable
from petechia.core.parallel import workers
from petechia.core.serving import DamagedMessageError, message, receive

START = 120.0  # seconds within which a worker must be ready
PIPE = 1 << 20  # bytes; the largest that Linux allows everyone
ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Limits:
    """What a worker may use.

    Attributes:
        memory: bytes of address space during a call, beyond what the process has when it is ready. macOS does not enforce this.
        seconds: duration of a call. The time to start a worker and to wait for a free one does not count.
        files: file descriptors. No worker can write to a file.
        threads: CPU threads of numerical libraries.
    """

    memory: int
    seconds: float
    files: int = 32
    threads: int = 1


class FailedCallError(PetechiaError):
    """A function in a worker raised an error other than `PetechiaError`: what it read is damaged."""


class Worker:
    """A process that answers one question at a time. Use a `Pool` or a `Session`."""

    def __init__(self, limits: Limits, modules: tuple[str, ...]) -> None:
        process = _started(limits)
        self._process, self._limits = process, limits
        self._to, self._from = _pipe(process.stdin), _pipe(process.stdout)
        self.end = weakref.finalize(self, _end, process, self._to, self._from, os.getpid())  # at the end of Python, too
        try:
            answer = self._exchange({"modules": modules, "files": limits.files}, START, limits.memory)
        except (EOFError, BrokenPipeError, TimeoutError, DamagedMessageError):
            answer = None
        if answer != {"ready": True}:
            self.end()
            raise PetechiaError(f"A worker process could not be started; check that {sys.executable} finds Petechia.")

    def ask(
        self,
        what: str,
        function: str,
        values: tuple[Any, ...],
        opens: bool = False,
        state: bool = False,
        memory: int | None = None,
    ) -> Any:
        """Run a function and return its result; see `Pool.ask`. After an error of the process, `alive` is False."""
        limits = self._limits if memory is None else replace(self._limits, memory=min(memory, self._limits.memory))
        question = {
            **{"function": function, "values": values, "opens": opens, "state": state},
            **{"memory": limits.memory, "seconds": limits.seconds},
        }
        try:
            answer = self._exchange(question, limits.seconds, limits.memory)
        except TimeoutError:
            self.end()
            raise PetechiaError(f"{what} took longer than {limits.seconds:g} seconds; check the file.") from None
        except (EOFError, BrokenPipeError, DamagedMessageError):
            self.end()
            reason = _reason(self._process)
            raise PetechiaError(f"{what} made the process that read it crash ({reason}); check the file.") from None
        except BaseException:  # Ctrl-C: the answer would be taken for that to the next question
            self.end()
            raise
        return self._read_answer(what, answer, limits)

    def _read_answer(self, what: str, answer: Any, limits: Limits) -> Any:
        match answer:
            case {"answer": found}:
                return found
            case {"refused": str(sentence)}:
                raise PetechiaError(printable(sentence, 1000))
            case {"memory": True}:
                raise PetechiaError(f"{what} needed more than {limits.memory >> 20:,} MiB of memory; check the file.")
            case {"failed": str(kind)}:
                raise FailedCallError(f"{what} is damaged and cannot be read ({printable(kind)}); check the file.")
        self.end()
        raise PetechiaError(f"{what} made the process that read it send a damaged answer; check the file.")

    @property
    def alive(self) -> bool:
        """Whether the worker can answer another question."""
        return self.end.alive

    def _exchange(self, question: Any, seconds: float, most: int) -> Any:
        deadline = time.monotonic() + seconds
        for part in message(question):
            self._write(memoryview(part), deadline)
        return receive(lambda count: self._read(count, deadline), most)

    def _write(self, left: memoryview, deadline: float) -> None:
        while left:
            _wait(self._to, select.POLLOUT, deadline)
            left = left[os.write(self._to, left) :]

    def _read(self, count: int, deadline: float) -> bytearray:
        content = bytearray(count)
        left = memoryview(content)
        while left:
            _wait(self._from, select.POLLIN, deadline)
            if not (got := os.readv(self._from, [left])):
                raise EOFError
            left = left[got:]
        return content


class Pool:
    """Workers for calls from several threads, at most as many as there are CPUs. They start when they are needed.

    Args:
        limits: what a worker may use.
        modules: modules whose functions may be called. A worker imports them at its start, before its memory is limited.
    """

    def __init__(self, limits: Limits, modules: tuple[str, ...]) -> None:
        self._limits = limits
        self._modules = modules
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # a fork must not talk to its parent's workers

    def _forget(self) -> None:
        self._idle: list[Worker] = []
        self._free = threading.BoundedSemaphore(workers())

    def ask(self, what: str, function: str, *values: Any, memory: int | None = None) -> Any:
        """Run a function in a worker.

        Args:
            what: what is read, for messages, such as the name of the file.
            function: a function of one of the modules, such as "petechia.data.formats.dicom_codecs:decode".
            values: its arguments: None, bool, numbers, text, bytes, arrays, and lists and dicts of them.
            memory: what this call may use, if it is less than the limit for all calls.

        Returns:
            The result of the function, which has the same types.

        Raises:
            PetechiaError: the function raised it, took too long or too much memory, or crashed.
        """
        with self._free:
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = Worker(self._limits, self._modules)
            try:
                return worker.ask(what, function, values, memory=memory)
            finally:
                if worker.alive:
                    self._idle.append(worker)

    def close(self) -> None:
        """End the workers that are idle."""
        while self._idle:
            self._idle.pop().end()


class Session:
    """One worker with something open in it, for one call at a time. After a crash it is opened again for the next call.

    Args:
        what: what is opened, for messages, such as the name of the file.
        limits: what the worker may use, for each call.
        modules: see `Pool`.
        function: a function of one of the modules; it returns what is to be kept in the worker, and an answer.
        values: its arguments.

    Attributes:
        opened: the answer of the function.
    """

    def __init__(self, what: str, limits: Limits, modules: tuple[str, ...], function: str, *values: Any) -> None:
        self._what, self._limits, self._modules = what, limits, modules
        self._function, self._values = function, values
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self.opened = self._open()

    def ask(self, function: str, *values: Any) -> Any:
        """Run a function on what is open; its first argument is that. See `Pool.ask`.

        Raises:
            PetechiaError: the function raised it, took too long or too much memory, or crashed.
        """
        with self._lock:
            if not self._worker.alive or self._owner != os.getpid():
                self._open()
            return self._worker.ask(self._what, function, values, state=True)

    def close(self) -> None:
        """End the worker."""
        self._worker.end()

    def _open(self) -> Any:
        self._worker, self._owner = Worker(self._limits, self._modules), os.getpid()
        try:
            return self._worker.ask(self._what, self._function, self._values, opens=True)
        except BaseException:
            self._worker.end()
            raise


def _started(limits: Limits) -> subprocess.Popen[bytes]:
    # Not by fork, which copies locks that other threads hold, nor by multiprocessing, which would run the user's script again.
    # The current folder is not searched for modules: it can be a stranger's.
    found = [entry for entry in sys.path if os.path.isabs(entry)]  # noqa: PTH117
    variables = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"
    threads = dict.fromkeys(variables, str(limits.threads))
    own = {"PYTHONPATH": os.pathsep.join(found if ROOT in found else [*found, ROOT]), "PYTHONDONTWRITEBYTECODE": "1"}
    own["MALLOC_ARENA_MAX"] = "1"  # each arena would take 64 MiB of address space
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "petechia.core.serving"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # messages of C libraries can contain control characters
            start_new_session=True,  # Ctrl-C in the terminal is for the parent
            cwd="/",
            env=os.environ | threads | own,
        )
    except (OSError, ValueError) as error:
        raise PetechiaError(f"A worker process could not be started ({error}); close other programs.") from None


def _pipe(stream: IO[bytes] | None) -> int:
    """Return a descriptor of our end of a pipe that does not block and is not 0, 1 or 2, into which other code may print."""
    assert stream is not None  # noqa: S101
    number = fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 3)
    stream.close()
    os.set_blocking(number, False)
    with suppress(OSError, AttributeError):
        fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, PIPE)
    return number


def _wait(number: int, event: int, deadline: float) -> None:
    ready = select.poll()
    ready.register(number, event)
    left = deadline - time.monotonic()
    if left <= 0 or not ready.poll(left * 1000):
        raise TimeoutError


def _end(process: subprocess.Popen[bytes], to: int, back: int, owner: int) -> None:
    os.close(to)
    os.close(back)
    if os.getpid() != owner:  # a fork
        process.returncode = 0
        return
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code == -signal.SIGKILL:
        return "signal 9, which the system sends when memory runs out"
    return f"signal {-code}" if code < 0 else f"exit status {code}"
