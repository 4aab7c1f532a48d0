import gc
from collections.abc import Callable
from typing import TypeVar
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.graphs import MOST, REHEARSALS, CudaRecorder, Piecewise, Recorder, Replayed, keeps_tensors
from petechia.core.runtime import Compute
from tests.core.rerunning import Rerunning

T = TypeVar("T")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def both(a: Tensor, b: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    return a + b, [a * b, None]


def device_recorders() -> list[object]:
    return [pytest.param(Rerunning, "cpu", id="stand-in"), pytest.param(_of_cuda, "cuda", id="cuda", marks=NEEDS_GPU)]


def _of_cuda() -> Recorder:
    return CudaRecorder(torch.device("cuda"))


@pytest.mark.parametrize(("recorder", "device"), device_recorders())
def test_work_is_rehearsed_recorded_and_replayed_for_each_shape(recorder: Callable[[], Recorder], device: str) -> None:
    calls = []

    def work(a: Tensor, b: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        calls.append(len(a))
        return both(a, b)

    replayed = Replayed(work, recorder(), "adding")
    for number in range(8):
        for size in (3, 4):
            a, b = (torch.full((size,), float(number + extra), device=device) for extra in (0, 1))
            total, (product, nothing) = replayed(a, b)
            assert product is not None
            assert nothing is None
            assert total.tolist() == [2 * number + 1] * size
            assert product.tolist() == [number * (number + 1)] * size
    assert {key[0][0] for key in replayed.recordings} == {(3,), (4,)}
    if device == "cuda":
        assert len(calls) == 2 * (REHEARSALS + 1)  # a replay does not come back to Python


def test_without_a_recorder_the_work_is_done_as_it_is() -> None:
    replayed = Replayed(both, None, "adding")
    first, again = (replayed(torch.ones(2), torch.ones(2))[0] for _ in range(2))
    assert first is not again


def test_work_that_cannot_be_recorded_is_done_step_by_step_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Rerunning):
        def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    replayed = Replayed(both, Refusing(), "training")
    for number in range(6):
        assert replayed(torch.full((2,), float(number)), torch.ones(2))[0].tolist() == [number + 1] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "training cannot be recorded as a graph and runs step by step: operation not permitted when stream is capturing"
    ]


def test_work_that_finds_no_memory_beside_a_recording_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    full = False

    class Full(Rerunning):
        def rehearse(self, work: Callable[[], T]) -> T:
            if full:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().rehearse(work)

    replayed = Replayed(both, Full(), "training")
    full = True
    with pytest.raises(torch.OutOfMemoryError):
        replayed(torch.ones(2), torch.ones(2))
    full = False
    for _ in range(REHEARSALS + 1):
        replayed(torch.ones(2), torch.ones(2))
    full = True
    assert replayed(torch.ones(3), torch.ones(3))[0].tolist() == [2] * 3
    assert not replayed.recordings
    assert "there is no memory for batches of a second size" in caplog.text


def test_a_network_that_keeps_tensors_between_calls_is_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    class Caching(nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            self.cache = {"weight": self.weight.clone()}
            return super().forward(given)

    plain, caching = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), Caching(2, 2)
    assert not keeps_tensors(plain)
    replayed = Replayed(caching, Rerunning(), "scoring", lambda: not keeps_tensors(caching))
    for _ in range(REHEARSALS + 2):
        replayed(torch.ones(1, 2))
    assert not replayed.recordings
    assert "scoring cannot be recorded as a graph and runs step by step: it keeps tensors" in caplog.text


def test_a_method_does_not_keep_its_object_alive() -> None:
    class Owner:
        def __init__(self) -> None:
            self.replayed = Replayed(self.work, Rerunning(), "owning")

        def work(self, a: Tensor) -> Tensor:
            return a + 1

    owner = Owner()
    for _ in range(REHEARSALS + 2):
        assert owner.replayed(torch.zeros(1)).tolist() == [1]
    alive = ref(owner)
    del owner
    assert alive() is None


@NEEDS_GPU
def test_a_refused_recording_leaves_the_stream_as_it_was() -> None:
    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        CudaRecorder(torch.device("cuda", 0)).record(lambda: float(torch.ones(1, device="cuda")))
    assert torch.cuda.current_stream() == before


@NEEDS_GPU
def test_a_recording_outlives_others() -> None:
    recorder, weights = CudaRecorder(torch.device("cuda", 0)), torch.rand(256, 256, device="cuda")
    given = torch.rand(64, 256, device="cuda")
    kept, gone = (Replayed(lambda a: a @ weights, recorder, "multiplying") for _ in range(2))
    for _ in range(REHEARSALS + 2):
        kept(given), gone(given)
    del gone
    gc.collect()
    torch.cuda.empty_cache()
    torch.testing.assert_close(kept(given), given @ weights)


def test_only_so_many_shapes_are_recorded() -> None:
    replayed = Replayed(both, Rerunning(), "adding")
    for size in range(MOST + 3):
        for _ in range(REHEARSALS + 2):
            assert replayed(torch.ones(size), torch.ones(size))[0].tolist() == [2] * size
    assert len(replayed.recordings) == MOST


@NEEDS_GPU
def test_work_that_reads_a_value_on_the_host_is_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    replayed = Replayed(lambda a: a * float(a.sum()), CudaRecorder(torch.device("cuda")), "reading")
    for number in range(6):
        assert replayed(torch.full((2,), float(number), device="cuda")).tolist() == [2 * number**2] * 2
    assert "cannot be recorded" in caplog.text


def test_nothing_is_recorded_on_the_processor() -> None:
    assert Compute(device="cpu", threads=1).start().recorder is None


@NEEDS_GPU
def test_a_gpu_records_unless_told_not_to() -> None:
    assert isinstance(Compute(device="cuda").start().recorder, CudaRecorder)
    assert Compute(device="cuda", graph="off").start().recorder is None


@pytest.mark.parametrize(("room", "sizes"), [(8, [8]), (5, [8, 4, 4]), (1, [8, 4, 2, *[1] * 8])])
def test_rows_are_taken_in_pieces_where_there_is_no_memory_for_all(room: int, sizes: list[int]) -> None:
    tried, buffer = [], torch.zeros(8)

    def work(rows: Tensor) -> Tensor:
        tried.append(len(rows))
        if len(rows) > room:
            raise torch.OutOfMemoryError
        return buffer[: len(rows)].copy_(2 * rows)  # as a replay does, into the same memory

    piecewise = Piecewise(work)
    for _ in range(2):
        assert piecewise(torch.arange(8.0)).tolist() == [2.0 * one for one in range(8)]
    assert tried == sizes + [one for one in sizes if one <= room]  # what was too much is not tried again


def test_without_memory_for_one_row_a_sentence_says_so() -> None:
    def work(_rows: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(PetechiaError, match="no memory for a single image"):
        Piecewise(work)(torch.zeros(3, 2))
