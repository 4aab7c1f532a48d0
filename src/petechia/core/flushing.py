"""What is written reaches the disk, so that it survives a loss of power."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLUSHERS = 16  # threads; a disk flushes several files at once
UNFLUSHABLE = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}  # folders, on some file systems


def flush_all(folder: Path) -> None:
    """Flush all files below a folder, then all folders, the deepest first, and the folder itself."""
    folders, files = [], []
    for where, _, names in os.walk(folder, topdown=False):
        files += [os.path.join(where, name) for name in names]  # noqa: PTH118 (there can be very many)
        folders.append(Path(where))
    with ThreadPoolExecutor(FLUSHERS) as pool:
        for _ in pool.map(_flush_file, files):
            pass
    for one in folders:
        flush_folder(one)


def _flush_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder, where the file system allows it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNFLUSHABLE:
            raise
    finally:
        os.close(descriptor)
