"""Files from a PACS, kept in the cache while they are needed, so that work which was interrupted goes on where it was."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.files import write_bytes
from petechia.data.cache import cache_folder, private_folder
from petechia.data.dicomweb.pacs import Instance, InstanceError, Pacs
from petechia.data.dicomweb.session import BrokenError, ForbiddenError
from petechia.data.formats.images import READING, Decoding, FileReader
from petechia.data.formats.slices import SliceReader, Volume

T = TypeVar("T")
PREFIX = "dicomweb-"
LOCK = ".in-use"
TURNS = 64  # objects that are fetched at a time, at most
ONE_PROCESS = "one process fetches the files of a PACS, and removes them"
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
        self._turns = tuple(Lock() for _ in range(TURNS))
        self._lock = _open_lock(self.folder)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        weakref.finalize(self, _let_go, self.folder, self._lock, self._wanted, self._refused)

    def __str__(self) -> str:
        return self.url

    @property
    def url(self) -> str:
        """The address of the PACS."""
        return self._pacs.url

    def images(self, names: NDArray[np.str_], decoding: Decoding) -> PacsReader:
        """Return a reader of objects with one image each, whose SOPInstanceUIDs are `names`, str [N]."""
        return PacsReader(self, names, decoding)

    def slices(self, volumes: tuple[Volume, ...], which: NDArray[np.intp], numbers: NDArray[np.intp]) -> PacsSliceReader:
        """Return a reader of slices of objects, see `SliceReader`."""
        return PacsSliceReader(self, volumes, which, numbers)

    def want(self, uids: Iterable[str]) -> None:
        """Say which files are going to be read: until all were fetched, those that were are kept."""
        self._wanted.update(uids)

    def fetch(self, uid: str) -> Path:
        """Return the file of an object, fetched if need be. It is fetched once, and not again if it cannot be had.

        Raises:
            InstanceError: it cannot be had.
            PetechiaError: the PACS does not answer, or refuses.
        """
        path = self.folder / uid
        with self._turns[hash(uid) % TURNS]:  # several threads may want frames of one object
            if uid in self._refused:
                raise InstanceError(self._refused[uid])
            if not path.is_file():
                try:
                    write_bytes(path, self._fetched(self._instances[uid]))
                except InstanceError as error:
                    self._refused[uid] = str(error)
                    raise
        return path

    def _fetched(self, one: Instance) -> bytes:
        try:
            return self._pacs.fetch(one)
        except (BrokenError, ForbiddenError) as error:
            if not self._pacs.answers(one):
                raise
            raise InstanceError(f"{one.uid} cannot be had: {error}") from None


class PacsReader(FileReader):
    """Reads images of a PACS. An image that cannot be had is an error of its own; a PACS that does not answer ends the reading.

    Attributes:
        files: the files.
    """

    def __init__(self, files: PacsFiles, names: NDArray[np.str_], decoding: Decoding) -> None:
        super().__init__(files.folder, names, decoding)
        self.files = files

    def __reduce__(self) -> NoReturn:
        raise TypeError(ONE_PROCESS)

    def path(self, row: int) -> Path:
        """Return the path of an image; where it cannot be fetched, there is no file."""
        with suppress(PetechiaError):
            self.files.fetch(str(self.names[row]))
        return super().path(row)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Fetch and decode some of the images."""
        return _fetched(self._told, self._uids(rows), rows, super().read)

    def read_uncut(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | NDArray[np.int16] | PetechiaError]:
        """Fetch and decode some of the images to grey levels that no window cuts off."""
        return _fetched(self._told, self._uids(rows), rows, super().read_uncut)

    def _uids(self, rows: NDArray[np.intp]) -> list[tuple[str, ...]]:
        return [(str(name),) for name in self.names[rows]]

    @cached_property
    def _told(self) -> PacsFiles:
        """The files, which are told once what is going to be read."""
        self.files.want(self.names.tolist())
        return self.files

    def take(self, rows: NDArray[np.intp]) -> PacsReader:
        """Return a reader for some of the images."""
        return PacsReader(self.files, self.names[rows], self.decoding or Decoding())

    def fingerprint(self) -> str:
        """Return a digest of the address and the UIDs: under one UID there is one image, says the standard."""
        names = "\n".join(self.names.tolist())
        return hashlib.sha256(f"{self.files.url}\n{self.decoding}{READING}\n{names}".encode()).hexdigest()


class PacsSliceReader(SliceReader):
    """Reads slices of a PACS: frames of an object, or cuts across the objects of a volume. Errors are those of `PacsReader`.

    Attributes:
        files: the files.
    """

    def __init__(
        self, files: PacsFiles, volumes: tuple[Volume, ...], which: NDArray[np.intp], numbers: NDArray[np.intp]
    ) -> None:
        super().__init__(files.folder, volumes, which, numbers)
        self.files = files

    def __reduce__(self) -> NoReturn:
        raise TypeError(ONE_PROCESS)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Fetch and decode some of the slices."""
        return _fetched(self._told, self._uids(self.which[rows]), rows, super().read)

    def read_uncut(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | NDArray[np.int16] | PetechiaError]:
        """Fetch and decode some of the slices to grey levels that no window cuts off."""
        return _fetched(self._told, self._uids(self.which[rows]), rows, super().read_uncut)

    @cached_property
    def _told(self) -> PacsFiles:
        """The files, which are told once what is going to be read."""
        self.files.want([uid for uids in self._uids(np.unique(self.which)) for uid in uids])
        return self.files

    def _uids(self, which: NDArray[np.intp]) -> list[tuple[str, ...]]:
        return [self.volumes[one].paths for one in which]

    def take(self, rows: NDArray[np.intp]) -> PacsSliceReader:
        """Return a reader for some of the slices."""
        taken = PacsSliceReader(self.files, self.volumes, self.which[rows], self.numbers[rows])
        taken._shelf = self._shelf
        return taken

    def fingerprint(self) -> str:
        """Return a digest of the address, the UIDs and the slices, as `PacsReader.fingerprint`."""
        return self._digest(f"{self.files.url}{READING}", lambda _: None)


def _fetched(
    files: PacsFiles, uids: list[tuple[str, ...]], rows: NDArray[np.intp], read: Callable[[NDArray[np.intp]], Iterator[T]]
) -> Iterator[T | PetechiaError]:
    """Fetch the files of each image that is asked for, and read the image.

    Args:
        files: the files.
        uids: the objects of each image, n.
        rows: the images, int [n].
        read: reads images.
    """
    for parts, row in zip(uids, rows, strict=True):
        try:
            for uid in parts:
                files.fetch(uid)
        except InstanceError as error:
            yield error
        else:
            yield from read(row[None])


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
