"""Jobs that are killed, interrupted or run out of space end with the same files as undisturbed jobs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TORTURE
from tests.torture.crash import JOBS, Done, Nursery, content

KILLS = (
    {"prepare": 8, "run": 20, "poison": 8, "reproduce": 14}
    if TORTURE
    else {"prepare": 2, "run": 3, "poison": 2, "reproduce": 1}
)
RACES = 20 if TORTURE else 1
INTERRUPTS = 12 if TORTURE else 2
DECADE = 315_000_000

Whole = tuple[Done, dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """How an undisturbed job ends."""
    known: dict[str, Whole] = {}

    def of(job: str) -> Whole:
        if job not in known:
            folder = tmp_path_factory.mktemp("whole")
            done = nursery.do(job, folder)
            assert done.status == 0, done.said
            known[job] = done, content(folder)
        return known[job]

    return of


def finish(nursery: Nursery, job: str, folder: Path, whole: Whole, **limits: int) -> None:
    """Resume the job to its end, and compare."""
    if job != "poison" or not (folder / "out").exists():  # which is never half there, and never overwritten
        done = nursery.do(job, folder, **limits)
        assert done.status == 0, done.said
    assert same(content(folder), whole[1])


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    assert found.keys() == wanted.keys()
    differ = [name for name in wanted if found[name] != wanted[name] and not name.startswith("out/environment")]
    assert not differ, differ
    return True


@pytest.mark.parametrize("job", KILLS)
def test_killed_at_any_moment(
    job: str, nursery: Nursery, undisturbed: Callable[[str], Whole], tmp_path: Path, figures: list[str]
) -> None:
    """Half of the kills at a random time, half just before a file is touched; up to three in one life, then to the end."""
    whole = undisturbed(job)
    rng = np.random.default_rng(time.time_ns() if TORTURE else 0)
    killed = lives = 0
    began = time.perf_counter()
    while killed < KILLS[job]:
        lives += 1
        assert lives <= 3 * KILLS[job]
        folder = tmp_path / str(lives)
        for _ in range(rng.integers(1, 4)):
            if rng.random() < 0.5:
                done = nursery.do(job, folder, kill_at=int(rng.integers(1, whole[0].touched + 1)))
            else:
                done = nursery.do(job, folder, kill_after=float(rng.uniform(0, whole[0].seconds)))
            killed += done.signal == 9
            assert done.signal == 9 or done.status == 0 or "exists already" in done.said, done.said
        for path in folder.rglob("*"):  # as if the clock had been ten years ahead
            os.utime(path, (time.time() + DECADE,) * 2)
        finish(nursery, job, folder, whole, jump=int(rng.integers(-DECADE, DECADE)))
        shutil.rmtree(folder)
    figures.append(f"{job}: {killed} kills survived in {lives} lives, {time.perf_counter() - began:.0f} s")


def test_four_processes_prepare_the_same_cache_at_once(
    nursery: Nursery, undisturbed: Callable[[str], Whole], tmp_path: Path
) -> None:
    _, wanted = undisturbed("prepare")
    done = nursery.do("prepare at once", tmp_path)
    assert done.status == 0, done.said
    assert same(content(tmp_path), wanted)


@pytest.mark.parametrize("job", ["poison", "run"])
def test_of_processes_with_one_folder_one_wins(
    job: str, nursery: Nursery, undisturbed: Callable[[str], Whole], tmp_path: Path, figures: list[str]
) -> None:
    _, wanted = undisturbed(job)
    for lap in range(RACES):
        done = nursery.do(f"{job} at once", tmp_path / str(lap))
        assert done.status == 0, done.said
        assert "Traceback" not in done.said, done.said
        refusals = " ".join(done.said.split()).split("Error:")[1:]
        assert len(refusals) == 2
        assert all("Another process is" in said or " already" in said for said in refusals), done.said
        assert same(content(tmp_path / str(lap)), wanted)
    figures.append(f"races for one folder, {job}: {RACES}, each won by one of 3 processes")


def test_interrupted(nursery: Nursery, undisturbed: Callable[[str], Whole], tmp_path: Path, figures: list[str]) -> None:
    """Ctrl-C prints one sentence and leaves nothing half-written."""
    rng = np.random.default_rng(1)
    stopped = 0
    for number in range(INTERRUPTS):
        job = ("run", "poison", "reproduce")[number % 3]
        whole = undisturbed(job)
        folder = tmp_path / str(number)
        done = nursery.do(job, folder, interrupt=int(rng.uniform(50, 900 * whole[0].seconds)))
        assert "Traceback" not in done.said, done.said
        assert done.status == 0 or (done.status == 130 and "Interrupted; what was finished is kept." in done.said), done.said
        stopped += done.status == 130
        assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]
        finish(nursery, job, folder, whole)
    figures.append(f"interrupted: {stopped} of {INTERRUPTS}")


def refused_for_want_of_room(done: Done) -> None:
    assert done.status == 1, done.said
    assert "Traceback" not in done.said, done.said
    said = " ".join(done.said.split())
    assert "or choose another folder" in said, said
    assert "None" not in said.rpartition("Error:")[2], said


@pytest.mark.parametrize("job", ["run", "poison"])
@pytest.mark.parametrize("largest", [0, 200, 2000, 30_000] if TORTURE else [2000])
def test_a_full_disk(job: str, largest: int, nursery: Nursery, undisturbed: Callable[[str], Whole], tmp_path: Path) -> None:
    """No file can grow beyond a size: writing fails as on a full disk."""
    whole = undisturbed(job)
    refused_for_want_of_room(nursery.do(job, tmp_path, largest=largest))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]
    finish(nursery, job, tmp_path, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk can only be mounted by root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("job", ["run", "poison"])
def test_a_disk_that_is_really_full(job: str, nursery: Nursery, undisturbed: Callable[[str], Whole], small_disk: Path) -> None:
    whole = undisturbed(job)
    refused_for_want_of_room(nursery.do(job, small_disk))
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".partial")]
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    finish(nursery, job, small_disk, whole)


@pytest.mark.parametrize("job", ["run", "poison", "reproduce"])
def test_a_folder_that_cannot_be_written(job: str, nursery: Nursery) -> None:
    """Root may write anywhere, so the job drops its privileges."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        limits = {"user": 65534} if os.getuid() == 0 else {}
        refused_for_want_of_room(nursery.do(job, folder, **limits))
        assert list(folder.iterdir()) == []
        folder.chmod(0o755)


def test_every_job_is_tried() -> None:
    assert set(JOBS) == {*KILLS, "new run", *(f"{job} at once" for job in ("prepare", "poison", "run"))}
