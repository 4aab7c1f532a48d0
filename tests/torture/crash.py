"""Jobs that are killed, and what must be the same afterwards.

`Nursery` keeps a process that has imported everything and does nothing else. For every job it forks a child, which works in a
folder, and is killed after so many seconds, or kills itself just before the N-th time that it opens a file for writing there,
or makes, renames, links or removes one. So a kill costs no start of Python, and all of them fall into the work.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from petechia.cli.commands import app
from petechia.data import Preprocess, open_source, preparation
from petechia.data.preparation import prepare

NETWORK = (
    "model.arch=test_resnet", "preprocess.size=32", "bootstrap=20", "train.epochs=2", "train.batch_size=16",
    "compute.threads=1",
)  # fmt: skip
DATA = "phantom:images=120,size=32"
SETTINGS = [word for key in NETWORK for word in ("--set", key)]
TOUCHES = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}


def prepare_images(folder: Path) -> None:
    preparation.SHARD = 100  # so that there is something to go on after
    prepare(open_source("phantom:images=600,size=48"), Preprocess(size=32))


def at_once(job: Callable[[], int | None], processes: int = 4) -> list[int]:
    """The exit statuses of processes that start together."""
    reading, writing = os.pipe()
    children = []
    for _ in range(processes):
        if (child := os.fork()) == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent closes it
            os._exit(job() or 0)
        children.append(child)
    os.close(writing)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def prepare_at_once(folder: Path) -> int:
    return max(at_once(lambda: prepare_images(folder)))


def one_wins(job: str) -> Callable[[Path], int]:
    """Processes that do the same job at once, of which one ends well and the others are refused."""
    return lambda folder: int(sorted(at_once(lambda: JOBS[job](folder), 3)) != [0, 1, 1])


def command(*words: str) -> Callable[[Path], int | None]:
    def call(folder: Path) -> int | None:
        status: int | None = app([*words, "--out", str(folder / "out")], standalone_mode=False)
        return status

    return call


JOBS: dict[str, Callable[[Path], int | None]] = {
    "prepare": prepare_images,
    "prepare at once": prepare_at_once,
    "poison at once": one_wins("poison"),
    "run at once": one_wins("new run"),
    "new run": command("run", "--data", DATA, *SETTINGS, "--set", "heat=6"),
    "run": command("run", "--resume", "--data", DATA, *SETTINGS, "--set", "heat=6"),
    "poison": command("poison", DATA, "--set", "attack.rate=0.5"),
    "reproduce": command(
        "reproduce",
        "table-2",
        "--data",
        "phantom:images=120,size=146",
        *SETTINGS,
        "--set",
        "seeds=[0]",
        "--set",
        "train.epochs=1",
    ),
}


def content(folder: Path) -> dict[str, Any]:
    """Return the content of a job's files, except times; names of unexpected files are included."""
    found: dict[str, Any] = {}
    for path in sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != ".lock" and path.suffix != ".lock"
    ):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = _without_time(json.loads(path.read_text()))
        elif path.suffix == ".parquet":
            found[name] = repr(pl.read_parquet(path).to_dict(as_series=False))  # in which NaN is NaN
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays}
        elif path.name == "state.safetensors":
            found[name] = {key: value.tobytes() for key, value in load_file(path).items()}
        elif path.suffix in (".html", ".png", ".svg") and "out/images" not in str(path):
            found[name] = "a page or a picture of it"  # these hold dates and times
        else:
            found[name] = path.read_bytes()
    return found


def _without_time(value: Any) -> Any:
    return {key: one for key, one in value.items() if key != "seconds"} if isinstance(value, dict) else value


def _writes(mode: str | None, flags: int) -> bool:
    """Whether a file is opened for writing; `os.open` tells no mode."""
    return bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _watch(folder: Path, kill_at: int | None) -> Callable[[], int]:
    """Count every access to a file below a folder; exit at the given count."""
    counted = 0
    root = str(folder)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal counted
        if event not in TOUCHES or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not _writes(*arguments[1:3]):
            return
        if os.fspath(arguments[0]).startswith(root):
            counted += 1
            if counted == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
    return lambda: counted


class Done(NamedTuple):
    """How a job ended: the signal or 0, its exit status, its duration in seconds, and the number of file accesses."""

    signal: int
    status: int
    seconds: float
    touched: int
    said: str


class Nursery:
    """Runs jobs, each in its own process."""

    def __enter__(self) -> Self:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.crash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)

    def begin(self, job: str, folder: Path, kill_after: float | None = None, kill_at: int | None = None, **limits: int) -> None:
        """Start a job.

        Args:
            job: name of it.
            folder: for all its files.
            kill_after: seconds after which it gets SIGKILL.
            kill_at: at which touch of a file it kills itself.
            limits: `interrupt`, milliseconds after which it gets SIGINT; `largest`, bytes of a file, as where a disk is full;
                `jump`, seconds by which its clock is wrong; `user`, whose rights it has.
        """
        assert self.process.stdin
        print(json.dumps([job, str(folder), kill_after, kill_at, limits]), file=self.process.stdin, flush=True)

    def end(self) -> Done:
        """Wait for the job that was started first."""
        assert self.process.stdout
        return Done(*json.loads(self.process.stdout.readline()))

    def do(self, job: str, folder: Path, **how: Any) -> Done:
        """Start a job and wait for it."""
        self.begin(job, folder, **how)
        return self.end()


def serve() -> None:
    """The main loop of the nursery's process."""
    import petechia.api  # noqa: F401, PLC0415 (the tests need it not; here, what takes longest is no part of the work)

    out = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job, folder, kill_after, kill_at, limits = json.loads(line)
        Path(folder).mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _work(job, Path(folder), kill_at, limits, writing)
        os.close(writing)
        with os.fdopen(reading, errors="replace") as pipe:
            if kill_after is not None or "interrupt" in limits:
                time.sleep(kill_after if kill_after is not None else limits["interrupt"] / 1000)
                os.kill(child, signal.SIGINT if "interrupt" in limits else signal.SIGKILL)
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        words, _, touched = said.partition("\0touched ")
        ended = (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, os.waitstatus_to_exitcode(status))
        print(json.dumps([*ended, time.perf_counter() - began, int(touched or 0), words]), file=out, flush=True)


def _work(job: str, folder: Path, kill_at: int | None, limits: dict[str, int], pipe: int) -> None:
    """Run the child. It never returns."""
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    os.environ["PETECHIA_CACHE"] = str(folder / "cache")
    status = 1
    try:
        if "largest" in limits:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limits["largest"], limits["largest"]))
        if "user" in limits:
            os.setuid(limits["user"])
        if "jump" in limits:
            real = time.time
            time.time = lambda: real() + limits["jump"]
        counted = _watch(folder, kill_at)
        status = JOBS[job](folder) or 0
        sys.stdout.flush()
        os.write(2, f"\0touched {counted()}".encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
