"""Programs of `torch.export` with one argument changed: no signal, no time-out, no changed weight. `programs` does it."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.conftest import TORTURE
from tests.torture.programs import guarded

PROGRAMS, SEED, FORMS = (110_000, int.from_bytes(os.urandom(3)), 0) if TORTURE else (240, 0, 12)  # 0: all forms


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is protected with Linux' mprotect")


def test_every_allowed_operation(tmp_path: Path, figures: list[str]) -> None:
    result = tmp_path / "result.json"
    words = [
        sys.executable,
        "-m",
        "tests.torture.programs",
        str(PROGRAMS),
        str(SEED),
        str(result),
        *([str(FORMS)] * bool(FORMS)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(result.read_text())
    figures.append(
        f"programs with one argument changed: {report['programs']:,} of {report['forms']} forms, {report['happened']}, "
        f"seed {SEED}, {report['seconds']} s, failures: {len(report['failures'])}, "
        f"forms without a valid call: {len(report['without_a_valid_call'])}"
    )
    assert report["happened"]["ran"] > report["programs"] / 10  # otherwise only refusals would be tried
    assert len(report["without_a_valid_call"]) < report["forms"] / 5
    assert not report["failures"], "\n".join(map(str, report["failures"][:20]))


def test_an_access_outside_a_tensor_is_a_signal() -> None:
    values = torch.arange(5.0)
    for at_end, offset in ((True, values.numel()), (False, -1)):
        inside = guarded(values, at_end)
        assert torch.equal(inside, values)
        assert signal_of(partial(value_at, inside.data_ptr())) == 0
        assert signal_of(partial(value_at, inside.data_ptr() + 4 * offset)) == signal.SIGSEGV


def value_at(address: int) -> float:
    return ctypes.c_float.from_address(address).value


def signal_of(function: Callable[[], object]) -> int:
    """Call a function in a process, and return the signal that ends it."""
    child = os.fork()
    if not child:
        faulthandler.disable()
        function()
        os._exit(0)
    return os.waitpid(child, 0)[1] & 127
