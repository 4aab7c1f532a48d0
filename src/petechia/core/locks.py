"""Locks between processes: a small file, locked as long as its holder lives and removed when it lets go."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from petechia.core.errors import PetechiaError

FOREVER = -1.0
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

warnings.filterwarnings("ignore", "flock not supported on this filesystem")


@contextmanager
def holding(file: Path, busy: str, patience: float = 0) -> Iterator[None]:
    """Hold a lock. The operating system releases it when this process dies, however it dies.

    On a file system that has no locks at all (Lustre without `flock`), filelock writes machine and process into the file
    instead, and takes over what a dead process of the same machine has left.

    Args:
        file: the lock, which is made, never followed if it is a link, and removed at the end.
        busy: sentence of the error if another process holds the lock.
        patience: seconds to wait for the other process.

    Raises:
        PetechiaError: another process holds the lock, or it cannot be one.
        OSError: the file cannot be made.
    """
    lock = FileLock(file, timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        raise PetechiaError(busy) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR):
            raise PetechiaError(f"{file} is a link or a folder, which a lock never is; remove it.") from None
        if error.errno in WITHOUT_LOCKS:
            raise PetechiaError(
                f"{file.parent} is on a file system that cannot lock files ({os.strerror(error.errno)}); choose another folder."
            ) from None
        raise
    try:
        yield
    finally:
        if not hasattr(lock, "pid"):  # which only a lock has that filelock removes itself
            with suppress(OSError):  # while it is held: who waits for it sees that it is gone, and makes a new one
                file.unlink()
        lock.release()
