"""All writing of files and folders, each of which appears complete or not at all.

Temporary names are random and made exclusively, so no process touches what another one is writing, and nothing is written
through a link. What a killed process left behind is removed by the next one that writes the same file or folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from petechia.core.errors import PetechiaError, ResumableError, printable
from petechia.core.flushing import flush_all, flush_folder
from petechia.core.locks import holding

NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC  # an existing file or link is an error
LONGEST = 200  # bytes of a name that become part of a temporary one; a file system allows 255
CHUNK = 1 << 20  # bytes of a copy


# Writing


def expand_home(path: str | Path) -> Path:
    """The path with ~ replaced by the user's home; ~ of a user who does not exist stays, and names no file."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (of pathlib it raises RuntimeError)


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file atomically; missing parent folders are created. A link in its place is replaced, not followed.

    Raises:
        OSError: the write failed; the error names the file, and partial content is removed.
    """
    with naming(path):
        make_folder(path.parent)
        _remove_dead_files(path)
        temporary, descriptor = _begin_file(path)
    with naming(path, temporary):
        try:
            with os.fdopen(descriptor, "wb") as file:  # open, and so locked, until it has its name
                file.write(content)
                file.flush()
                os.fsync(descriptor)
                temporary.replace(path)
            flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 to a file, atomically; see `write_bytes`. Names of files that are not text get question marks."""
    write_bytes(path, text.encode(errors="replace"))


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it if the file system does not support that. An existing target is replaced."""
    make_folder(target.parent)
    _remove_dead_files(target)
    temporary = _partial(target)
    with naming(target, temporary):
        try:
            os.link(source, temporary, follow_symlinks=False)
            temporary.replace(target)
            flush_folder(target.parent)
        except OSError:
            write_bytes(target, source.read_bytes())
        finally:
            temporary.unlink(missing_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file. If that fails, the error names the file at fault, which `shutil` mixes up."""
    with source.open("rb") as given, target.open("wb") as made:
        while True:
            with naming(source):
                part = given.read(CHUNK)
            with naming(target):
                made.write(part)
                made.flush()
            if not part:
                return


@contextmanager
def building(folder: Path, option: str = "--out") -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` on success and is removed on failure.

    Of several processes that build the same folder, one does; the others are refused at once.

    Args:
        folder: it must not exist.
        option: the one that names it, for messages.

    Raises:
        PetechiaError: the folder exists, or another process is building it.
        OSError: a write failed; the error names the folder, or the file in it.
    """
    with claimed(folder, option):
        refuse_existing(folder, option)
        with in_one_step(folder) as temporary:
            yield temporary


@contextmanager
def in_one_step(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """As `building`, for a caller that has claimed the folder and knows that it does not exist.

    All files and folders below it are flushed before it gets its name, and then the folder that it is in.
    """
    with naming(folder):
        _remove_dead_folders(folder)
        temporary = _partial(folder)
        temporary.mkdir(mode)
    with naming(folder, temporary):
        try:
            yield temporary
            flush_all(temporary)
            temporary.rename(folder)
            flush_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def in_many_steps(folder: Path, mode: int) -> Iterator[Path]:
    """As `in_one_step`, but after a process that was killed, the next one gets the temporary folder as it was left.

    It is kept after Ctrl-C and a `ResumableError`, too, and removed after any other failure.
    """
    begun = folder.with_name(f".{_short(folder.name)}.begun")
    with naming(folder, begun):
        if not _is_own(begun):
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir(mode)
        try:
            yield begun
            flush_all(begun)
            begun.rename(folder)
            flush_folder(folder.parent)
        except ResumableError:
            raise
        except Exception:
            shutil.rmtree(begun, ignore_errors=True)
            raise


def remove_begun(parent: Path, seconds: float) -> None:
    """Remove what `in_many_steps` has begun in a folder and nobody has gone on with for some seconds."""
    for begun in parent.glob(".*.begun"):
        with suppress(OSError, PetechiaError), claimed(parent / begun.name[1:].removesuffix(".begun")):
            if time.time() - begun.lstat().st_mtime > seconds:
                shutil.rmtree(begun)


def _is_own(folder: Path) -> bool:
    """Whether this is a folder of this user's in which nobody else can write."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@contextmanager
def claimed(path: Path, option: str = "--out", patience: float = 0) -> Iterator[None]:
    """Keep other processes from writing the same file or folder, by a lock beside it.

    Raises:
        PetechiaError: another process is writing it.
        OSError: the lock cannot be made; the error names the path.
    """
    lock = path.with_name(f".{_short(path.name)}.lock")
    with ExitStack() as stack:
        with naming(path, lock):
            make_folder(path.parent)
            busy = f"Another process is writing {path}; wait for it, or choose another {option}."
            stack.enter_context(holding(lock, busy, patience))
        yield


@contextmanager
def locked(folder: Path, patience: float = 0) -> Iterator[None]:
    """Lock a folder that is written bit by bit against other processes. It must hold no links.

    Args:
        folder: folder to lock; created if it does not exist.
        patience: seconds to wait for the other process.

    Raises:
        PetechiaError: another process is working in the folder, or it holds a link.
    """
    lock = folder / ".lock"
    with ExitStack() as stack:
        with naming(folder, lock):
            make_folder(folder)
            refuse_links(folder)
            busy = f"Another process is working in {folder}; wait for it, or choose another --out."
            stack.enter_context(holding(lock, busy, patience))
        yield


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing, so that they survive a loss of power."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        flush_folder(one.parent)


# Before the work


def refuse_existing(path: Path, option: str = "--out") -> None:
    """Check that a new file or folder can be made, before any work is done.

    Raises:
        PetechiaError: it exists, as a link perhaps, or cannot be made.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        refuse_unwritable(path.parent, option)
    else:
        raise PetechiaError(f"{path} exists already; choose another {option}.")


def refuse_unwritable(folder: Path, option: str = "--out") -> None:
    """Check that files can be made in a folder, which need not exist yet.

    Raises:
        PetechiaError: it cannot be written, or cannot be made.
    """
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        what = "a link that leads nowhere" if there.is_symlink() and not there.exists() else "a file, not a folder"
        raise PetechiaError(f"{there} is {what}; choose another {option}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PetechiaError(f"{there} cannot be written; check its permissions, or choose another folder ({option}).")


def refuse_overlap(one: Path, other: Path, options: str) -> None:
    """Check that of two outputs, or of an input and an output, neither is or holds the other.

    Args:
        one: path of one.
        other: path of the other.
        options: what names them, such as "--out and --clean-to".

    Raises:
        PetechiaError: they overlap.
    """
    first, second = one.resolve(), other.resolve()
    if first == second:
        raise PetechiaError(f"{options} are the same, {one}; give two.")
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise PetechiaError(f"{options} lie in each other, {one} and {other}; give two that do not.")


# What strangers sent


def refuse_links(folder: Path) -> None:
    """Check that a folder, which may come from a stranger, holds nothing but files and folders.

    A link in it could lead reading and writing out of it.

    Raises:
        PetechiaError: it holds a link, a pipe, a socket or a device.
        OSError: it cannot be listed.
    """
    waiting = [os.fspath(folder)] if folder.is_dir() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    kind = _kind(entry.stat(follow_symlinks=False).st_mode)
                    name = printable(os.path.relpath(entry.path, folder), 200)
                    raise PetechiaError(f"{folder} holds {kind}, {name}, but may hold only files and folders; remove it.")


def _kind(mode: int) -> str:
    tests = ((stat.S_ISDIR, "a folder"), (stat.S_ISLNK, "a link"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in tests if test(mode)), "a device")


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Errors


@contextmanager
def naming(path: Path, *aliases: Path) -> Iterator[None]:
    """Make errors of the operating system name a file or folder: one from a write, such as a full disk, names none.

    Args:
        path: what is being written.
        aliases: other names of it, which the user does not know.
    """
    try:
        yield
    except OSError as error:
        named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else str(path)
        for alias in map(str, aliases):
            if named == alias or named.startswith(alias + os.sep):
                named = str(path) + named[len(alias) :]
        if named != error.filename:
            raise OSError(error.errno, error.strerror or str(error), named) from None  # numpy sets no errno
        raise


# Temporary names


def _partial(path: Path) -> Path:
    return path.with_name(f".{_short(path.name)}.{secrets.token_hex(8)}.partial")


def _short(name: str) -> str:
    """A name, or its digest where it is so long that nothing can be added."""
    return name if len(os.fsencode(name)) <= LONGEST else hashlib.sha256(os.fsencode(name)).hexdigest()


def _partials(path: Path) -> list[os.DirEntry[str]]:
    """What processes that live or died have begun of a file or folder."""
    pattern = re.compile(rf"\.{re.escape(_short(path.name))}\.[0-9a-f]{{16}}\.partial")
    with os.scandir(path.parent) as entries:
        return [entry for entry in entries if pattern.fullmatch(entry.name)]


def _begin_file(path: Path) -> tuple[Path, int]:
    """Make a temporary file, locked to show that its writer lives, and return its path and descriptor."""
    while True:
        temporary = _partial(path)
        descriptor = os.open(temporary, os.O_RDWR | NEW, 0o666)
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # another process was quicker, and took it for a dead one's
        temporary.unlink(missing_ok=True)


def _remove_dead_files(path: Path) -> None:
    for entry in _partials(path):
        with suppress(OSError):
            if entry.is_file(follow_symlinks=False):
                descriptor = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    if _lock(descriptor):
                        os.unlink(entry.path)  # noqa: PTH108
                finally:
                    os.close(descriptor)


def _remove_dead_folders(folder: Path) -> None:
    """The folder is claimed, so nobody lives who has begun it."""
    for entry in _partials(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file. Return False if another process holds the lock, None if there are no locks here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True
