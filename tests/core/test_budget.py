from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from petechia.core.budget import Budget, budget, check, check_file, check_unpacked, limit, read_file
from petechia.core.errors import PetechiaError

ROBUSTNESS = Path(__file__).parents[2] / "docs" / "robustness.md"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    budget.cache_clear()
    yield
    budget.cache_clear()


def test_the_docs_list_every_limit() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (.+) \|$", ROBUSTNESS.read_text(encoding="utf-8"), re.M)
    assert rows == [(one.name, f"{one.default:,}", one.metadata["meaning"]) for one in fields(Budget)]


def test_every_limit_is_asked() -> None:
    """Or a user would raise it in vain."""
    source = Path(__file__).parents[2] / "src" / "petechia"
    code = "".join(file.read_text(encoding="utf-8") for file in source.rglob("*.py") if file.name != "budget.py")
    assert [one.name for one in fields(Budget) if f'"{one.name}"' not in code] == []


def test_users_can_set_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_LIMITS", "image_pixels=2e8, table_rows=12 model_seconds=30")
    assert (limit("image_pixels"), limit("table_rows"), limit("model_seconds")) == (200_000_000, 12, 30)
    assert limit("image_side") == Budget().image_side
    check("image_pixels", 200_000_000, "a claims much")
    with pytest.raises(
        PetechiaError,
        match=r"^a has 13 rows, and the maximum is 12; split it, or set PETECHIA_LIMITS=table_rows=13 ",
    ):
        check("table_rows", 13, "a has 13 rows", "split it")


@pytest.mark.parametrize(
    "text", ["nothing=3", "image_side", "image_side=x", "image_side=inf", "image_side=nan", "image_side=0"]
)
def test_limits_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PETECHIA_LIMITS", text)
    with pytest.raises(PetechiaError, match=f"PETECHIA_LIMITS contains '{text}'; give NAME=NUMBER"):
        limit("image_side")


def test_files_are_checked_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_LIMITS", "config_bytes=10")
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    assert check_file(path, "config_bytes") == 10
    assert read_file(path, "config_bytes") == b"0123456789"
    path.write_bytes(b"")
    assert read_file(path, "config_bytes") == b""
    with path.open("wb") as file:
        file.truncate(20 << 30)
    for reader in (check_file, read_file):
        with pytest.raises(PetechiaError, match="has 21,474,836,480 bytes, and the maximum is 10; check the path, or set"):
            reader(path, "config_bytes")


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        for reader in (check_file, read_file):
            with pytest.raises(PetechiaError, match="is not a regular file; look."):
                reader(path, "config_bytes", "look")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nothing", "config_bytes")


def test_a_file_of_several_parts_is_whole(tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 33
    (tmp_path / "a").write_bytes(content)
    assert read_file(tmp_path / "a", "image_bytes") == content


def test_packed_data_may_be_small_or_honest() -> None:
    check_unpacked(limit("unpack_free"), 1, "a unpacks to")
    check_unpacked(200 << 30, 1 << 30, "a unpacks to")
    with pytest.raises(
        PetechiaError, match="^a unpacks to 214,748,364,801 bytes, a multiple of its size, and the maximum is 200;"
    ):
        check_unpacked((200 << 30) + 1, 1 << 30, "a unpacks to")
