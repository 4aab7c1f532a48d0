from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import petechia
from petechia.core.errors import PetechiaError
from petechia.data import Catalog
from petechia.detect.scan import reading
from petechia.detect.scan.reading import OnDisk, Traces, read_traces
from petechia.detect.scan.traces import trace
from tests.conftest import InMemory

Images = list[NDArray[np.uint8]]


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reading, "SHARD", 16)


class Counting(InMemory):
    """Counts the images that are read; some cannot be."""

    def __init__(self, images: Images, read: list[int], broken: set[int]) -> None:
        super().__init__(images)
        self.done, self.broken = read, broken

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        for row in rows.tolist():
            self.done.append(row)
            yield PetechiaError(f"image {row} is damaged") if row in self.broken else self.images[row]  # type: ignore[misc]


def catalog_of(reader: InMemory) -> Catalog:
    names = np.array([f"{row}.png" for row in range(len(reader))])
    return Catalog("x", ("A",), names, names, np.full(len(names), "train"), np.zeros((len(names), 1), np.int8), reader)


def images(count: int) -> Images:
    return list(np.random.default_rng(0).integers(0, 256, (count, 70, 66), np.uint8))


def assert_traces_of(found: Traces, given: Images) -> None:
    everything = np.arange(len(given))
    expected = [trace(image, row) for row, image in enumerate(given)]
    assert np.array_equal(found.blocks[everything], np.stack([one.blocks for one in expected]))
    assert np.array_equal(found.textures[everything[::-1]], np.stack([one.texture for one in expected])[::-1])
    assert found.shapes.tolist() == [[70, 66]] * len(given)
    spots = np.concatenate([one.spots for one in expected])
    table = found.spots.collect()
    for name in ("image", "row", "column", "height", "width", "contrast", "pattern"):
        assert np.array_equal(table[name].to_numpy(), spots[name])


def test_the_traces_of_all_shards_are_those_of_the_images() -> None:
    given = images(50)
    assert_traces_of(read_traces(catalog_of(InMemory(given))), given)


def test_a_scan_that_was_stopped_goes_on_after_the_last_whole_shard() -> None:
    given, done = images(50), list[int]()
    with pytest.raises(PetechiaError, match="image 40 is damaged"):
        read_traces(catalog_of(Counting(given, done, {40})))
    assert set(range(32)) <= set(done)
    done.clear()
    assert_traces_of(read_traces(catalog_of(Counting(given, done, set()))), given)
    assert sorted(done) == list(range(32, 50))


def test_what_could_not_be_read_is_tried_again() -> None:
    given, done = images(40), list[int]()
    broken = catalog_of(Counting(given, done, {3, 20}))
    assert read_traces(broken, "skip").unread == {3: "image 3 is damaged", 20: "image 20 is damaged"}
    done.clear()
    assert set(read_traces(broken, "skip").unread) == {3, 20}
    assert sorted(done) == [3, 20]  # and no other
    with pytest.raises(PetechiaError, match="image 3 is damaged"):
        read_traces(broken, "error")
    mended = catalog_of(Counting(given, done, {20}))
    assert set(read_traces(mended, "skip").unread) == {20}
    assert_traces_of(read_traces(catalog_of(Counting(given, done, set()))), given)


def test_changed_images_are_read_again() -> None:
    given = images(20)
    read_traces(catalog_of(InMemory(given)))
    given[17] = 255 - given[17]
    assert_traces_of(read_traces(catalog_of(InMemory(given))), given)


def test_rows_on_disk_are_those_of_the_array(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(23, 4, 5))
    for start in range(0, 23, 5):
        np.save(tmp_path / f"{start}.npy", array[start : start + 5])
    rows = OnDisk([tmp_path / f"{start}.npy" for start in range(0, 23, 5)], 5, 23)
    some = np.random.default_rng(1).integers(0, 23, 60)
    assert np.array_equal(rows[some], array[some])
    assert rows[some[:0]].shape == (0, 4, 5)
    assert len(rows) == 23


def test_shards_change_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = {"trigger": {"size": 3}, "rate": 0.1, "mode": "replace"}
    petechia.poison({"data": "phantom:images=200,size=96", "attack": attack}, tmp_path / "poisoned")
    tables = []
    for shard in (7, 1000):
        monkeypatch.setattr(reading, "SHARD", shard)
        result = petechia.scan(f"nih:{tmp_path / 'poisoned'}")
        assert result.tampered
        tables.append(result.suspects)
    assert isinstance(tables[0], pl.DataFrame)
    assert tables[0].equals(tables[1])
