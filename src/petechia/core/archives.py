"""Open zip archives of strangers: what the list of members claims is checked before anything is unpacked."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from pathlib import Path

from petechia.core.budget import check, limit
from petechia.core.errors import PetechiaError, printable

END, LOCATOR = b"PK\5\6", b"PK\6\7"  # of the end of an archive, and of what stands before it in one with 64-bit numbers
LOCATOR_BYTES, FAR_BYTES = 20, 56  # of the locator, and of the end with 64-bit numbers before it
TAIL = 22 + 65_535 + LOCATOR_BYTES + FAR_BYTES  # bytes in which they all lie: an end has a comment of at most 65,535
ELSEWHERE = 0xFFFFFFFF  # a 32-bit number that is stated with 64 bits
PER_MEMBER = 200  # bytes in the list of members for each of them, on average at most


class _Listed(io.FileIO):
    """A file of which `zipfile` reads no more at once than a list of members may have, until it is opened."""

    most = 0

    def read(self, size: int | None = -1) -> bytes:
        if self.most and size is not None and size > self.most:
            raise zipfile.BadZipFile(f"a list of members of {size:,} bytes")
        return super().read(-1 if size is None else size) or b""


def open_zip(path: Path, advice: str = "check the file") -> zipfile.ZipFile:
    """Open a zip archive for reading.

    Args:
        path: path of the file.
        advice: what the user can do.

    Raises:
        PetechiaError: there are too many members, two of the same name, or members that share bytes; or the list of members is
            not where the archive states, so that other programs may read another list.
        OSError, zipfile.BadZipFile: the file cannot be read, or is no zip archive.
    """
    file = _Listed(path)
    try:
        size = file.seek(0, io.SEEK_END)
        file.most = limit("archive_members") * PER_MEMBER
        archive = zipfile.ZipFile(file)
        file.most = 0
        refuse_second_list(archive, file, str(path), advice)
        members = archive.infolist()
        check("archive_members", len(members), f"{path} has {len(members):,} members", advice)
        twice = [name for name, count in Counter(one.filename for one in members).items() if count > 1]
        if twice:
            raise PetechiaError(f"{path} contains {printable(twice[0])} twice; {advice}.")
        places = {one.header_offset for one in members}
        if sum(one.compress_size for one in members) > size or len(places) < len(members):
            raise PetechiaError(f"{path} has members that share bytes, which no program writes; {advice}.")
    except BaseException:
        file.close()
        raise
    return archive


def refuse_second_list(archive: zipfile.ZipFile, file: io.RawIOBase | io.BytesIO, name: str, advice: str) -> None:
    """Refuse an archive whose list of members is not where its end states.

    `zipfile` reads the list just before the end; others, such as PyTorch, read what may be another list in the stated place.

    Args:
        archive: the archive, opened.
        file: its content.
        name: name of the file, for the message.
        advice: what the user can do.

    Raises:
        PetechiaError: the two places differ.
    """
    begin = file.seek(max(0, file.seek(0, io.SEEK_END) - TAIL))
    tail = file.read(TAIL) or b""
    end = tail.rfind(END)
    starts = set(struct.unpack_from("<I", tail, end + 16)) - {ELSEWHERE}
    locator = end - LOCATOR_BYTES
    if locator >= FAR_BYTES and tail[locator:].startswith(LOCATOR):
        far = locator - FAR_BYTES
        starts |= set(struct.unpack_from("<Q", tail, far + 48))
        if struct.unpack_from("<Q", tail, locator + 8) != (begin + far,):
            starts.clear()
    if starts != {archive.start_dir}:
        raise PetechiaError(f"{name} has its list of members in another place than it states; {advice}.")
