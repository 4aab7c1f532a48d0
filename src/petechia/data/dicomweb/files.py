"""Files from a PACS, kept in the cache while they are needed, so that work which was interrupted goes on where it was."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.files import write_bytes
from petechia.data.cache import cache_folder, private_folder
from petechia.data.dicomweb.pacs import Instance, InstanceError, Pacs
from petechia.data.formats.images import READING, Decoding, FileReader

PREFIX = "dicomweb-"
LOCK = ".in-use"
KEPT = 3 * 24 * 3600  # seconds after which files of work that was interrupted and not taken up again are removed


class PacsFiles:
    """The files of a PACS that were fetched. They are removed when nobody uses them, if nothing is left to fetch.

    They are in a folder of the cache that only this user can enter, one for each PACS.

    Args:
        pacs: where they are fetched.
        instances: SOPInstanceUID → the object.
    """

    def __init__(self, pacs: Pacs, instances: Mapping[str, Instance]) -> None:
        _remove_expired()
        self.folder = private_folder(PREFIX + hashlib.sha256(pacs.url.encode()).hexdigest()[:24])
        self._pacs = pacs
        self._instances = instances
        self._wanted: set[str] = set()
        self._refused: dict[str, str] = {}
        self._lock = _open_lock(self.folder)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        weakref.finalize(self, _let_go, self.folder, self._lock, self._wanted, self._refused)

    @property
    def url(self) -> str:
        """The address of the PACS."""
        return self._pacs.url

    def want(self, uids: NDArray[np.str_]) -> None:
        """Say which files are going to be read: until all were fetched, those that were are kept."""
        self._wanted.update(uids.tolist())

    def fetch(self, uid: str) -> Path:
        """Return the file of an object, fetched if need be.

        Raises:
            InstanceError: it cannot be had.
            PetechiaError: the PACS does not answer, or refuses.
        """
        path = self.folder / uid
        if not path.is_file():
            one = self._instances[uid]
            try:
                write_bytes(path, self._pacs.fetch(one.study, one.series, uid))
            except InstanceError as error:
                self._refused[uid] = str(error)
                raise
        return path


class PacsReader(FileReader):
    """Reads images of a PACS. An image that cannot be had is an error of its own; a PACS that does not answer ends the reading.

    Attributes:
        files: the files.
    """

    def __init__(self, files: PacsFiles, names: NDArray[np.str_], decoding: Decoding) -> None:
        super().__init__(files.folder, names, decoding)
        self.files = files

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("one process fetches the files of a PACS, and removes them")

    def path(self, row: int) -> Path:
        """Return the path of an image; where it cannot be fetched, there is no file."""
        with suppress(PetechiaError):
            self.files.fetch(str(self.names[row]))
        return super().path(row)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Fetch and decode some of the images."""
        for error, row in self._fetched(rows):
            yield from [error] if error else super().read(row)

    def read_uncut(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | NDArray[np.int16] | PetechiaError]:
        """Fetch and decode some of the images to grey levels that no window cuts off."""
        for error, row in self._fetched(rows):
            yield from [error] if error else super().read_uncut(row)

    def _fetched(self, rows: NDArray[np.intp]) -> Iterator[tuple[InstanceError | None, NDArray[np.intp]]]:
        self.files.want(self.names)
        for row in rows:
            try:
                self.files.fetch(str(self.names[row]))
            except InstanceError as error:
                yield error, row[None]
            else:
                yield None, np.array([row])

    def take(self, rows: NDArray[np.intp]) -> PacsReader:
        """Return a reader for some of the images."""
        return PacsReader(self.files, self.names[rows], self.decoding or Decoding())

    def fingerprint(self) -> str:
        """Return a digest of the address and the UIDs: under one UID there is one image, says the standard."""
        names = "\n".join(self.names.tolist())
        return hashlib.sha256(f"{self.files.url}\n{self.decoding}{READING}\n{names}".encode()).hexdigest()


def _open_lock(folder: Path) -> int:
    return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _let_go(folder: Path, lock: int, wanted: set[str], refused: Mapping[str, str]) -> None:
    """Remove the files, unless there are more to fetch or somebody else uses them. The lock stays, so that it stays one."""
    with suppress(OSError):
        if all((folder / uid).is_file() for uid in wanted - refused.keys()):
            _remove(folder, lock, older_than=0)
    with suppress(OSError):
        os.close(lock)


def _remove(folder: Path, lock: int, older_than: float) -> None:
    """Remove the files of a folder that are older than some seconds, if nobody uses it."""
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for path in folder.iterdir():
        if path.name != LOCK and time.time() - path.lstat().st_mtime >= older_than:
            path.unlink()


def _remove_expired() -> None:
    for folder in cache_folder().glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = _open_lock(folder)
            try:
                _remove(folder, lock, KEPT)
            finally:
                os.close(lock)
