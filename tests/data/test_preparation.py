import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.data import Preprocess, open_source, prepare
from petechia.data.cache import cache_folder, cached
from petechia.data.formats.images import read_grey
from tests.conftest import NihMaker, Steps

ROWS = [(f"{i:08d}_000.png", "Mass" if i % 2 else "No Finding", str(i)) for i in range(70)]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "fresh"))
    return tmp_path / "fresh"


def test_prepared_images_are_the_decoded_and_resized_ones(make_nih: NihMaker) -> None:
    root = make_nih(ROWS, size=40)
    geometry = Preprocess(crop=0.8, size=12, resample="bilinear")
    dataset, catalog, skipped = prepare(open_source(f"nih:{root}"), geometry)
    assert skipped == ()
    assert dataset.images.shape == (70, 12, 12)
    assert dataset.images.dtype == np.uint8
    assert (dataset.shapes == 40).all()
    for row in (0, 33, 69):
        assert np.array_equal(dataset.images[row], geometry(read_grey(root / "images" / str(catalog.ids[row]))))
    assert np.array_equal(dataset.labels, catalog.labels)


def test_a_second_run_decodes_nothing(make_nih: NihMaker) -> None:
    catalog = open_source(f"nih:{make_nih(ROWS)}")
    seen = Steps()
    first = prepare(catalog, Preprocess(size=8), progress=seen).dataset.images
    assert sum(seen) == 70
    second = prepare(catalog, Preprocess(size=8), progress=seen).dataset.images
    assert sum(seen) == 70
    assert np.array_equal(first, second)
    prepare(catalog, Preprocess(size=9), progress=seen)
    assert sum(seen) == 140


def test_changed_files_are_prepared_again(make_nih: NihMaker) -> None:
    root = make_nih(ROWS)
    before = np.array(prepare(open_source(f"nih:{root}"), Preprocess(size=16)).dataset.images)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(root / "images" / "00000005_000.png")
    after = prepare(open_source(f"nih:{root}"), Preprocess(size=16)).dataset.images
    assert (after[5] == 0).all()
    assert np.array_equal(np.delete(before, 5, axis=0), np.delete(after, 5, axis=0))


def test_bad_images_stop_or_are_skipped_and_counted(make_nih: NihMaker, fresh_cache: Path) -> None:
    root = make_nih(ROWS)
    (root / "images" / "00000003_000.png").write_bytes(b"nonsense")
    path = root / "images" / "00000040_000.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PetechiaError, match=r"00000003_000\.png is not a PNG"):
        prepare(open_source(f"nih:{root}"), Preprocess(size=8))
    assert not [entry for entry in fresh_cache.iterdir() if entry.suffix != ".lock"]
    dataset, catalog, skipped = prepare(open_source(f"nih:{root}"), Preprocess(size=8), on_error="skip")
    assert len(dataset) == len(catalog) == 68
    assert len(skipped) == 2
    assert "00000040_000.png" in skipped[1]
    assert "00000003_000.png" not in dataset.ids
    assert np.array_equal(dataset.labels[:, 4], [i % 2 for i in range(70) if i not in (3, 40)])
    assert len(prepare(open_source(f"nih:{root}"), Preprocess(size=8), on_error="skip").skipped) == 2


def test_nothing_left_is_an_error(make_nih: NihMaker) -> None:
    root = make_nih(ROWS[:2])
    for name, _, _ in ROWS[:2]:
        (root / "images" / name).write_bytes(b"")
    with pytest.raises(PetechiaError, match="None of the 2 images can be used; the first problem: .*00000000_000"):
        prepare(open_source(f"nih:{root}"), Preprocess(size=8), on_error="skip")


def test_a_full_disk_leaves_nothing(make_nih: NihMaker, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(open_source(f"nih:{make_nih(ROWS)}"), Preprocess(size=8))
    assert not [entry for entry in fresh_cache.iterdir() if entry.suffix != ".lock"]


SLOW = """
import sys, time
from petechia.data import Preprocess, open_source, prepare
class Printed:
    def phase(self, name, total=0): pass
    def advance(self, count=1): print("x", flush=True)
prepare(open_source("phantom:images=3000,size=96"), Preprocess(size=64), progress=Printed())
"""


def test_a_killed_prepare_leaves_nothing_that_is_trusted(fresh_cache: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, env=os.environ | {"PETECHIA_CACHE": str(fresh_cache)}
    )
    assert process.stdout is not None
    for _ in range(300):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = [entry.name for entry in fresh_cache.iterdir() if entry.suffix != ".lock"]
    assert all(name.endswith(".partial") for name in left)
    seen = Steps()
    dataset = prepare(open_source("phantom:images=3000,size=96"), Preprocess(size=64), progress=seen).dataset
    assert sum(seen) == 3000
    assert dataset.images.shape == (3000, 64, 64)
    assert not [entry for entry in fresh_cache.iterdir() if entry.name.endswith(".partial")]


def _build_slowly(folder: Path) -> None:
    time.sleep(0.5)
    (folder / "made").write_text(str(os.getpid()))


def _cached(results: Any) -> None:
    results.put((cached("test", {"a": 1}, _build_slowly) / "made").read_text())


def test_two_processes_at_once_build_once(fresh_cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    processes = [context.Process(target=_cached, args=(results,)) for _ in range(3)]
    for process in processes:
        process.start()
    makers = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(makers) == 1
    assert cache_folder() == fresh_cache


def test_in_parallel_keeps_the_order_and_stops_at_an_error() -> None:
    def double(rows: NDArray[np.intp]) -> list[int]:
        time.sleep(0.001 * float(np.random.default_rng(int(rows[0])).random()))
        return [2 * int(row) for row in rows]

    assert list(in_parallel(double, 1000)) == list(range(0, 2000, 2))
    assert list(in_parallel(double, 0)) == []

    def fail(rows: NDArray[np.intp]) -> list[int]:
        if 500 in rows:
            raise PetechiaError("bad row")
        return [0] * len(rows)

    with pytest.raises(PetechiaError, match="bad row"):
        list(in_parallel(fail, 1000))


def test_memory_is_bounded_while_preparing() -> None:
    """Only a few images wait for the writer at a time, however slow it is."""
    alive = 0
    most = 0

    def work(rows: NDArray[np.intp]) -> list[int]:
        nonlocal alive, most
        alive += len(rows)
        most = max(most, alive)
        return [0] * len(rows)

    def consume(items: Iterator[int]) -> None:
        nonlocal alive
        for _ in items:
            alive -= 1

    consume(in_parallel(work, 20_000))
    assert most < 1000


def test_an_empty_catalog_is_an_error(make_nih: NihMaker) -> None:
    catalog = open_source(f"nih:{make_nih(ROWS)}")
    with pytest.raises(PetechiaError, match="has no images"):
        prepare(replace(catalog, ids=catalog.ids[:0]), Preprocess())
