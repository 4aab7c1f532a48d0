"""A data source: images and labels of a NumPy archive, `npz:FILE`."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petechia import PetechiaError
from petechia.data import Catalog
from petechia.data.catalog import split_by_patient
from petechia.data.sources import SourceOpener


class Images:
    """Reads images of an array, uint8 [N, H, W]."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        """Some of the images."""
        return (self.images[row] for row in rows.tolist())

    def take(self, rows: NDArray[np.intp]) -> Images:
        """The same for some of the images."""
        return Images(self.images[rows])

    def fingerprint(self) -> str:
        """A digest of the pixels."""
        return hashlib.sha256(self.images.tobytes()).hexdigest()


def open_npz(source: str, text: str, missing: str = "error") -> Catalog:
    """Open an archive of `images`, uint8 [N, H, W], `labels`, [N, K], and `classes`, K names.

    Raises:
        PetechiaError: it is not such a file.
    """
    path = Path(text).expanduser()
    try:
        with np.load(path, allow_pickle=False) as arrays:  # a pickle could run any code
            images, labels, classes = (arrays[key] for key in ("images", "labels", "classes"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise PetechiaError(f"The data source {source!r} cannot be read ({error}); give an archive of arrays.") from None
    if images.ndim != 3 or images.dtype != np.uint8 or labels.shape != (len(images), len(classes)):
        raise PetechiaError(f"{path} holds images {images.shape} and labels {labels.shape}; write the archive again.")
    ids = np.array([f"{row:06d}.png" for row in range(len(images))])
    names, split = tuple(map(str, classes)), split_by_patient(ids, test=0.2)
    return Catalog(path.stem, names, ids, ids, split, labels.astype(np.int8), Images(images))


NPZ = SourceOpener("npz:FILE", "Images and labels of a NumPy archive", open_npz)
