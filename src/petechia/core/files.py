"""Atomic writes: a file or folder appears complete or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from petechia.core.errors import PetechiaError


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file atomically; missing parent folders are created.

    Raises:
        OSError: the write failed; the error names the file, and partial content is removed.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 to a file, atomically; see `write_bytes`."""
    write_bytes(path, text.encode())


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_existing(folder: Path, option: str = "--out") -> None:
    """Raise if an output folder exists, before any work is done.

    Raises:
        PetechiaError: the folder exists.
    """
    if folder.exists():
        raise PetechiaError(f"{folder} exists already; choose another {option}.")


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` on success and removed on failure; `folder` must not exist.

    Raises:
        OSError: a write failed; the error names the folder.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    with _named(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.iterdir():
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    # An error from a write, such as a full disk, does not name the file.
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None  # numpy sets no errno
        raise
