"""Training on two processes gives the same result as on one. This file is also the program that torchrun starts."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, distributed

import petechia
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess, Selection
from petechia.models.model import Architecture, Model, create
from petechia.models.scoring import predict
from petechia.models.training import Labelled, Trainer, Training

Numbers = dict[str, NDArray[Any]]

COUNT, PROCESSES, TIME_LIMIT = 203, 2, 120  # 203 images are 7 batches of 29, which two processes cut into 15 and 14
COMPUTE = Compute(device="cpu", precision="fp32", threads=1)
TRAININGS = {
    "plateau": {"schedule": "plateau", "flip": True, "rotate": 10, "class_weights": "frequency"},
    "papers": {"loss": "sigmoid-cce", "rotate": 5},
}


class Precise(Model):
    """Computes in float64. In float32, another order of summation can flip a ReLU, and the networks drift apart from there."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images.double() - self.mean) / self.std)
        return logits


class Watched(Selection):
    """Records what was read."""

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        self.__dict__.setdefault("seen", []).append(rows)
        return super().__getitem__(rows)


def labelled(count: int, seed: int) -> Labelled:
    """Images in which class A is bright and B is dark; C is noise; a tenth of the labels is unknown."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < 0.4).astype(np.int8)
    images = rng.integers(100, 140, (count, 32, 32)).astype(np.int16)
    images += 30 * labels[:, 0, None, None] - 30 * labels[:, 1, None, None]
    labels[rng.random((count, 3)) < 0.1] = -1
    return Labelled(Watched(images.astype(np.uint8), np.arange(count)), labels)


class Steps(list[int]):
    """A progress that keeps by how many steps it was advanced. Its own, since torchrun starts this file as a script."""

    def phase(self, name: str, total: int = 0) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        self.append(count)


def train(runtime: Runtime, kind: str, path: Path) -> Numbers:
    """Train two epochs; the main process saves the model."""
    data, validation, test = labelled(COUNT, 0), labelled(300, 1), labelled(300, 2)
    single = create(Architecture(arch="test_resnet"), ("A", "B", "C"), Preprocess(size=32), 0)
    model = Precise(single.network, single.description).double()
    settings = Training.model_validate({"epochs": 2, "batch_size": 32, **TRAININGS[kind]})
    trainer = Trainer(model, data, settings, runtime, 5, validation)
    told = Steps()
    logs = [trainer.run_epoch(told) for _ in range(2)]
    scores = predict(model, test.images, runtime, told)
    if runtime.is_main:
        model.save(path / f"{kind}-{runtime.world_size}.safetensors")
    seen = data.images.__dict__["seen"]
    return {
        "order": np.concatenate(seen),
        "sizes": np.array([len(rows) for rows in seen]),
        "loss": np.array([log.loss for log in logs]),
        "validation_loss": np.array([log.validation_loss for log in logs]),
        "images": np.array([log.images for log in logs]),
        "told": np.array(sum(told)),
        "scores": scores,
        "weights": np.concatenate([tensor.double().flatten().numpy() for tensor in model.state_dict().values()]),
    }


def compare_batch_norm(runtime: Runtime) -> Numbers:
    """Largest difference of a network with normalised activations from the same network on the whole batch in one process."""
    torch.manual_seed(0)
    whole = timm.create_model("test_efficientnet", num_classes=3, in_chans=1).double().train()
    images, factors = torch.rand(7, 1, 32, 32).double() + 5, torch.randn(7, 3)
    parts = copy.deepcopy(whole)
    replica = runtime.replicate(parts)
    mine = torch.from_numpy(runtime.share(np.arange(7)))
    together, shared = whole(images), replica(images[mine])
    (together * factors).sum().backward()
    ((shared * factors[mine]).sum() * runtime.world_size).backward()
    assert list(whole.state_dict()) == list(parts.state_dict())
    gradients = [[parameter.grad for parameter in network.parameters()] for network in (whole, parts)]
    states = zip(whole.state_dict().values(), parts.state_dict().values(), strict=True)
    return {
        "outputs": (together[mine] - shared).abs().max().detach().numpy(),
        "gradients": np.array([float((a - b).abs().max()) for a, b in zip(*gradients, strict=True)]),
        "statistics": np.array([(a - b).abs().max().item() for a, b in states]),
        "evaluation": (whole.eval()(images) - parts.eval()(images)).abs().max().detach().numpy(),
    }


def wait_for_each_other(runtime: Runtime, folder: Path) -> Numbers:
    """Which process found the main process's file, what that one broadcast, and how its failure affects the others."""
    with runtime.main_first():
        found = (folder / "prepared").exists()
        time.sleep(0.3)
        (folder / "prepared").touch()
    said = runtime.broadcast({"rank": runtime.rank})["rank"]
    failure = "nothing"
    try:
        with runtime.main_first():
            raise KeyError
    except (KeyError, PetechiaError) as error:
        failure = type(error).__name__
    return {"found": np.array(found), "said": np.array(said), "failure": np.array(failure)}


def work(folder: Path) -> dict[str, Numbers]:
    """Everything that each process does."""
    runtime = COMPUTE.start()
    results = {kind: train(runtime, kind, folder) for kind in TRAININGS}
    if runtime.world_size > 1:
        results["norm"] = compare_batch_norm(runtime)
        results["wait"] = wait_for_each_other(runtime, folder)
    return results


def main(folder: Path) -> None:
    """The program that torchrun starts."""
    results = work(folder)
    flat = {f"{part}.{name}": values for part, numbers in results.items() for name, values in numbers.items()}
    np.savez(folder / f"rank-{distributed.get_rank()}.npz", **flat)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Numbers]:
    """The results of one process, namely this one."""
    threads = torch.get_num_threads()
    results = work(folder)
    torch.set_num_threads(threads)
    return results


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Numbers]]:
    """The results of each of two processes."""
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo, so processes cannot work together")
    _torchrun(folder)
    found = []
    for rank in range(PROCESSES):
        results: dict[str, Numbers] = {}
        with np.load(folder / f"rank-{rank}.npz") as file:
            for key in file.files:
                part, name = key.split(".")
                results.setdefault(part, {})[name] = file[key]
        found.append(results)
    return found


def _torchrun(folder: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen([*command, __file__, str(folder)], stdout=file, stderr=file)
        try:
            code = process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun then ends the processes that it started
            process.wait(60)
            raise
    assert code == 0, log.read_text()
    assert "Warning" not in log.read_text()


@pytest.mark.parametrize("kind", TRAININGS)
def test_images_come_in_the_same_order(kind: str, alone: dict[str, Numbers], ranks: list[dict[str, Numbers]]) -> None:
    cuts = [np.split(rank[kind]["order"], np.cumsum(rank[kind]["sizes"])[:-1]) for rank in ranks]
    together = np.concatenate([rows for batch in zip(*cuts, strict=True) for rows in batch])
    assert together.tolist() == alone[kind]["order"].tolist()
    assert [rank[kind]["sizes"].tolist() for rank in ranks] == [[15] * 14, [14] * 14]


@pytest.mark.parametrize("kind", TRAININGS)
def test_two_processes_train_what_one_trains(kind: str, alone: dict[str, Numbers], ranks: list[dict[str, Numbers]]) -> None:
    one = alone[kind]
    truth = labelled(300, 2).labels[:, 1]
    auroc = roc_auc_score(truth[truth >= 0], one["scores"][truth >= 0, 1])
    assert auroc > 0.8
    for several in (rank[kind] for rank in ranks):
        assert np.allclose(several["weights"], one["weights"], atol=1e-5)
        assert np.allclose(several["scores"], one["scores"], atol=1e-6)
        assert np.allclose(several["loss"], one["loss"], rtol=1e-6)
        assert np.allclose(several["validation_loss"], one["validation_loss"], rtol=1e-6)
        assert roc_auc_score(truth[truth >= 0], several["scores"][truth >= 0, 1]) == pytest.approx(auroc, abs=1e-3)
        assert several["images"].tolist() == [COUNT, COUNT]
        assert several["told"] == one["told"] == 2 * COUNT + 300


@pytest.mark.parametrize("kind", TRAININGS)
def test_processes_agree_to_the_last_bit(kind: str, ranks: list[dict[str, Numbers]]) -> None:
    first, second = (rank[kind] for rank in ranks)
    for name in ("weights", "scores", "loss", "validation_loss"):
        assert np.array_equal(first[name], second[name]), name


@pytest.mark.parametrize("kind", TRAININGS)
def test_what_several_processes_saved_is_a_model_like_any(kind: str, folder: Path, ranks: list[dict[str, Numbers]]) -> None:
    runtime = COMPUTE.start()
    model = runtime.to_device(Model.load(folder / f"{kind}-{PROCESSES}.safetensors"))
    assert np.allclose(predict(model, labelled(300, 2).images, runtime), ranks[0][kind]["scores"], atol=1e-4)


def test_batch_norm_with_its_activation_sees_the_whole_batch(ranks: list[dict[str, Numbers]]) -> None:
    for rank in ranks:
        assert rank["norm"].keys() == {"outputs", "gradients", "statistics", "evaluation"}
        assert all(differences.max() < 1e-9 for differences in rank["norm"].values()), rank["norm"]


def test_the_main_process_goes_first_and_its_word_counts(ranks: list[dict[str, Numbers]]) -> None:
    assert [bool(rank["wait"]["found"]) for rank in ranks] == [False, True]
    assert [int(rank["wait"]["said"]) for rank in ranks] == [0, 0]
    assert [str(rank["wait"]["failure"]) for rank in ranks] == ["KeyError", "PetechiaError"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))


def test_a_whole_run_under_torchrun_is_that_of_one_process(tmp_path: Path) -> None:
    # A network without rectifiers, so that rounding does not grow; see the docstring of Trainer.
    settings = ["model.arch=test_vit", "preprocess.size=32", "train.epochs=2", "train.batch_size=16", "bootstrap=20"]
    options = [*(part for one in settings for part in ("--set", one)), "--set", "compute={threads: 1, precision: fp32}"]
    run = ["-m", "petechia", "run", "--data", "phantom:images=160,size=32", *options, "--out"]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *run, str(tmp_path / "two")]
    for command in ([*run, str(tmp_path / "one")], together):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Report:") == 1  # of two processes one talks
    one, two = (pl.read_parquet(tmp_path / name / "poison.parquet") for name in ("one", "two"))
    assert one.equals(two)
    one, two = (pl.read_parquet(tmp_path / name / "metrics.parquet") for name in ("one", "two"))
    assert one.drop("value", "low", "high").equals(two.drop("value", "low", "high"))
    assert np.allclose(one["value"].fill_null(-1), two["value"].fill_null(-1), atol=1e-3)
    assert (tmp_path / "two" / "report.html").is_file()


def test_a_grid_is_not_for_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(PetechiaError, match="distribute the runs of a study with --ray"):
        petechia.run_study({"grid": {"attack.rate": [0.1]}}, tmp_path / "study")
