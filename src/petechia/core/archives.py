"""Open zip archives of strangers: what the list of members claims is checked before anything is unpacked."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path

from petechia.core.budget import check, limit
from petechia.core.errors import PetechiaError, printable

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
        PetechiaError: there are too many members, two of the same name, or members that share bytes.
        OSError, zipfile.BadZipFile: the file cannot be read, or is no zip archive.
    """
    file = _Listed(path)
    try:
        size = file.seek(0, io.SEEK_END)
        file.most = limit("archive_members") * PER_MEMBER
        archive = zipfile.ZipFile(file)
        file.most = 0
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
