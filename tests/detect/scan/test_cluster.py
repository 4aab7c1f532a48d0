from collections.abc import Iterator
from pathlib import Path

import pytest

import petechia
from petechia.core.errors import PetechiaError
from petechia.data.cache import cache_folder
from petechia.detect.scan import ScanResult, reading
from tests.nodes import one_worker_lost, two_nodes

pytest.importorskip("ray", reason="Ray is not installed")

IMAGES = "phantom:images=240,size=128"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    yield from two_nodes()


@pytest.fixture(autouse=True)
def _small_shards_in_a_fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reading, "SHARD", 20)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poisoned") / "copy"
    attack = {"trigger": {"size": 3}, "rate": 0.1, "mode": "replace"}
    petechia.poison({"data": IMAGES, "attack": attack}, folder)
    return folder


@pytest.fixture(scope="module")
def local(poisoned: Path) -> ScanResult:
    return petechia.scan(f"nih:{poisoned}")


class Counted:
    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.done = 0

    def phase(self, name: str, total: int = 0) -> None:
        self.phases.append((name, total))

    def advance(self, count: int = 1) -> None:
        if len(self.phases) == 1:
            self.done += count


def assert_same(one: ScanResult, other: ScanResult) -> None:
    assert one == other
    assert one.suspects.equals(other.suspects)


def test_a_scan_on_two_nodes_finds_what_one_process_finds(address: str, poisoned: Path, local: ScanResult) -> None:
    progress = Counted()
    assert local.tampered
    assert_same(local, petechia.scan(f"nih:{poisoned}", ray=address, progress=progress))
    assert progress.phases[0] == ("looking at images", 240)
    assert progress.done == 240


def test_a_lost_worker_costs_a_shard(address: str) -> None:
    source = "phantom:images=160,size=512"
    with one_worker_lost():
        shared_out = petechia.scan(source, ray=address)
    assert_same(petechia.scan(source), shared_out)


def test_what_a_cluster_has_read_is_not_read_again(address: str, poisoned: Path, local: ScanResult) -> None:
    petechia.scan(f"nih:{poisoned}", ray=address)
    entries = {folder: folder.stat().st_mtime_ns for folder in cache_folder().glob("traces-*")}
    assert len(entries) == 12
    assert_same(local, petechia.scan(f"nih:{poisoned}"))
    assert {folder: folder.stat().st_mtime_ns for folder in cache_folder().glob("traces-*")} == entries


def test_an_image_that_a_worker_cannot_decode_is_told(address: str, poisoned: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted((poisoned / "images").iterdir())[:30]):
        copy = tmp_path / "classes" / "AB"[number % 2] / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes() if number != 7 else file.read_bytes()[:200])
    source = f"folder:{tmp_path / 'classes'}"
    with pytest.raises(PetechiaError, match=copy.parent.parent.name):
        petechia.scan(source, ray=address)
    assert petechia.scan(source, ray=address, on_error="skip").unread == 1


def test_ray_that_is_not_there_is_told_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PetechiaError, match="There is no Ray cluster at 127.0.0.1:1"):
        petechia.scan(IMAGES, ray="127.0.0.1:1")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(PetechiaError, match=r"install petechia\[cluster\]"):
        petechia.scan(IMAGES, ray="auto")
    assert not list(cache_folder().glob("traces-*"))
