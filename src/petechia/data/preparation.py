"""Decode and preprocess a catalog once, in parallel, into a cached, memory-mapped array."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.files import write_bytes
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.data.cache import cached
from petechia.data.catalog import Catalog, Reader
from petechia.data.dataset import Dataset
from petechia.data.not_read import NotRead, Reason
from petechia.data.preprocess import Preprocess
from petechia.data.shards import OnError, ReadShards, Rows, Shard, in_shards, on_this_machine

SHARD = 1024  # images, at most, that are written and, if a worker is lost, prepared again together
SHARD_BYTES = 1 << 25  # of them
IMAGES, ENTRY = "images.u8", "entry.json"
PARTS = "part-*.json"


class Prepared(NamedTuple):
    """A prepared dataset.

    Attributes:
        dataset: decoded and preprocessed images.
        catalog: catalog of these images, in the same order; its `not_read` names those that were left out.
        skipped: one error message for every image that was left out.
    """

    dataset: Dataset
    catalog: Catalog
    skipped: tuple[str, ...]


def prepare(
    catalog: Catalog,
    preprocess: Preprocess,
    on_error: OnError = "error",
    progress: Progress = SILENT,
    read: ReadShards = on_this_machine,
) -> Prepared:
    """Turn a catalog into a dataset. The result is cached for the same files and settings.

    It is written shard by shard; after a kill or Ctrl-C, the same call goes on after the last whole one.

    Args:
        catalog: images to read.
        preprocess: preprocessing of each image.
        on_error: what to do if an image cannot be decoded: raise an "error" or "skip" the image.
        progress: advances with every image; unused if the result is cached.
        read: where images are read. The result is the same, byte for byte.

    Raises:
        PetechiaError: an image cannot be decoded and `on_error` is "error", or no image is left.
    """
    if len(catalog) == 0:
        raise PetechiaError(f"{catalog.name} has no images; check the source.")

    def build(folder: Path) -> None:
        _build(folder, catalog, preprocess, on_error, progress, read)

    depends_on = {"files": catalog.reader.fingerprint(), "preprocess": preprocess.model_dump(), "on_error": on_error}
    folder = cached("images", depends_on, build, resumes=True)
    entry = _read_json(folder / ENTRY)
    kept = np.load(folder / "rows.npy")
    if len(kept) < len(catalog):
        left_out = np.setdiff1d(np.arange(len(catalog)), kept)
        not_read = NotRead.of(Reason.DAMAGED, catalog.ids[left_out].tolist())
        catalog = replace(catalog.take(kept), not_read=catalog.not_read + not_read)
    dataset = Dataset(
        classes=catalog.classes,
        ids=catalog.ids,
        patients=catalog.patients,
        split=catalog.split,
        labels=catalog.labels,
        images=np.memmap(folder / IMAGES, np.uint8, "r", shape=tuple(entry["shape"])),
        shapes=np.load(folder / "shapes.npy"),
        task=catalog.task,
    )
    return Prepared(dataset, catalog, tuple(entry["skipped"]))


class _Part(NamedTuple):
    """What is known of a shard that was written.

    Attributes:
        stop: the row after its last.
        rows: those of its images that were kept.
        shapes: native height and width of each.
        skipped: why the others were left out.
        image: shape of a prepared image; empty if none was kept.
    """

    stop: int
    rows: list[int]
    shapes: list[list[int]]
    skipped: list[str]
    image: list[int]

    @classmethod
    def found(cls, folder: Path) -> list[Self]:
        """The parts that were written before, in order."""
        return [cls(**_read_json(path)) for path in sorted(folder.glob(PARTS))]

    @property
    def bytes(self) -> int:
        """Of its images."""
        return len(self.rows) * prod(self.image)


def _build(
    folder: Path, catalog: Catalog, preprocess: Preprocess, on_error: OnError, progress: Progress, read: ReadShards
) -> None:
    """Write images.u8 (raw pixels), rows.npy (rows that were kept), shapes.npy (native shapes) and entry.json, which is last.

    Before that, each shard is added to images.u8, and then noted in a file of its own.
    """
    if not (folder / ENTRY).is_file():
        parts = _append(folder, catalog, preprocess, on_error, progress, read)
        _finish(folder, parts, len(catalog))
    for path in folder.glob(PARTS):
        path.unlink()


def _append(
    folder: Path, catalog: Catalog, preprocess: Preprocess, on_error: OnError, progress: Progress, read: ReadShards
) -> list[_Part]:
    parts = _Part.found(folder)
    start = parts[-1].stop if parts else 0
    progress.advance(start)
    size = SHARD_BYTES // (preprocess.size**2 * (3 if catalog.colour else 1))
    shards = in_shards(start, len(catalog), min(SHARD, max(1, size)))
    done = read(partial(prepare_shard, preprocess), catalog.reader, shards, on_error, progress)
    with (folder / IMAGES).open("ab") as file:
        file.truncate(sum(part.bytes for part in parts))
        for rows, shard in zip(shards, done, strict=True):
            file.write(shard.files[IMAGES])
            file.flush()
            os.fsync(file.fileno())
            known = json.loads(shard.files[ENTRY])
            part = _Part(stop=int(rows[-1]) + 1, skipped=list(shard.unread.values()), **known)
            write_bytes(folder / PARTS.replace("*", f"{rows[0]:012d}"), json.dumps(part._asdict()).encode())
            parts.append(part)
    return parts


def _finish(folder: Path, parts: Sequence[_Part], images: int) -> None:
    rows = [row for part in parts for row in part.rows]
    skipped = [reason for part in parts for reason in part.skipped]
    if not rows:
        raise PetechiaError(f"None of the {images:,} images can be used; the first problem: {skipped[0]}")
    shapes = [shape for part in parts for shape in part.shapes]
    size = next(part.image for part in reversed(parts) if part.image)
    write_bytes(folder / "rows.npy", _npy(np.array(rows)))
    write_bytes(folder / "shapes.npy", _npy(np.array(shapes, np.int32)))
    write_bytes(folder / ENTRY, json.dumps({"shape": [len(rows), *size], "skipped": skipped}).encode())


def prepare_shard(
    preprocess: Preprocess, reader: Reader, rows: Rows, on_error: OnError, progress: Progress = SILENT, threads: int = 0
) -> Shard:
    """Prepare some images: their pixels, and what `_Part` says of them; see `petechia.data.shards.ReadShard`."""

    def work(some: Rows) -> list[tuple[NDArray[np.uint8], tuple[int, ...]] | PetechiaError]:
        return [
            item if isinstance(item, PetechiaError) else (preprocess(item), item.shape[:2]) for item in reader.read(rows[some])
        ]

    images: list[bytes] = []
    size: tuple[int, ...] = ()
    kept, shapes, unread = list[int](), list[tuple[int, ...]](), dict[int, str]()
    for row, item in zip(rows.tolist(), in_parallel(work, len(rows), threads), strict=True):
        progress.advance(1)
        if not isinstance(item, PetechiaError):
            images.append(item[0].tobytes())  # the array may be a view of the whole native image
            size = item[0].shape
            shapes.append(item[1])
            kept.append(row)
        elif on_error == "error":
            raise item
        else:
            unread[row] = str(item)
    known = {"rows": kept, "shapes": shapes, "image": size}
    return Shard({IMAGES: b"".join(images), ENTRY: json.dumps(known).encode()}, unread)


def _npy(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
