"""Feeds every door hostile files, in a process of its own whose memory is bounded.

    python -m tests.torture.fuzz INPUTS SEED RESULT.json [DOOR]

INPUTS is the number of mutated inputs for a door of share 1; the traps are tried once each. RESULT.json gets, for every door,
how many were tried, refused and read, the time, the slowest and the most memory that one took; and every failure, with what
it takes to see it again.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from petechia.core.errors import PetechiaError
from tests.torture import doors, readers, volumes
from tests.torture.doors import OUTSIDE, PATIENT, Door, Plant

DOORS = (*doors.DOORS, *readers.DOORS, *volumes.DOORS)

MEMORY = 3 << 30  # bytes that the process may allocate beyond its initial memory
LONGEST = 20.0  # CPU seconds for one input
LONGEST_SENTENCE = 1500  # characters
HANG = 300  # wall-clock seconds after which the process gives up and reports where it was


def main(inputs: int, seed: int, result: Path, only: str | None) -> None:
    """Try all doors, or one."""
    warnings.simplefilter("ignore")
    base = Path(tempfile.mkdtemp(prefix="fuzz-"))
    os.environ["PETECHIA_CACHE"] = str(base / "cache")
    os.environ["PETECHIA_LIMITS"] = f"model_seconds={LONGEST / 4:g}"
    (base / "here").mkdir()
    os.chdir(base / "here")
    chosen = [door for door in DOORS if only in (None, door.name)]
    for door in chosen:
        _in_place(door, base)  # what is imported and cached on the way counts for nothing
        door.enter(base / "given")
    bound = _kilobytes("VmSize") * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    report: dict[str, Any] = {"doors": {}, "failures": []}
    for door in chosen:
        report["doors"][door.name] = _try(door, base, inputs, seed, report["failures"])
        result.write_text(json.dumps(report, indent=1))
    shutil.rmtree(base)


def _try(door: Door, base: Path, inputs: int, seed: int, failures: list[dict[str, str]]) -> dict[str, Any]:
    tried = refused = 0
    slowest, most = (0.0, ""), (0.0, "")
    began = time.perf_counter()
    traps = door.traps()
    _in_place(door, base)
    if (problem := _enter(door, base / "given")) is not None:  # within the bounds; else nothing below says anything
        failures.append({"door": door.name, "input": "the valid one", "problem": problem or "was refused"})
    for name in (*traps, *(f"{seed}/{number}" for number in range(round(inputs * door.share)))):
        _in_place(door, base, name, traps.get(name))
        before = _listing(base)
        _forget_peak()
        start = {process: _kilobytes("VmRSS", process) for process in _processes()}
        faulthandler.dump_traceback_later(HANG, exit=True)
        print(f"{door.name}: {name}", file=sys.stderr, flush=True)
        entered = _cpu_seconds()
        problem = _enter(door, base / "given")
        seconds = _cpu_seconds() - entered
        faulthandler.cancel_dump_traceback_later()
        tried += 1
        refused += problem == ""
        slowest, most = max(slowest, (seconds, name)), max(most, (_peak(start) / 1024, name))
        if seconds > LONGEST:
            problem = f"took {seconds:.1f} s"
        if problem is None and name in traps and name not in door.fine:
            problem = "was read"
        if _listing(base) != before and not door.name.startswith("a run"):
            problem = "wrote something"
        if list((base / "here").iterdir()):
            problem = "wrote into the working directory"
        if problem:
            failures.append({"door": door.name, "input": name, "problem": problem})
    return {
        "tried": tried,
        "refused": refused,
        "seconds": round(time.perf_counter() - began, 1),
        "slowest": (round(slowest[0], 2), slowest[1]),
        "megabytes": (round(most[0]), most[1]),
    }


def _in_place(door: Door, base: Path, name: str = "", trap: Plant | None = None) -> None:
    """Write an input: a trap, or the valid files of which one is mutated as SEED/NUMBER says."""
    for folder in (base / "given", base / OUTSIDE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (base / OUTSIDE / "secret.png").write_bytes(b"secret")
    (base / OUTSIDE / "secret.csv").write_text("Image Index,Finding Labels,Patient ID\nsecret.png,Mass,1\n")
    door.plant(base / "given")
    if trap:
        trap(base / "given")
    elif name:
        rng = np.random.default_rng([*map(int, name.split("/")), zlib.crc32(door.name.encode())])
        files = sorted(path for path in (base / "given").rglob("*") if path.is_file())
        chosen = files[rng.integers(len(files))]
        chosen.write_bytes(door.mutate(rng, chosen.read_bytes()))


def _enter(door: Door, folder: Path) -> str | None:
    """Return None if the input was read, "" if it was refused correctly, otherwise what is wrong."""
    try:
        door.enter(folder)
    except PetechiaError as error:
        return _fault_of(str(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "petechia" in frame.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else f"{last.filename}:{last.lineno}"
        return f"{type(error).__name__} at {where}: {str(error)[:200]}"
    return None


def _fault_of(sentence: str) -> str:
    if "\n" in sentence or not sentence.strip() or sentence.rstrip()[-1] not in ".?":
        return f"not one sentence: {sentence[:300]!r}"
    if len(sentence) > LONGEST_SENTENCE:
        return f"a sentence of {len(sentence):,} characters: {sentence[:200]!r}"
    if PATIENT in sentence:
        return f"tells a patient's name: {sentence[:300]!r}"
    return ""


def _listing(base: Path) -> list[tuple[str, int]]:
    """Return names and sizes of all files except those of Petechia's own cache."""
    found = []
    for folder, folders, files in os.walk(base):
        folders[:] = [name for name in folders if name != "cache"]
        found += [(os.path.join(folder, name), os.lstat(os.path.join(folder, name)).st_size) for name in files]  # noqa: PTH118
    return sorted(found)


def _processes() -> list[int]:
    """This process and its workers, in which some files are decoded."""
    found = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            found += map(int, (task / "children").read_text().split())
    return found


def _kilobytes(key: str, process: int | str = "self") -> int:
    """Of a process, from the kernel; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{process}/status").read_text().split(f"{key}:")[1].split()[0])
    except (OSError, IndexError):
        return 0


def _peak(start: dict[int, int]) -> int:
    """Return the kilobytes that these processes, and new ones, took together beyond what they had at the start."""
    gone = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if start.keys() - set(_processes()) else 0
    return gone + sum(_kilobytes("VmHWM", process) - start.get(process, 0) for process in _processes())


def _cpu_seconds() -> float:
    """Return the CPU time of this process and its workers, those included that have ended."""
    used = os.times()
    seconds = used.user + used.system + used.children_user + used.children_system
    for process in _processes()[1:]:
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def _forget_peak() -> None:
    for process in _processes():
        with suppress(OSError):
            Path(f"/proc/{process}/clear_refs").write_text("5")


if __name__ == "__main__":
    faulthandler.enable()
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve(), sys.argv[4] if len(sys.argv) > 4 else None)
