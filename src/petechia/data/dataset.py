"""Decoded images as one array, with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from petechia.core.task import Task


class Images(Protocol):
    """An array of images, or something that gives rows of one: uint8 [N, H, W] or [N, H, W, 3]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W] or [N, H, W, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Dataset:
    """Prepared images. Arrays have one entry an image; see `Catalog` for the meaning of the others.

    Attributes:
        images: uint8 [N, H, W] or [N, H, W, 3], usually memory-mapped.
        shapes: int32 [N, 2], height and width before preprocessing.
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
        """Positions of the images of one split."""
        return np.flatnonzero(self.split == split)


@dataclass(frozen=True)
class Selection:
    """Some images of an array, read when they are asked for.

    Attributes:
        images: uint8 [N, …].
        rows: int [n], which of them.
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
