from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import petechia
from petechia.core.errors import PetechiaError
from petechia.study import cluster as on_cluster
from petechia.study.study import Study
from tests.conftest import SMALL
from tests.nodes import one_worker_lost, two_nodes
from tests.study.test_runner import Recorder, without_seconds

ray = pytest.importorskip("ray", reason="Ray is not installed")
GRID: dict[str, Any] = SMALL | {
    "arms": ["attacked"],
    "train": {"epochs": 2, "batch_size": 16},
    "compute": {"threads": 1},
    "grid": {"attack.rate": [0.2, 0.4]},
}
LONG = GRID | {"train": {"epochs": 12, "batch_size": 16}}  # long enough to be killed in


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    yield from two_nodes()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return petechia.run_study(GRID, tmp_path_factory.mktemp("local") / "study")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return petechia.run_study(LONG, tmp_path_factory.mktemp("long") / "study")


def assert_same(first: Study, second: Study) -> None:
    assert second.failures == {}
    assert set(first.runs) == set(second.runs)
    for name, run in first.runs.items():
        assert without_seconds(run.directory.path) == without_seconds(second.runs[name].directory.path)


def test_a_study_on_two_nodes_is_the_study_of_one_process(
    address: str, local: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))  # so that the nodes prepare the images, too
    recorder = Recorder()
    shared_out = petechia.run_study(GRID, tmp_path / "study", progress=recorder, ray=address)
    assert_same(local, shared_out)
    assert len(recorder.epochs) == 4
    assert {epoch.run for epoch in recorder.epochs} == set(local.runs)


def test_workers_that_do_not_see_the_folder_send_their_files_home(
    address: str, local: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_cluster, "write_text", lambda *_: None)  # so no worker finds the mark
    assert_same(local, petechia.run_study(GRID, tmp_path / "study", ray=address))
    assert len(list((tmp_path / "study" / "networks").glob("*/epoch-02.safetensors"))) == 2


@pytest.mark.parametrize("seen", [True, False])
def test_what_a_killed_worker_has_finished_is_not_lost(
    seen: bool, address: str, long: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not seen:
        monkeypatch.setattr(on_cluster, "write_text", lambda *_: None)
    folder = tmp_path / "study"
    recorder = Recorder()
    with one_worker_lost(lambda: any((folder / "networks").glob("*/epoch-03.safetensors"))):
        study = petechia.run_study(LONG, folder, progress=recorder, ray=address)
    assert any("was lost" in note for note in recorder.notes)
    assert_same(long, study)
    assert len(recorder.epochs) <= 24 + 1  # at most one epoch is reported twice: the one reported when the worker died


def test_a_run_that_fails_on_a_worker_is_told_and_the_others_go_on(address: str, tmp_path: Path) -> None:
    config = GRID | {"train": {"epochs": 1, "batch_size": 16}, "grid": {"train.lr": [1e-3, 1e30]}}
    study = petechia.run_study(config, tmp_path / "study", ray=address)
    assert list(study.runs) == ["lr-0.001"]
    assert "The loss is" in study.failures["lr-1e-30"]


@pytest.mark.parametrize(
    ("compute", "least"),
    [
        ({"gpu_share": 0.25, "device": "cpu"}, 0.5),  # both networks at a time, a quarter each
        ({"gpu_share": "auto"}, 0.75),  # what needs nothing of a GPU gets the least part, an eighth
        ({"gpu_share": "auto", "device": "cpu"}, 1),
    ],
)
def test_networks_share_a_gpu(tmp_path: Path, compute: dict[str, Any], least: float) -> None:
    Cluster = pytest.importorskip("ray.cluster_utils").Cluster  # noqa: N806
    free = set()

    class Watching(Recorder):
        def advance(self, count: int = 1) -> None:
            free.add(ray.available_resources().get("GPU", 0))

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False})
    try:
        config = LONG | {"compute": {"threads": 1} | compute}
        study = petechia.run_study(config, tmp_path / "study", progress=Watching(), ray=nodes.address)
    finally:
        nodes.shutdown()
    assert study.failures == {}
    assert min(free) == least


def test_ray_that_is_not_there_is_told_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for nowhere in ("127.0.0.1:1", "127.0.0.1", "127.0.0.1:99999999"):
        with pytest.raises(PetechiaError, match=f"There is no Ray cluster at {nowhere}"):
            petechia.run_study(GRID, tmp_path / "study", ray=nowhere)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(PetechiaError, match=r"install petechia\[cluster\]"):
        petechia.run_study(GRID, tmp_path / "study", ray="auto")
    assert not (tmp_path / "study").exists()
