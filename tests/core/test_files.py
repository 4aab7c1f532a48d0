from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from petechia.core import files
from petechia.core.errors import PetechiaError
from petechia.core.files import (
    building,
    claimed,
    copy_file,
    link_file,
    locked,
    refuse_existing,
    refuse_links,
    refuse_overlap,
    refuse_unwritable,
    write_bytes,
    write_text,
)
from tests.conftest import TORTURE

LAPS = 1000 if TORTURE else 20
BEGUN = "0123456789abcdef"  # looks like a temporary name's random part


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def in_a_process(code: str, *arguments: object) -> str:
    """What a process says that has imported everything, in which `folder` is its first argument."""
    start = "import os, signal, sys\nfrom pathlib import Path\nfrom petechia.core.errors import PetechiaError\n"
    start += "from petechia.core.files import *\nfrom petechia.core import files\nfolder = Path(sys.argv[1])\n"
    words = [sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=1200).stdout


RACE = """
import json, time
def attempt(out, number):
    try:
        with building(out) as made:
            for i in range(8):
                (made / f"{i}").write_text(str(number))
                (made / f"sub-{i}").mkdir()
            time.sleep(0.002)
    except PetechiaError as error:
        return 1, str(error)
    return 0, ""
for lap in range(int(sys.argv[2])):
    gate, opened = os.pipe()
    answers, answer = os.pipe()
    children = []
    for number in range(4):
        if (child := os.fork()) == 0:
            os.close(opened)
            os.read(gate, 1)  # until the parent closes it
            os.write(answer, (json.dumps([number, *attempt(folder / f"out-{lap}", number)]) + "\\n").encode())
            os._exit(0)
        children.append(child)
    os.close(opened)
    for child in children:
        os.waitpid(child, 0)
    os.close(answer)
    print(os.read(answers, 10_000).decode().replace("\\n", " ; "))
"""


def test_of_processes_that_race_for_a_folder_one_wins_and_the_others_are_told(tmp_path: Path) -> None:
    laps = in_a_process(RACE, tmp_path, LAPS).splitlines()
    assert len(laps) == LAPS
    for lap, said in enumerate(laps):
        ended = [json.loads(one) for one in said.split(" ; ") if one]
        (winner,) = [number for number, status, _ in ended if status == 0]
        assert len(ended) == 4
        for number, _, sentence in ended:
            assert number == winner or "Another process is writing" in sentence or "exists already" in sentence, sentence
        out = tmp_path / f"out-{lap}"
        assert {path.read_text() for path in out.iterdir() if path.is_file()} == {str(winner)}
        assert len(names(out)) == 16
    assert names(tmp_path) == sorted(f"out-{lap}{rest}" for lap in range(LAPS) for rest in ("", *INSIDE))


INSIDE = [f"/{i}" for i in range(8)] + [f"/sub-{i}" for i in range(8)]


def test_what_a_killed_process_began_is_removed_by_the_next_and_what_a_live_one_began_is_not(tmp_path: Path) -> None:
    die = "os.kill(os.getpid(), signal.SIGKILL)\n"
    in_a_process(f"with building(folder / 'out') as made:\n (made / 'x').mkdir()\n {die}", tmp_path)
    in_a_process(f"os.fsync = lambda _: {die}\nwrite_bytes(folder / 'file', b'new')", tmp_path)
    dead = names(tmp_path)
    assert len([name for name in dead if name.endswith(".partial")]) == 2
    assert ".out.lock" in dead
    alive, descriptor = files._begin_file(tmp_path / "file")
    write_bytes(tmp_path / "file.0123456789abcdef.partial.txt", b"another's")
    write_bytes(tmp_path / "file", b"mine")
    assert names(tmp_path) == sorted(
        [alive.name, "file", "file.0123456789abcdef.partial.txt", *(name for name in dead if name.startswith(".out"))]
    )
    os.close(descriptor)
    write_bytes(tmp_path / "file", b"mine")
    with building(tmp_path / "out") as made:
        (made / "y").mkdir()
    assert names(tmp_path) == ["file", "file.0123456789abcdef.partial.txt", "out", "out/y"]


def test_threads_that_write_one_file_leave_it_whole_and_nothing_beside_it(tmp_path: Path) -> None:
    def write(letter: str) -> None:
        for _ in range(30):
            write_text(tmp_path / "file", letter * 10_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set((tmp_path / "file").read_text())) == 1
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["report.html", ".report.html.partial", f".report.html.{BEGUN}.partial"])
def test_nothing_is_written_through_a_link(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(tmp_path / "secret")
    (run / "dangling").symlink_to(tmp_path / "nothing")
    write_text(run / "report.html", "mine")
    write_text(run / "dangling", "mine")
    assert (tmp_path / "secret").read_text() == "secret"
    assert not (tmp_path / "nothing").exists()
    assert (run / "report.html").read_text() == (run / "dangling").read_text() == "mine"
    assert not (run / "report.html").is_symlink()


def test_a_file_that_is_written_does_not_change_its_second_name(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    link_file(tmp_path / "a", tmp_path / "runs" / "b")
    assert (tmp_path / "a").samefile(tmp_path / "runs" / "b")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "runs" / "b").read_text() == "old"
    link_file(tmp_path / "a", tmp_path / "runs" / "b")
    link_file(tmp_path / "a", tmp_path / "runs" / "b")  # rename does nothing where both are one file already
    assert (tmp_path / "runs" / "b").read_text() == "new"
    assert names(tmp_path) == ["a", "runs", "runs/b"]


def test_a_second_name_that_a_killed_process_began_is_removed_by_the_next(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "text")
    die = "os.kill(os.getpid(), signal.SIGKILL)"
    in_a_process(f"Path.replace = lambda *_: {die}\nlink_file(folder / 'a', folder / 'b')", tmp_path)
    assert [name for name in names(tmp_path) if name.endswith(".partial")]
    link_file(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == ["a", "b"]


def test_where_a_file_cannot_have_two_names_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_text(tmp_path / "a", "old")
    link_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "old"
    assert names(tmp_path) == ["a", "b"]


def test_all_is_flushed_before_it_gets_its_name_and_the_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def flush(descriptor: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def named(self: Path, target: Path) -> Path:
        done.append("named")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "rename", named)
    with building(tmp_path / "new" / "out") as made:
        (made / "a" / "b").mkdir(parents=True)
        (made / "a" / "b" / "file").write_text("x")
        (made / "file").write_text("x")
    told = [one.replace(str(made), "OUT") for one in done]
    assert told[0] == str(tmp_path)  # for the name of new
    assert set(told[1:3]) == {"OUT/a/b/file", "OUT/file"}
    assert told[3:] == ["OUT/a/b", "OUT/a", "OUT", "named", str(tmp_path / "new")]
    done.clear()
    write_text(tmp_path / "one", "x")
    assert [one.replace(str(tmp_path), "") for one in done][1:] == [""]
    assert ".one." in done[0]


def test_errors_name_what_the_user_knows(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="x") as caught, building(tmp_path / "out") as made:
        raise OSError(errno.ENOSPC, "x", str(made / "sub" / "file"))
    assert caught.value.filename == str(tmp_path / "out" / "sub" / "file")
    with pytest.raises(OSError, match="x") as caught, building(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "x")
    assert caught.value.filename == str(tmp_path / "out")
    with pytest.raises(OSError, match="x") as caught, building(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "x", "elsewhere")
    assert caught.value.filename == "elsewhere"
    with pytest.raises(ConnectionError) as refused, locked(tmp_path / "run"):  # which no file is to blame for
        raise ConnectionRefusedError(errno.ECONNREFUSED, "x")
    assert refused.value.filename is None
    assert names(tmp_path) == ["run"]


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    write_text(tmp_path / ("a" * 255), "x")
    with building(tmp_path / ("b" * 255)) as made:
        (made / "x").touch()
    with locked(tmp_path / ("c" * 255)):
        pass
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "b", "c"]
    with pytest.raises(OSError, match="too long"):
        refuse_existing(tmp_path / ("d" * 256))


@pytest.mark.parametrize("kind", ["a link", "a pipe", "a socket"])
def test_only_files_and_folders_may_be_in_a_run(kind: str, tmp_path: Path) -> None:
    deep = tmp_path / "scores" / "deep"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    refuse_links(tmp_path)
    odd = deep / "odd\x1b[2J"
    if kind == "a link":
        odd.symlink_to(deep / "file")
    elif kind == "a pipe":
        os.mkfifo(odd)
    else:
        socket.socket(socket.AF_UNIX).bind(str(odd))
    with pytest.raises(PetechiaError, match=f"holds {kind}, scores/deep/odd�"):
        refuse_links(tmp_path)
    with pytest.raises(PetechiaError, match=f"holds {kind}"), locked(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_lock_is_never_a_link(tmp_path: Path) -> None:
    (tmp_path / ".out.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PetechiaError, match="is a link or a folder, which a lock never is"), building(tmp_path / "out"):
        pass
    assert names(tmp_path) == [".out.lock"]


def test_a_lock_keeps_others_out_and_goes_with_its_holder(tmp_path: Path) -> None:
    code = "try:\n with locked(folder): print('in')\nexcept PetechiaError as error: print(error)"
    with locked(tmp_path):
        assert f"Another process is working in {tmp_path}; wait" in in_a_process(code, tmp_path)
    assert names(tmp_path) == []
    in_a_process("with locked(folder): os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert names(tmp_path) == [".lock"]
    assert in_a_process(code, tmp_path) == "in\n"
    assert names(tmp_path) == []


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = errno.ENOSYS

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(tmp_path / "out"):  # as on Lustre without locks: who holds it stands in the file
        with pytest.raises(PetechiaError, match="Another process is writing"), claimed(tmp_path / "out"):
            pass
        write_text(tmp_path / "file", "x")
    assert names(tmp_path) == ["file"]
    number = errno.ENOLCK
    with pytest.raises(PetechiaError, match="cannot lock files .No locks available.; choose another folder"), locked(tmp_path):
        pass


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "nothing")
    refuse_existing(tmp_path / "new" / "deep")
    for name in ("file", "nowhere"):
        with pytest.raises(PetechiaError, match="exists already; choose another --clean-to"):
            refuse_existing(tmp_path / name, "--clean-to")
    with pytest.raises(PetechiaError, match="file is a file, not a folder; choose another --out"):
        refuse_existing(tmp_path / "file" / "sub" / "out")
    with pytest.raises(PetechiaError, match="nowhere is a link that leads nowhere"):
        refuse_unwritable(tmp_path / "nowhere")
    for other in ("out", "out/", "./out", "out/../out"):
        with pytest.raises(PetechiaError, match="--out and --clean-to are the same"):
            refuse_overlap(tmp_path / "out", Path(f"{tmp_path}/{other}"), "--out and --clean-to")
    with pytest.raises(PetechiaError, match="lie in each other"):
        refuse_overlap(tmp_path / "out", tmp_path / "out" / "clean", "--out and --clean-to")
    refuse_overlap(tmp_path / "out", tmp_path / "out-2", "--out and --clean-to")


def test_a_read_only_folder_is_noticed_before_the_work(tmp_path: Path) -> None:
    """As a user with few rights: root may write anywhere."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "locked").mkdir(mode=0o555)
    code = "os.getuid() or os.setuid(65534)\ntry: refuse_existing(folder / 'new' / 'out')\nexcept PetechiaError as e: print(e)"
    said = in_a_process(code, tmp_path / "locked")
    assert said == f"{tmp_path / 'locked'} cannot be written; check its permissions, or choose another folder (--out).\n"


def test_a_copy_that_fails_is_blamed_on_the_right_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x" * 5000
    full = "import resource\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    full += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    full += "try: copy_file(folder / 'a', folder / 'c')\nexcept OSError as error: print(error.filename)"
    assert in_a_process(full, tmp_path) == f"{tmp_path / 'c'}\n"
    with pytest.raises(IsADirectoryError) as caught:
        copy_file(tmp_path, tmp_path / "d")
    assert caught.value.filename == str(tmp_path)
