"""Reads the images of a catalog and keeps their traces in the cache, shard by shard, so that a scan that was killed goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.data.cache import cached, find_cached
from petechia.data.catalog import Catalog, Reader
from petechia.data.formats.images import FileReader
from petechia.data.formats.slices import SliceReader
from petechia.data.shards import OnError, ReadShards, Rows, Shard, in_shards, on_this_machine
from petechia.detect.scan import traces as tracing
from petechia.detect.scan.spots import to_table
from petechia.detect.scan.traces import FINE, GRID, Grey, Spot, Trace, plane_of, trace

SHARD = 1024  # images that are read, kept and, if a worker is lost, read again together
KIND = "traces"  # of the entries in the cache
FORMAT = 2  # of these entries; increase it when their content changes
UNREAD = "unread.json"


class RowsOf(Protocol):
    """Arrays of N images, one a row, in memory or on disk: `rows[some]` gives those of some images, int [n]."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> NDArray[Any]: ...


class Traces(NamedTuple):
    """Traces of N images.

    Attributes:
        blocks: float32 [N, GRID, GRID], on disk; see `Trace`. 0 for an image that cannot be decoded.
        textures: int8 [N, FINE, FINE], on disk.
        shapes: int32 [N, 2], height and width; 0 for an image that cannot be decoded.
        spots: those of all images, on disk; see `petechia.detect.scan.spots`.
        unread: index → why the image cannot be decoded.
    """

    blocks: RowsOf
    textures: RowsOf
    shapes: NDArray[np.int32]
    spots: pl.LazyFrame
    unread: dict[int, str]


class OnDisk:
    """Rows of arrays in .npy files that follow one another, `size` rows in each but the last.

    Files are mapped only while rows are taken from them, so none of it stays in the memory of the process.
    """

    def __init__(self, files: Sequence[Path], size: int, count: int) -> None:
        self.files = files
        self.size = size
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        like = np.load(self.files[0], mmap_mode="r")
        found = np.empty((len(rows), *like.shape[1:]), like.dtype)
        which = rows // self.size
        for one in np.unique(which).tolist():
            here = which == one
            found[here] = np.load(self.files[one], mmap_mode="r")[rows[here] - one * self.size]
        return found


def read_traces(
    catalog: Catalog, on_error: OnError = "error", progress: Progress = SILENT, read: ReadShards = on_this_machine
) -> Traces:
    """Read every image once. What was read of the same files before, by a scan that was killed too, is taken from the cache.

    Args:
        catalog: N images.
        on_error: "skip" notes images that cannot be decoded in `unread`.
        progress: gets the phase "looking at images".
        read: where they are read.

    Raises:
        PetechiaError: an image cannot be decoded and `on_error` is "error".
    """
    progress.phase("looking at images", len(catalog))
    shards = in_shards(0, len(catalog), SHARD)
    entries = [_Entry.of(catalog, rows) for rows in shards]
    missing = [number for number, entry in enumerate(entries) if entry.folder is None]
    progress.advance(len(catalog) - sum(len(shards[number]) for number in missing))
    done = read(read_shard, catalog.reader, [shards[number] for number in missing], on_error, progress)
    for number, shard in zip(missing, done, strict=True):
        entries[number] = entries[number].stored(shard)
    folders = [entry.folder for entry in entries if entry.folder is not None]
    unread = {row: reason for folder in folders for row, reason in _unread(folder).items()}
    if unread and on_error == "error":
        raise PetechiaError(next(iter(unread.values())))
    return Traces(
        blocks=OnDisk([folder / "blocks.npy" for folder in folders], SHARD, len(catalog)),
        textures=OnDisk([folder / "textures.npy" for folder in folders], SHARD, len(catalog)),
        shapes=np.concatenate([np.load(folder / "shapes.npy") for folder in folders]),
        spots=pl.scan_parquet([folder / "spots.parquet" for folder in folders], glob=False),
        unread=unread,
    )


class _Entry(NamedTuple):
    """The traces of a shard in the cache; the folder is None where they are not there yet."""

    key: dict[str, Any]
    folder: Path | None

    @classmethod
    def of(cls, catalog: Catalog, rows: Rows) -> _Entry:
        seen = hashlib.sha256(Path(tracing.__file__).read_bytes()).hexdigest()
        key = {"files": catalog.reader.take(rows).fingerprint(), "first": int(rows[0]), "format": FORMAT, "traces": seen}
        # What could not be decoded may be decoded now, with a codec that was installed since or a server that is back.
        for attempt in count():
            key["attempt"] = attempt
            folder = find_cached(KIND, key)
            if folder is None or not _is_any_readable(catalog, _unread(folder)):
                return cls(key, folder)
        raise AssertionError

    def stored(self, shard: Shard) -> _Entry:
        return self._replace(folder=cached(KIND, self.key, lambda folder: _store(folder, shard)))


def _unread(folder: Path) -> dict[int, str]:
    return {int(row): reason for row, reason in json.loads((folder / UNREAD).read_text(encoding="utf-8")).items()}


def _is_any_readable(catalog: Catalog, unread: dict[int, str]) -> bool:
    return any(not isinstance(image, PetechiaError) for image in read_grey(catalog.reader, np.array(list(unread), np.intp)))


def _store(folder: Path, shard: Shard) -> None:
    for name, content in shard.files.items():
        (folder / name).write_bytes(content)
    (folder / UNREAD).write_text(json.dumps(shard.unread), encoding="utf-8")


def read_shard(reader: Reader, rows: Rows, on_error: OnError, progress: Progress = SILENT, threads: int = 0) -> Shard:
    """The traces of some images, as files: arrays (.npy) and spots (.parquet); see `petechia.data.shards.ReadShard`."""
    blocks = np.zeros((len(rows), GRID, GRID), np.float32)
    textures = np.zeros((len(rows), FINE, FINE), np.int8)
    shapes = np.zeros((len(rows), 2), np.int32)
    spots = [np.zeros(0, Spot)]
    unread: dict[int, str] = {}

    def work(some: Rows) -> list[Trace | PetechiaError]:
        images = zip(rows[some].tolist(), _read(reader, rows[some]), strict=True)
        return [image if isinstance(image, PetechiaError) else trace(image, row) for row, image in images]

    for number, item in enumerate(in_parallel(work, len(rows), threads)):
        progress.advance()
        if not isinstance(item, PetechiaError):
            blocks[number], textures[number], shapes[number] = item.blocks, item.texture, item.shape
            spots.append(item.spots)
        elif on_error == "error":
            raise item
        else:
            unread[int(rows[number])] = str(item)
    table = BytesIO()
    to_table(np.concatenate(spots)).write_parquet(table)
    files = {
        "blocks.npy": _npy(blocks),
        "textures.npy": _npy(textures),
        "shapes.npy": _npy(shapes),
        "spots.parquet": table.getvalue(),
    }
    return Shard(files, unread)


def _npy(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def _read(reader: Reader, rows: Rows) -> Iterator[Grey | PetechiaError]:
    return reader.read_uncut(rows) if isinstance(reader, FileReader | SliceReader) else reader.read(rows)


def read_grey(reader: Reader, rows: Rows, plane: int = 0) -> Iterator[Grey | PetechiaError]:
    """Read one plane of some images; values that a window of the file cuts off are told apart.

    Args:
        reader: of all images.
        rows: int [n], those to read.
        plane: number of one of `PLANES`.

    Yields:
        For each row, uint8 or int16 [H, W], see `petechia.data.levels.uncut`, or the error if the image cannot be decoded.
    """
    for image in _read(reader, rows):
        yield image if isinstance(image, PetechiaError) else plane_of(image, plane)


def read_grey_image(catalog: Catalog, index: int, plane: int = 0) -> Grey:
    """Read one image again, as `read_grey` does.

    Raises:
        PetechiaError: it cannot be decoded.
    """
    image = next(read_grey(catalog.reader, np.array([index]), plane))
    if isinstance(image, PetechiaError):
        raise image
    return image
