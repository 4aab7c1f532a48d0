"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

from petechia.core.memory import keep_freed_memory

SIZE = 200 << 20
FAULTS = f"""
import resource
import numpy as np
{{before}}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones({SIZE}, np.uint8)
first = faults()
for _ in range(3):
    np.ones({SIZE}, np.uint8)
print(faults() - first)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="another C library than glibc")
def test_the_system_is_not_asked_for_the_same_memory_again() -> None:
    def faults(before: str) -> int:
        code = FAULTS.format(before=before)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)

    assert faults("") > 100
    assert faults("from petechia.core.memory import keep_freed_memory; assert keep_freed_memory()") < 20
