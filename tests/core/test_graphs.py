from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from petechia.core.graphs import MOST, REHEARSALS, CudaRecorder, Recorder, Replayed
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
    assert set(replayed.recordings) == {((size,), (size,)) for size in (3, 4)}
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
