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
from petechia.data import Preprocess, Reader, open_source, preparation, prepare
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
import sys
from petechia.data import Preprocess, open_source, preparation, prepare
preparation.SHARD = 64
class Printed:
    def phase(self, name, total=0): pass
    def advance(self, count=1): print("x", flush=True)
prepare(open_source("phantom:images=3000,size=96"), Preprocess(size=64), progress=Printed())
"""


class Stopping(Steps):
    """Ctrl-C at the sixtieth image."""

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        if sum(self) == 60:
            raise KeyboardInterrupt


class Noting:
    """A reader that notes which images it decodes."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.rows = reader, list[int]()

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        self.rows += rows.tolist()
        return self.reader.read(rows)

    def take(self, rows: NDArray[np.intp]) -> Any:
        return self.reader.take(rows)

    def fingerprint(self) -> str:
        return self.reader.fingerprint()


def test_a_killed_prepare_goes_on_after_its_last_whole_shard(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD", 64)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, env=os.environ | {"PETECHIA_CACHE": str(fresh_cache)}
    )
    assert process.stdout is not None
    for _ in range(300):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (begun,) = (entry for entry in fresh_cache.iterdir() if entry.suffix != ".lock")
    assert begun.name.endswith(".begun")
    whole = len(list(begun.glob("part-*.json")))
    assert 4 <= whole < 46
    with (begun / "images.u8").open("ab") as file:
        file.write(b"a shard that was written in part")
    seen = Steps()
    catalog = open_source("phantom:images=3000,size=96")
    noting = Noting(catalog.reader)
    dataset = prepare(replace(catalog, reader=noting), Preprocess(size=64), progress=seen).dataset
    assert sum(seen) == 3000
    assert sorted(noting.rows) == list(range(64 * whole, 3000))
    rows = np.array([0, 63, 64, 64 * whole - 1, 64 * whole, 2999])
    drawn = [Preprocess(size=64)(image) for image in catalog.reader.read(rows) if not isinstance(image, PetechiaError)]
    assert np.array_equal(dataset.images[rows], drawn)
    assert [entry for entry in fresh_cache.iterdir() if entry.suffix != ".lock"] == list(fresh_cache.glob("images-*"))


def test_what_was_begun_long_ago_is_removed_by_the_next_preparation(
    fresh_cache: Path, make_nih: NihMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = open_source(f"nih:{make_nih(ROWS)}")
    monkeypatch.setattr(preparation, "SHARD", 16)
    for size in (8, 9):
        with pytest.raises(KeyboardInterrupt):
            prepare(catalog, Preprocess(size=size), progress=Stopping())
    old, new = sorted(fresh_cache.glob(".images-*.begun"), key=lambda path: path.stat().st_mtime_ns)
    os.utime(old, (0, time.time() - 15 * 24 * 3600))
    prepare(catalog, Preprocess(size=10))
    assert list(fresh_cache.glob(".images-*.begun")) == [new]


def test_a_folder_that_others_could_write_is_not_gone_on_with(
    fresh_cache: Path, make_nih: NihMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = open_source(f"nih:{make_nih(ROWS)}")
    monkeypatch.setattr(preparation, "SHARD", 16)
    with pytest.raises(KeyboardInterrupt):
        prepare(catalog, Preprocess(size=8), progress=Stopping())
    (begun,) = fresh_cache.glob(".images-*.begun")
    with (begun / "images.u8").open("r+b") as file:
        file.write(bytes(64))  # the first image
    begun.chmod(0o777)
    assert prepare(catalog, Preprocess(size=8)).dataset.images[0].any()


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
