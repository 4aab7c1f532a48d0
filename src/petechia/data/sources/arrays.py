"""Catalogs of images and labels in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petechia.core.errors import PetechiaError
from petechia.data.catalog import Catalog, split_by_patient

TEST_SHARE = 0.2  # share of the patients in the test split


class ArrayReader:
    """Reads images from one array.

    Attributes:
        images: uint8 [N, H, W] or [N, H, W, 3].
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Yield some of the images."""
        for row in rows:
            yield self.images[row]

    def take(self, rows: NDArray[np.intp]) -> ArrayReader:
        """Return a reader for some of the images."""
        return ArrayReader(self.images[rows])

    def fingerprint(self) -> str:
        """Return a digest of all pixels."""
        return hashlib.sha256(self.images.tobytes()).hexdigest()


def of_arrays(
    images: ArrayLike,
    labels: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    name: str = "arrays",
) -> Catalog:
    """Make a multi-label catalog of images in memory.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3], or any form that `as_images` accepts.
        labels: [N, K], 1 present, 0 absent, -1 unknown; None means no classes.
        classes: names of the K classes; the default is "class 0", "class 1", …
        ids: names of the images; the default is their indices.
        patients: patient of each image; all images of a patient are in the same split. By default, every image counts as its
            own patient.
        name: name of the collection.

    Raises:
        PetechiaError: shapes or values are invalid or inconsistent.
    """
    array = as_images(images)
    marks = np.zeros((len(array), 0), np.int8) if labels is None else np.asarray(labels)
    if marks.ndim != 2 or len(marks) != len(array) or not np.isin(marks, (-1, 0, 1)).all():
        raise PetechiaError(
            f"labels are {list(marks.shape)} for {len(array)} images; give [{len(array)}, classes] of 1 (present), 0 (absent) "
            f"and -1 (unknown)."
        )
    names = tuple(classes) if classes is not None else tuple(f"class {k}" for k in range(marks.shape[1]))
    if len(names) != marks.shape[1] or len(set(names)) < len(names):
        raise PetechiaError(
            f"classes has {len(names)} names for {marks.shape[1]} columns of labels; give one distinct name per column."
        )
    own = np.array(list(ids) if ids is not None else [str(row) for row in range(len(array))], np.str_)
    whose = np.array(list(patients), np.str_) if patients is not None else own
    if len(own) != len(array) or len(whose) != len(array) or len(np.unique(own)) < len(own):
        raise PetechiaError(f"ids and patients need one entry for each of the {len(array)} images, with distinct ids.")
    return Catalog(
        name=name,
        classes=names,
        ids=own,
        patients=whose,
        split=split_by_patient(whose, TEST_SHARE),
        labels=marks.astype(np.int8),
        reader=ArrayReader(array),
        colour=array.ndim == 4,
    )


def as_images(given: ArrayLike) -> NDArray[np.uint8]:
    """Convert images to the format that Petechia uses.

    Args:
        given: uint8 in 0…255 or floating point in 0…1, [N, H, W] or [N, H, W, 3], or with the channels first as in PyTorch,
            [N, 1, H, W] or [N, 3, H, W].

    Returns:
        uint8 [N, H, W] or [N, H, W, 3].

    Raises:
        PetechiaError: the shape or the values have another form.
    """
    array = np.asarray(given)
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        array = np.moveaxis(array, 1, 3)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3) or not array.size:
        raise PetechiaError(
            f"The images have the shape {list(np.shape(given))}; give [N, H, W] or [N, H, W, 3] with N of at least 1."
        )
    if array.dtype == np.uint8:
        return np.asarray(array)
    if np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        return np.asarray(np.rint(array * 255), np.uint8)
    raise PetechiaError(
        f"The images are {array.dtype} from {array.min():g} to {array.max():g}; give uint8 in 0…255, or floating point in 0…1."
    )
