import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import petechia
from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, Preprocess, open_source, preparation, prepare, shards
from petechia.data.cache import cache_folder
from petechia.data.shards import OnError, on_ray
from petechia.data.sources.arrays import ArrayReader, of_arrays
from tests.conftest import NihMaker
from tests.data.test_preparation import ROWS, Stopping
from tests.nodes import one_worker_lost, two_nodes

pytest.importorskip("ray", reason="Ray is not installed")

GEOMETRY = Preprocess(crop=0.8, size=24, resample="bilinear")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    yield from two_nodes()


@pytest.fixture(autouse=True)
def _small_shards_in_a_fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "SHARD", 16)


class Counted:
    def __init__(self) -> None:
        self.done = 0

    def phase(self, name: str, total: int = 0) -> None: ...

    def advance(self, count: int = 1) -> None:
        self.done += count


def by_hand(catalog: Catalog) -> NDArray[np.uint8]:
    images = catalog.reader.read(np.arange(len(catalog)))
    return np.stack([GEOMETRY(image) for image in images if not isinstance(image, PetechiaError)])


def entry() -> dict[str, bytes]:
    """The files of the one entry in the cache, which is removed from it."""
    (folder,) = cache_folder().glob("images-*")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.rename(folder.parent / "done")
    for path in (folder.parent / "done").iterdir():
        path.unlink()
    (folder.parent / "done").rmdir()
    return files


def test_two_nodes_prepare_the_bytes_that_one_process_prepares(address: str, make_nih: NihMaker) -> None:
    catalog = open_source(f"nih:{make_nih(ROWS, size=40)}")
    progress = Counted()
    dataset = prepare(catalog, GEOMETRY, progress=progress, read=on_ray(address)).dataset
    assert progress.done == len(ROWS)
    assert np.array_equal(dataset.images, by_hand(catalog))
    shared_out = entry()
    prepare(catalog, GEOMETRY)
    assert entry() == shared_out


@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_refused_images_are_named_as_by_one_process(address: str, make_nih: NihMaker, on_error: OnError) -> None:
    root = make_nih(ROWS, size=40)
    for row in (20, 33, 64):
        (root / "images" / ROWS[row][0]).write_bytes(b"nonsense")
    catalog = open_source(f"nih:{root}")
    if on_error == "error":
        told = []
        for read in (shards.on_this_machine, on_ray(address)):
            with pytest.raises(PetechiaError) as error:
                prepare(catalog, GEOMETRY, read=read)
            told.append(str(error.value))
        assert told[0] == told[1]
        assert ROWS[20][0] in told[0]
        assert not [one for one in cache_folder().iterdir() if one.suffix != ".lock"]
        return
    found = prepare(catalog, GEOMETRY, "skip", read=on_ray(address))
    assert [name in sentence for name, sentence in zip((ROWS[row][0] for row in (20, 33, 64)), found.skipped, strict=True)]
    assert found.catalog.not_read.images == 3
    assert np.array_equal(found.dataset.images, by_hand(catalog))
    shared_out = entry()
    assert prepare(catalog, GEOMETRY, "skip").skipped == found.skipped
    assert entry() == shared_out


def test_a_lost_worker_costs_a_shard(address: str) -> None:
    catalog = open_source("phantom:images=120,size=512")
    with one_worker_lost():
        dataset = prepare(catalog, GEOMETRY, read=on_ray(address)).dataset
    assert np.array_equal(dataset.images, by_hand(catalog))


def test_what_one_process_has_begun_a_cluster_ends(address: str, make_nih: NihMaker) -> None:
    catalog = open_source(f"nih:{make_nih(ROWS, size=40)}")

    with pytest.raises(KeyboardInterrupt):
        prepare(catalog, GEOMETRY, progress=Stopping())
    (begun,) = cache_folder().glob(".images-*.begun")
    assert len(list(begun.glob("part-*.json"))) == 3
    before = (begun / "images.u8").read_bytes()
    assert np.array_equal(prepare(catalog, GEOMETRY, read=on_ray(address)).dataset.images, by_hand(catalog))
    files = entry()
    assert files["images.u8"].startswith(before)
    assert set(files) == {"images.u8", "rows.npy", "shapes.npy", "entry.json"}


class OnlyHere(ArrayReader):
    """Images that other processes do not see."""

    def __init__(self, images: NDArray[np.uint8], process: int) -> None:
        super().__init__(images)
        self.process = process

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        seen = os.getpid() == self.process
        yield from super().read(rows) if seen else (PetechiaError("/data/1.png is missing; restore it.") for _ in rows)


@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_workers_that_do_not_see_the_files_are_told(address: str, on_error: OnError) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32), np.uint8)
    catalog = replace(of_arrays(images), reader=OnlyHere(images, os.getpid()))  # type: ignore[arg-type]
    with pytest.raises(
        PetechiaError, match=r"cannot read what this machine can \(/data/1.png is missing; restore it\); let it"
    ):
        prepare(catalog, GEOMETRY, on_error, read=on_ray(address))
    with pytest.raises(PetechiaError, match="cannot read what this machine can"):
        petechia.scan(catalog, on_error=on_error, ray=address)


def test_a_worker_with_another_version_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "__version__", "99.0")
    with pytest.raises(PetechiaError, match=r"has Petechia .*, and this machine 99\.0; install one version"):
        prepare(open_source("phantom:images=20,size=32"), GEOMETRY, read=on_ray(address))


class Locked(ArrayReader):
    """Images that cannot be sent to another process."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        super().__init__(images)
        self.lock = threading.Lock()


def test_images_that_one_process_alone_can_read_are_told(address: str) -> None:
    images = np.zeros((4, 32, 32), np.uint8)
    catalog = replace(of_arrays(images), reader=Locked(images))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pickle.dumps(catalog.reader)
    with pytest.raises(PetechiaError, match="can be read by this process alone; leave out --ray"):
        prepare(catalog, GEOMETRY, read=on_ray(address))


def test_run_and_poison_prepare_on_the_cluster_that_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ray, told in (("127.0.0.1:1", "There is no Ray cluster at 127.0.0.1:1"), ("auto", "install petechia[cluster]")):
        if ray == "auto":
            monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        for words in (["run", "--data", "phantom:images=160,size=32"], ["poison", "phantom:images=160,size=32"]):
            done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--ray", ray])
            assert done.exit_code == 1
            assert told in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()
