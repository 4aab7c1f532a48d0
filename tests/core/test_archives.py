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


def with_two_lists(path: Path) -> bytes:
    """An archive that `zipfile` reads as "good"; at the place that its end states, there is a list that has "evil"."""
    (evil, at), (good, place) = ((content, content.index(b"PK\1\2")) for content in map(of_one, (path, path), ("evil", "good")))
    end = good.index(b"PK\5\6")
    listed = bytearray(good[place:end])
    whole = evil[: evil.index(b"PK\5\6")]
    moved = len(whole) + place - at  # how far the list before the end is behind the place that the end states
    listed[42:46] = struct.pack("<I", (len(whole) - moved) % 2**32)
    ending = bytearray(good[end:])
    ending[16:20] = struct.pack("<I", at)
    return whole + good[:place] + bytes(listed) + bytes(ending)


def of_one(path: Path, name: str) -> bytes:
    return archive(path.with_suffix(f".{name}"), name).read_bytes()


def test_a_second_list_of_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(with_two_lists(path))
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["good"]
    with pytest.raises(PetechiaError, match="has its list of members in another place than it states; look"):
        open_zip(path, "look")
    path.write_bytes(b"before" + archive(path, "a").read_bytes())
    with pytest.raises(PetechiaError, match="in another place than it states"):
        open_zip(path)


def test_archives_with_64_bit_numbers_and_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    path = archive(tmp_path / "a.zip", "a", "b")
    content = bytearray(path.read_bytes())
    assert b"PK\6\6" in content
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"words PK " * 1000
    for at in (None, 16):  # the start with 32 bits may be left to that with 64
        if at:
            end = content.rindex(b"PK\5\6")
            content[end + at : end + at + 4] = b"\xff" * 4
            path.write_bytes(content)
        with open_zip(path) as opened:
            assert opened.namelist() == ["a", "b"]
    far, locator = content.rindex(b"PK\6\6"), content.rindex(b"PK\6\7")
    for place in (far + 48, locator + 8):
        other = bytearray(content)
        other[place] += 1
        path.write_bytes(other)
        with pytest.raises((PetechiaError, zipfile.BadZipFile)):
            open_zip(path)
