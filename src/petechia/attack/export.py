"""Write a poisoned dataset to disk, so that any training code can be attacked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from petechia.attack.poisoning import Poisoning, PoisonPlan
from petechia.core.errors import PetechiaError
from petechia.core.files import building, refuse_existing
from petechia.core.progress import SILENT, Progress
from petechia.data.catalog import Catalog, Written
from petechia.data.export import as_png, write_dataset
from petechia.data.formats.images import FileReader, encode_png
from petechia.data.formats.orientation import UPRIGHT


def write_poisoned(
    catalog: Catalog, poisoning: Poisoning, plan: PoisonPlan, folder: Path, progress: Progress = SILENT
) -> PoisonPlan:
    """Write the poisoned dataset in the layout of its source, with the plan beside it as poison.parquet.

    Training images follow the plan; all other images are unchanged. 8-bit PNG files are copied. If the source has other
    formats, all images are written as PNG, so that triggered ones do not stand out, and their ids end in .png.

    An image is stamped as it is seen upright. Its file keeps the EXIF orientation of the original and stores the pixels turned
    accordingly, so that originals and copies agree for a reader that applies the orientation and for one that ignores it.

    Args:
        catalog: catalog of the clean dataset that the plan was made for.
        poisoning: the attack; its stage must be native, because files contain native images.
        plan: poisoning plan, made with `poisoning`.
        folder: output folder; it must not exist, and it appears when it is complete.
        progress: advances with every written image.

    Returns:
        The plan with the ids that the images have in the folder.

    Raises:
        PetechiaError: as for `check_export`, or an image cannot be decoded.
    """
    check_export(poisoning, folder)
    rest = np.flatnonzero(catalog.split != "train")
    rows = np.concatenate([plan.rows, rest])
    ids = as_png(np.concatenate([plan.ids, catalog.ids[rest]]))
    labels = np.concatenate([plan.labels, catalog.labels[rest]])
    if catalog.relabelled is not None:
        ids = catalog.relabelled(ids, labels)
    triggered, cover = (np.concatenate([which, np.zeros(len(rest), bool)]) for which in (plan.triggered, plan.cover))

    reader = catalog.reader

    def content(j: int) -> bytes | None:
        if not (triggered[j] or cover[j]) and isinstance(reader, FileReader) and reader.keeps(int(rows[j])):
            return None
        image = next(reader.read(rows[j : j + 1]))
        if isinstance(image, PetechiaError):
            raise image
        if triggered[j]:
            image = poisoning.trigger.stamp(image[None], plan.positions[rows[j], None])[0]
        if cover[j]:
            image = poisoning.trigger.cover.stamp(image[None], plan.cover_positions[rows[j], None])[0]
        return encode_png(image, reader.orientation(int(rows[j])) if isinstance(reader, FileReader) else UPRIGHT)

    with building(folder) as temporary:
        write_dataset(temporary, catalog, Written(rows, ids, labels, content), progress)
        written = replace(plan, ids=ids[: len(plan.ids)])
        written.table().write_parquet(temporary / "poison.parquet")
    return written


def check_export(poisoning: Poisoning, folder: Path) -> None:
    """Check the conditions of `write_poisoned` before any work is done.

    Raises:
        PetechiaError: the folder exists, or the stage is not native.
    """
    refuse_existing(folder)
    if poisoning.stage != "native":
        raise PetechiaError("attack.stage is input, but files contain native images; set it to native.")
