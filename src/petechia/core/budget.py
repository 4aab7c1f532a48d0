"""What a stranger's file may take: one limit for each kind, checked before memory is allocated.

`docs/robustness.md` lists them. A user with a legitimate giant raises a limit in the environment variable `PETECHIA_LIMITS`,
as in `PETECHIA_LIMITS="image_pixels=4e8,image_bytes=8e9"`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

from petechia.core.errors import PetechiaError, alternatives, printable, unreadable

VARIABLE = "PETECHIA_LIMITS"
MIB, GIB = 1 << 20, 1 << 30
CHUNK = 1 << 24  # bytes of one read


def _limit(most: int, meaning: str) -> int:
    number: int = field(default=most, metadata={"meaning": meaning})
    return number


@dataclass(frozen=True)
class Budget:
    """All limits. Each has one meaning, given beside it."""

    image_pixels: int = _limit(80_000_000, "pixels of an image; the largest mammograms have about 30 million")
    image_side: int = _limit(65_535, "pixels of a side of an image")
    image_parts: int = _limit(1 << 17, "chunks of a PNG, or segments of a JPEG before its pixels")
    image_metadata: int = _limit(16 * MIB, "bytes of a PNG or JPEG that are not pixels, such as EXIF data and colour profiles")
    image_scans: int = _limit(100, "scans of a JPEG image; a decoder goes over the whole image for each")
    image_bytes: int = _limit(1 * GIB, "bytes of an image file, DICOM included")
    image_tiles: int = _limit(16_384, "tiles of a JPEG 2000 image")
    dicom_elements: int = _limit(100_000, "data elements and items of a DICOM file, nested ones included")
    dicom_value: int = _limit(1 * MIB, "bytes of a list of numbers or texts in a DICOM file")
    dicomdir_elements: int = _limit(1_000_000, "data elements and items of a DICOMDIR; an image takes about 40")
    volume_slices: int = _limit(20_000, "slices of a volume, or frames of a DICOM file")
    volume_bytes: int = _limit(2 * GIB, "bytes of a volume in memory, unpacked")
    pacs_answer: int = _limit(32 * MIB, "bytes of a list that a PACS answers with")
    pacs_seconds: int = _limit(300, "seconds that a PACS may take for one answer")
    pacs_images: int = _limit(4_000_000, "images that a PACS may list")
    table_bytes: int = _limit(1 * GIB, "bytes of the text of a table, unpacked")
    table_columns: int = _limit(5_000, "columns of a table")
    table_rows: int = _limit(100_000_000, "rows of a table")
    table_cells: int = _limit(50_000_000, "cells of a table, rows times columns; a list counts its items")
    table_memory: int = _limit(4 * GIB, "bytes of address space that reading a Parquet table may need")
    table_seconds: int = _limit(120, "seconds that reading a Parquet table may take")
    table_classes: int = _limit(1_000, "classes of a dataset")
    list_bytes: int = _limit(64 * MIB, "bytes of a list of image names")
    unpack_ratio: int = _limit(200, "size of unpacked data divided by the packed size, beyond `unpack_free`")
    unpack_free: int = _limit(64 * MIB, "bytes that packed data may have when unpacked, whatever the ratio")
    array_bytes: int = _limit(64 * GIB, "bytes of an array of images in an .npz file; the largest of MedMNIST+ has 16 GB")
    array_images: int = _limit(4_000_000, "images of an array")
    array_labels: int = _limit(1 << 24, "numbers in an array of labels")
    array_cells: int = _limit(1 << 28, "images times classes of a dataset in arrays")
    archive_members: int = _limit(100_000, "members of a zip archive")
    model_bytes: int = _limit(16 * GIB, "bytes of a model file")
    model_elements: int = _limit(1 << 32, "elements of all tensors of a model together")
    model_card: int = _limit(16_000_000, "bytes of the description of a model, in its file or beside")
    model_steps: int = _limit(200_000, "operations of a model")
    model_value: int = _limit(2 * GIB, "bytes of a value that a program of torch.export computes for one image")
    model_batch: int = _limit(1 << 28, "elements of one batch that a model is given")
    model_memory: int = _limit(16 * GIB, "bytes of address space that a model in a worker process may need")
    model_seconds: int = _limit(600, "seconds that a model in a worker process may take for one batch")
    decode_memory: int = _limit(2 * GIB, "bytes of address space that decoding an image in a worker process may need")
    decode_seconds: int = _limit(60, "seconds that decoding an image in a worker process may take")
    result_bytes: int = _limit(256 * MIB, "bytes of a JSON file")
    run_bytes: int = _limit(8 * GIB, "bytes of a file of arrays in a run directory")
    config_bytes: int = _limit(1 << 18, "bytes of a configuration file")
    config_values: int = _limit(100_000, "values of a configuration, with its aliases written out")


@cache
def budget() -> Budget:
    """Return the limits, with those that the user has set.

    Raises:
        PetechiaError: the environment variable `PETECHIA_LIMITS` cannot be read.
    """
    known = {one.name for one in fields(Budget)}
    limits = {}
    for part in os.environ.get(VARIABLE, "").replace(",", " ").split():
        name, _, number = part.partition("=")
        try:
            limits[name] = int(float(number))
        except (ValueError, OverflowError):
            limits[name] = 0
        if name not in known or limits[name] < 1:
            raise PetechiaError(
                f"{VARIABLE} contains {printable(part)!r}; give NAME=NUMBER, where NAME is {alternatives(sorted(known))}."
            )
    return Budget(**limits)


def limit(name: str) -> int:
    """Return one limit."""
    most: int = getattr(budget(), name)
    return most


def check(name: str, amount: int, claim: str, advice: str = "check the file") -> None:
    """Refuse what exceeds a limit.

    Args:
        name: name of the limit.
        amount: the number that is asked for.
        claim: beginning of the message, such as "a.png claims 5 x 4 pixels".
        advice: what the user can do about the file.

    Raises:
        PetechiaError: the amount exceeds the limit.
    """
    if amount > (most := limit(name)):
        raise PetechiaError(
            f"{claim}, and the maximum is {most:,}; {advice}, or set {VARIABLE}={name}={amount} if you trust it."
        )


def check_unpacked(unpacked: int, packed: int, claim: str) -> None:
    """Refuse packed data that claims to unpack to a multiple of its size that real data never has.

    Raises:
        PetechiaError: the ratio exceeds `unpack_ratio`, and the size `unpack_free`.
    """
    if unpacked > limit("unpack_free"):
        check("unpack_ratio", -(-unpacked // max(packed, 1)), f"{claim} {unpacked:,} bytes, a multiple of its size")


def check_file(path: Path, name: str, advice: str = "check the path") -> int:
    """Return the size of a file on disk, before it is read.

    Raises:
        PetechiaError: it is not a regular file, cannot be read, or is larger than the limit of this name.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error, advice) from None
    return _check_status(path, status, name, advice)


def read_file(path: Path, name: str, advice: str = "check the path") -> bytes:
    """Read a whole file, which a limit bounds. Pipes and devices, on which a reader could wait for ever, are refused.

    Raises:
        PetechiaError: as for `check_file`.
        FileNotFoundError: there is no such file.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            left = _check_status(path, os.fstat(opened), name, advice)
            parts = []
            while left > 0 and (part := os.read(opened, min(left, CHUNK))):  # a single read would allocate all of it first
                parts.append(part)
                left -= len(part)
        finally:
            os.close(opened)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error, advice) from None


def _check_status(path: Path, status: os.stat_result, name: str, advice: str) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise PetechiaError(f"{path} is not a regular file; {advice}.")
    check(name, status.st_size, f"{path} has {status.st_size:,} bytes", advice)
    return status.st_size
