"""Writes a dataset without the images that a scan flags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.files import building, refuse_existing
from petechia.data.catalog import Catalog, Written
from petechia.data.export import as_png, write_dataset
from petechia.data.formats.images import FileReader, encode_png


def write_kept(catalog: Catalog, kept: NDArray[np.intp], folder: Path) -> int:
    """Write some images of a dataset and their labels, in the layout of its source.

    Args:
        catalog: the dataset.
        kept: int [n], the images to write.
        folder: a new one.

    Returns:
        The number of images written.

    Raises:
        PetechiaError: the folder exists, no image is left, or one cannot be decoded any more.
    """
    refuse_existing(folder, "--clean-to")
    if not len(kept):
        raise PetechiaError("No image would be left in the clean dataset; nothing was written.")

    def content(j: int) -> bytes | None:
        if isinstance(catalog.reader, FileReader):
            return None
        image = next(iter(catalog.reader.read(kept[j : j + 1])))
        if isinstance(image, PetechiaError):
            raise image
        return encode_png(image)

    ids = catalog.ids[kept] if isinstance(catalog.reader, FileReader) else as_png(catalog.ids[kept])
    with building(folder, "--clean-to") as temporary:
        write_dataset(temporary, catalog, Written(kept, ids, catalog.labels[kept], content))
    return len(kept)
