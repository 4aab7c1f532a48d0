from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petechia.core.errors import PetechiaError
from petechia.core.parallel import workers
from petechia.core.serving import DamagedMessageError, message, receive
from petechia.core.worker import Limits, Pool, Session

HAZARDS = "tests.core.hazards"
ROOT = Path(__file__).parents[2]
MIB = 1 << 20
LIMITS = Limits(memory=200 * MIB, seconds=20)


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    pool = Pool(LIMITS, (HAZARDS,))
    yield pool
    pool.close()


@pytest.fixture
def hasty() -> Iterator[Pool]:
    pool = Pool(Limits(memory=200 * MIB, seconds=0.5), (HAZARDS,))
    yield pool
    pool.close()


def gone(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().split(")")[-1].split()[0] == "Z"
    return True


def wait_until_gone(process: int, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not gone(process):
        assert time.monotonic() < end, "the worker lives"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 0.5, "text\n\u0416", b"", b"bytes", [], [1, [2, "x"]], {}, {"array": 1, "dict": {"a": b"\0"}},
        float("inf"),
        np.arange(6, dtype=np.uint16).reshape(2, 3), np.zeros((0, 4), np.float32), np.array(3.0),
        np.array([True, False]), np.arange(3, dtype=">i4"), np.arange(12).reshape(3, 4).T,
    ],
)  # fmt: skip
def test_values_arrive_as_they_were_sent(shared: Pool, value: Any) -> None:
    (back,) = shared.ask("a", f"{HAZARDS}:echo", value)
    np.testing.assert_equal(back, value)
    assert type(back) is type(value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype.newbyteorder("<")
        assert back.flags.writeable


def test_one_worker_answers_many_questions_and_a_crash_costs_one(shared: Pool) -> None:
    first = shared.ask("a", f"{HAZARDS}:process")
    assert shared.ask("a", f"{HAZARDS}:process") == first != os.getpid()
    with pytest.raises(PetechiaError, match=r"^a\.dcm made the process that read it crash \(signal 11\); check the file\.$"):
        shared.ask("a.dcm", f"{HAZARDS}:crash")
    assert gone(first)
    assert shared.ask("a", f"{HAZARDS}:process") != first


@pytest.mark.parametrize("function", ["sleep", "hang"])
def test_a_call_that_takes_too_long_is_stopped(hasty: Pool, function: str) -> None:
    process = hasty.ask("a", f"{HAZARDS}:process")
    began = time.monotonic()
    with pytest.raises(PetechiaError, match=r"^a took longer than 0\.5 seconds"):
        hasty.ask("a", f"{HAZARDS}:{function}", *([60] if function == "sleep" else []))
    assert time.monotonic() - began < 5
    assert gone(process)
    assert hasty.ask("a", f"{HAZARDS}:echo", 1) == [1]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit address space")
def test_memory_is_limited_and_the_worker_lives_on(shared: Pool) -> None:
    process = shared.ask("a", f"{HAZARDS}:process")
    assert shared.ask("a", f"{HAZARDS}:allocate", 100 * MIB) == 100 * MIB
    with pytest.raises(PetechiaError, match=r"^a needed more than 200 MiB of memory"):
        shared.ask("a", f"{HAZARDS}:allocate", 400 * MIB)
    assert shared.ask("a", f"{HAZARDS}:process") == process


def test_errors_of_the_function_keep_its_sentence_and_hide_others(shared: Pool) -> None:
    with pytest.raises(PetechiaError, match="^b is odd; mend it\\.$"):
        shared.ask("a", f"{HAZARDS}:refuse", "b is odd; mend it.")
    with pytest.raises(PetechiaError, match="^�\\[31mb$"):
        shared.ask("a", f"{HAZARDS}:refuse", "\x1b[31mb")
    with pytest.raises(PetechiaError, match=r"^a is damaged and cannot be read \(KeyError\)") as raised:
        shared.ask("a", f"{HAZARDS}:fail")
    assert "Zebedee" not in str(raised.value)


def test_functions_of_other_modules_are_not_called(shared: Pool) -> None:
    with pytest.raises(PetechiaError, match="KeyError"):
        shared.ask("a", "os:system", "true")


def test_limits_of_the_process(shared: Pool, tmp_path: Path) -> None:
    said = shared.ask("a", f"{HAZARDS}:limits")
    assert said == {"core": 0, "size": 0, "files": 32, "torch": False, "group": True, "interrupted": True}
    with pytest.raises(PetechiaError, match="OSError"):
        shared.ask("a", f"{HAZARDS}:write", str(tmp_path / "a"))
    assert (tmp_path / "a").stat().st_size == 0


def test_what_a_library_prints_is_dropped(shared: Pool, capfd: pytest.CaptureFixture[str]) -> None:
    assert shared.ask("a", f"{HAZARDS}:print_much") == "said"
    assert capfd.readouterr() == ("", "")


def packed(head: object) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text


LIES = {
    "noise": b"\xff" * 64,
    "a head that is too long": (1 << 40).to_bytes(8, "little"),
    "not json": packed(b"{"),
    "a number": packed(b"1"),
    "nested": packed(b"[" * 100_000),
    "no arrays": packed({"value": 1}),
    "objects": packed({"value": {"array": 0}, "arrays": [["|O8", [1]]]}),
    "a text array": packed({"value": {"array": 0}, "arrays": [["<U8", [1]]]}),
    "a terabyte": packed({"value": {"array": 0}, "arrays": [["|u1", [1 << 40]]]}),
    "many together": packed({"value": {"array": 0}, "arrays": [["|u1", [100 * MIB]]] * 3}),
    "less than nothing": packed({"value": {"array": 0}, "arrays": [["|u1", [-1]]]}),
    "half a byte": packed({"value": {"array": 0}, "arrays": [["|u1", [0.5]]]}),
    "an array that is not there": packed({"value": {"array": 3}, "arrays": []}),
    "another dict": packed({"value": {"x": 3}, "arrays": []}),
    "a digit too many": packed(b'{"value": ' + b"9" * 10_000 + b', "arrays": []}'),
}


@pytest.mark.parametrize("name", LIES)
def test_a_damaged_message_is_refused_before_memory_is_allocated(name: str) -> None:
    left = LIES[name]

    def read(count: int) -> bytearray:
        nonlocal left
        assert count < 16 * MIB
        given, left = left[:count], left[count:]
        return bytearray(given.ljust(count, b"\0"))

    with pytest.raises(DamagedMessageError):
        receive(read, 200 * MIB)


@pytest.mark.parametrize("name", ["noise", "objects", "another dict"])
def test_a_worker_that_has_been_taken_over_is_ended(name: str) -> None:
    pool = Pool(LIMITS, (HAZARDS,))
    process = pool.ask("a", f"{HAZARDS}:process")
    with pytest.raises(PetechiaError, match="^a made the process that read it"):
        pool.ask("a", f"{HAZARDS}:lie", LIES[name])
    assert gone(process)


@pytest.mark.parametrize("value", [{1, 2}, np.array([{}], object)])
def test_messages_are_not_pickled(value: object) -> None:
    with pytest.raises(TypeError):
        b"".join(message(value))


def test_threads_share_at_most_one_worker_a_cpu(shared: Pool) -> None:
    with ThreadPoolExecutor(8) as threads:
        images = [np.full((50, 50), n, np.uint8) for n in range(40)]
        found = list(threads.map(lambda image: (shared.ask("a", f"{HAZARDS}:echo", image, n := int(image[0, 0])), n), images))
        processes = set(threads.map(lambda _: shared.ask("a", f"{HAZARDS}:process"), range(40)))
    assert all(n == said and (image == n).all() for (image, said), n in found)
    assert 1 <= len(processes) <= workers()


def test_a_session_keeps_what_it_opened_and_opens_it_again_after_a_crash() -> None:
    session = Session("m.onnx", LIMITS, (HAZARDS,), f"{HAZARDS}:open_list", 7)
    assert session.opened == "opened 7"
    assert session.ask(f"{HAZARDS}:add", 8) == [7, 8]
    assert session.ask(f"{HAZARDS}:add", 9) == [7, 8, 9]
    with pytest.raises(PetechiaError, match=r"^m\.onnx made the process that read it crash \(signal 11\)"):
        session.ask(f"{HAZARDS}:crash_with")
    assert session.ask(f"{HAZARDS}:add", 9) == [7, 9]
    session.close()


def test_a_session_that_cannot_be_opened_says_why() -> None:
    with pytest.raises(PetechiaError, match=r"^no model\.$"):
        Session("m.onnx", LIMITS, (HAZARDS,), f"{HAZARDS}:refuse", "no model.")


def test_workers_end_with_what_uses_them() -> None:
    pool = Pool(LIMITS, (HAZARDS,))
    process = pool.ask("a", f"{HAZARDS}:process")
    pool.close()
    assert gone(process)
    session = Session("a", LIMITS, (HAZARDS,), f"{HAZARDS}:open_list", 7)
    process = session._worker._process.pid
    del session
    wait_until_gone(process)


SCRIPT = """
from petechia.core.worker import Limits, Pool
pool = Pool(Limits(1 << 28, 60), ("tests.core.hazards",))
print(pool.ask("a", "tests.core.hazards:process"), flush=True)
"""


def started(script: str, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.Popen(
        [sys.executable, "-c", script], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **options
    )


def output(script: str, **options: Any) -> str:
    process = started(script, **options)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out


def test_scripts_without_a_guard_of_main_work_and_leave_nothing() -> None:
    lines = output(SCRIPT).split()
    assert len(lines) == 1
    assert gone(int(lines[0]))


@pytest.mark.parametrize("busy", ["", 'pool.ask("a", "tests.core.hazards:sleep", 60)'])
def test_workers_end_when_their_parent_is_killed(busy: str) -> None:
    parent = started(SCRIPT + (busy or "import time; time.sleep(60)"))
    assert parent.stdout
    process = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_until_gone(process)


def test_ctrl_c_reaches_the_parent_alone() -> None:
    script = SCRIPT + 'pool.ask("a", "tests.core.hazards:sleep", 60)'
    parent = started(script, start_new_session=True)
    assert parent.stdout
    process = int(parent.stdout.readline())
    time.sleep(0.3)
    os.killpg(parent.pid, signal.SIGINT)
    _, err = parent.communicate(timeout=30)
    assert err.count("Traceback") == 1
    assert err.strip().endswith("KeyboardInterrupt")
    wait_until_gone(process)


def test_workers_need_no_standard_streams(tmp_path: Path) -> None:
    script = (
        "import os\nfor number in (0, 1, 2): os.close(number)\n"
        + SCRIPT.replace("print(", "answer = (").replace(", flush=True", "")
        + f"open({str(tmp_path / 'answer')!r}, 'w').write(str(answer))"
    )
    output(script)
    assert int((tmp_path / "answer").read_text()) > 0


def test_workers_start_from_a_folder_that_is_gone_or_hostile(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken over')")
    begin = f"import os; os.mkdir({str(tmp_path / 'a')!r}); os.chdir({str(tmp_path / 'a')!r}); os.rmdir(os.getcwd())\n"
    assert int(output(begin + SCRIPT)) > 0
    assert int(output(f"import numpy, os; os.chdir({str(tmp_path)!r})\n" + SCRIPT)) > 0


def test_a_fork_starts_its_own_workers() -> None:
    script = SCRIPT + (
        "import os, sys\nchild = os.fork()\n"
        'print(pool.ask("a", "tests.core.hazards:process"), flush=True)\n'
        "if child: os.waitpid(child, 0); print(pool.ask('a', 'tests.core.hazards:process'))"
    )
    first, *both, last = output(script).split()
    assert first == last
    assert len({*both, first}) == 2


def test_a_worker_that_cannot_start_is_an_error() -> None:
    with pytest.raises(PetechiaError, match=re.escape(sys.executable)):
        Pool(LIMITS, ("petechia.nothing",)).ask("a", "petechia.nothing:at_all")
