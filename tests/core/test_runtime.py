import numpy as np
import pytest
import torch

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute, Runtime


def test_images_become_tensors() -> None:
    runtime = Compute(device="cpu").start()
    grey = np.random.default_rng(0).integers(0, 256, (2, 4, 5), dtype=np.uint8)
    colour = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    assert runtime.tensor(grey).shape == (2, 1, 4, 5)
    assert runtime.tensor(colour).shape == (2, 3, 4, 5)
    assert float(runtime.tensor(colour)[1, 2, 3, 4]) == pytest.approx(colour[1, 3, 4, 2] / 255)


def test_threads_and_precision_are_set() -> None:
    before = torch.get_num_threads()
    assert not Compute(threads=1, precision="fp32", device="cpu").start().bf16
    assert torch.get_num_threads() == 1
    assert Compute(threads=before, precision="bf16", device="cpu").start().bf16
    assert torch.get_num_threads() == before


def test_a_device_that_is_not_there_is_an_error() -> None:
    for name in ("cuda:77", "quantum"):
        with pytest.raises(PetechiaError, match=f"compute.device is '{name}'"):
            Compute(device=name).start()


def test_without_torchrun_there_is_one_process_that_waits_for_nobody() -> None:
    runtime = Compute(device="cpu").start()
    assert (runtime.rank, runtime.world_size, runtime.is_main) == (0, 1, True)
    values, entries = torch.ones(2), np.arange(5)
    assert runtime.sum(values) is values
    assert runtime.broadcast(entries) is entries
    assert runtime.share(entries).tolist() == [0, 1, 2, 3, 4]
    module = torch.nn.BatchNorm2d(3)
    assert runtime.replicate(module) is module
    runtime.barrier()
    with runtime.main_first():
        pass
    with pytest.raises(KeyError), runtime.main_first():
        raise KeyError
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 10, 23])
def test_batches_are_dealt_out_the_same_for_any_number_of_processes(count: int, world_size: int) -> None:
    machines = [Runtime(torch.device("cpu"), False, rank, world_size) for rank in range(world_size)]
    dealt = [list(runtime.batches(count, 4)) for runtime in machines]
    rounds = list(zip(*dealt, strict=True))
    batches = [rows.tolist() for several in rounds for rows, _ in several if len(rows)]
    assert batches == [list(range(start, min(start + 4, count))) for start in range(0, count, 4)]
    assert all(together == sum(len(rows) for rows, _ in several) for several in rounds for _, together in several)
    shares = [runtime.share(np.arange(count)) for runtime in machines]
    assert np.concatenate(shares).tolist() == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def _pretend(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    places = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
    for name, value in (places | {"MASTER_ADDR": "localhost", "MASTER_PORT": 1}).items():
        monkeypatch.setenv(name, str(value))


def test_torchrun_with_one_process_is_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, 0, 1)
    assert Compute(device="cpu").start().world_size == 1
    assert not torch.distributed.is_initialized()


def test_devices_that_processes_cannot_share_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, 1, 3)
    with pytest.raises(PetechiaError, match="compute.device is 'cuda:1', which 3 processes cannot share; choose auto"):
        Compute(device="cuda:1").start()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(PetechiaError, match="3 processes were started on 2 GPUs"):
        Compute(device="cuda").start()
