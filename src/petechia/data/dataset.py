"""Decoded images as one array, with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from petechia.core.task import Task


class Images(Protocol):
    """An array of images, or an object that can be indexed like one: uint8 [N, H, W] or [N, H, W, 3]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W] or [N, H, W, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Dataset:
    """Decoded and preprocessed images. Arrays have one entry per image; see `Catalog` for the attributes not listed here.

    Attributes:
        images: uint8 [N, H, W] or [N, H, W, 3], usually memory-mapped.
        shapes: int32 [N, 2], height and width of each image before preprocessing.
    """

    classes: tuple[str, ...]
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    split: NDArray[np.str_]
    labels: NDArray[np.int8]
    images: NDArray[np.uint8]
    shapes: NDArray[np.int32]
    task: Task = "multi-label"

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> NDArray[np.intp]:
        """Return the rows of the images in one split."""
        return np.flatnonzero(self.split == split)


@dataclass(frozen=True)
class Selection:
    """Some images of an array, read on access.

    Attributes:
        images: uint8 [N, …], the array.
        rows: int [n], rows of the selected images.
    """

    images: Images
    rows: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, …]."""
        return (len(self.rows), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        return np.asarray(self.images[self.rows[rows]])
