"""The benchmark of a GPU, on the processor: everything but the graphs."""

from collections.abc import Callable

import pytest

from benchmarks import gpu
from petechia.core.runtime import Compute


@pytest.mark.parametrize("part", [gpu.training, gpu.scoring, gpu.explaining])
def test_all_do_the_same_work(part: Callable[..., gpu.Work]) -> None:
    runtime = Compute(device="cpu", precision="fp32", threads=1).start()
    work = part(32, 4, runtime, arch="test_resnet", steps=3)
    assert {"petechia"} < set(work)
    assert {name: do() for name, do in work.items()} == dict.fromkeys(work, 12)


def test_the_table_has_the_ratio_of_ours_to_each() -> None:
    rows = list(gpu._rows("counting", {"petechia": lambda: 10**6, "other": lambda: 10**6}))
    assert rows[0].startswith("| counting | petechia |")
    assert rows[0].endswith("|  |")
    assert float(rows[1].rsplit("|", 2)[1]) > 0
