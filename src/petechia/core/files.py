"""Writing files so that nothing half-written is ever found."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from petechia.core.errors import PetechiaError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step; folders are made as needed.

    Raises:
        OSError: with the name of the file; what was written until then is removed.
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
    """The same for text."""
    write_bytes(path, text.encode())


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_existing(folder: Path, option: str = "--out") -> None:
    """Say at once what would stop a write.

    Raises:
        PetechiaError: the folder exists.
    """
    if folder.exists():
        raise PetechiaError(f"{folder} exists already; choose another {option}.")


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes `folder`, which must not exist; on failure it is removed.

    Raises:
        OSError: with the name of the folder.
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
    # An error of a write, such as a full disk, does not know which file it was.
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None  # numpy gives no number
        raise
