"""Decode and preprocess a catalog once, in parallel, into a cached, memory-mapped array."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.data.cache import cached
from petechia.data.catalog import Catalog, Reader
from petechia.data.dataset import Dataset
from petechia.data.not_read import NotRead, Reason
from petechia.data.preprocess import Preprocess

OnError = Literal["error", "skip"]


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


def prepare(catalog: Catalog, preprocess: Preprocess, on_error: OnError = "error", progress: Progress = SILENT) -> Prepared:
    """Turn a catalog into a dataset. The result is cached for the same files and settings.

    Args:
        catalog: images to read.
        preprocess: preprocessing of each image.
        on_error: what to do if an image cannot be decoded: raise an "error" or "skip" the image.
        progress: advances with every image; unused if the result is cached.

    Raises:
        PetechiaError: an image cannot be decoded and `on_error` is "error", or no image is left.
    """
    if len(catalog) == 0:
        raise PetechiaError(f"{catalog.name} has no images; check the source.")

    def build(folder: Path) -> None:
        _build(folder, catalog.reader, preprocess, on_error, progress)

    depends_on = {"files": catalog.reader.fingerprint(), "preprocess": preprocess.model_dump(), "on_error": on_error}
    folder = cached("images", depends_on, build)
    entry = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
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
        images=np.memmap(folder / "images.u8", np.uint8, "r", shape=tuple(entry["shape"])),
        shapes=np.load(folder / "shapes.npy"),
        task=catalog.task,
    )
    return Prepared(dataset, catalog, tuple(entry["skipped"]))


class _Done(NamedTuple):
    row: int
    image: NDArray[np.uint8]
    shape: tuple[int, ...]


def _build(folder: Path, reader: Reader, preprocess: Preprocess, on_error: OnError, progress: Progress) -> None:
    """Write images.u8 (raw pixels), rows.npy (rows that were kept), shapes.npy (native shapes) and entry.json."""

    def work(rows: NDArray[np.intp]) -> list[_Done | PetechiaError]:
        return [
            item if isinstance(item, PetechiaError) else _Done(int(row), preprocess(item), item.shape[:2])
            for row, item in zip(rows, reader.read(rows), strict=True)
        ]

    kept: list[int] = []
    shapes: list[tuple[int, ...]] = []
    skipped: list[str] = []
    size: tuple[int, ...] = ()
    with (folder / "images.u8").open("wb") as file:
        for item in in_parallel(work, len(reader)):
            progress.advance(1)
            if isinstance(item, _Done):
                kept.append(item.row)
                shapes.append(item.shape)
                size = item.image.shape
                file.write(item.image.tobytes())
            elif on_error == "error":
                raise item
            else:
                skipped.append(str(item))
    if not kept:
        raise PetechiaError(f"None of the {len(reader):,} images can be used; the first problem: {skipped[0]}")
    np.save(folder / "rows.npy", np.array(kept))
    np.save(folder / "shapes.npy", np.array(shapes, np.int32))
    entry = {"shape": [len(kept), *size], "skipped": skipped}
    (folder / "entry.json").write_text(json.dumps(entry), encoding="utf-8")
