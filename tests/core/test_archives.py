from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from petechia.core.archives import open_zip
from petechia.core.budget import budget
from petechia.core.errors import PetechiaError


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PETECHIA_LIMITS", "archive_members=50")
    budget.cache_clear()
    yield
    budget.cache_clear()


def archive(path: Path, *names: str) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")
        for name in names:
            file.writestr(name, name * 1000)
    return path


def test_members_are_read(tmp_path: Path) -> None:
    with open_zip(archive(tmp_path / "a.zip", "a", "b")) as file:
        assert file.namelist() == ["a", "b"]
        assert file.read("b") == b"b" * 1000


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match=r"contains a twice; look\.$"):
        open_zip(archive(tmp_path / "a.zip", "a", "b", "a"), "look")


def test_the_number_of_members_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match="has 51 members, and the maximum is 50"):
        open_zip(archive(tmp_path / "a.zip", *(str(number) for number in range(51))))
    with pytest.raises(zipfile.BadZipFile, match="a list of members of"):
        open_zip(archive(tmp_path / "a.zip", *(str(number) for number in range(5000))))


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", "a", "b")
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    content[second + 42 : second + 46] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(PetechiaError, match="has members that share bytes"):
        open_zip(path)
    path = archive(tmp_path / "a.zip", "a", "b")
    content = bytearray(path.read_bytes())
    first = content.index(b"PK\1\2")
    content[first + 20 : first + 24] = struct.pack("<I", len(content))
    path.write_bytes(content)
    with pytest.raises(PetechiaError, match="has members that share bytes"):
        open_zip(path)


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    with pytest.raises(zipfile.BadZipFile):
        open_zip(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        open_zip(tmp_path / "b")
