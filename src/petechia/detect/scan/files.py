"""What a scan found, as files: every image's suspicion, the stamps as pictures, and a summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from petechia.core.errors import PetechiaError
from petechia.core.files import building, refuse_existing
from petechia.data.catalog import Written
from petechia.data.export import write_dataset
from petechia.data.formats.images import FileReader, encode_png, magnified
from petechia.detect.scan.stamps import LEVEL, Family
from petechia.detect.scan.suspects import Scan, describe_label

ENLARGED = 128  # pixels a side of a stamp's picture, at least
HARMLESS = 10  # recurring patterns that are told beside the suspicious ones: that lean to a label, and without any tie
LIMITS = (
    "Not looked for, unless the clean originals are here too: triggers larger than 16 x 16 pixels or without edges (warped, "
    "sinusoidal or faint over the whole image), and stamps that were blurred or encoded with loss after stamping. Nor are "
    "labels that were changed without touching an image. Finding nothing does not prove that there is nothing."
)


def write_scan(found: Scan, folder: Path) -> dict[str, Any]:
    """Write suspects.csv, scan.json and a stamp-N.png for every suspicious pattern into a new folder.

    Returns:
        The content of scan.json.

    Raises:
        PetechiaError: the folder exists.
    """
    refuse_existing(folder, "--out")
    content = summary_of(found)
    with building(folder) as temporary:
        suspects_table(found).write_csv(temporary / "suspects.csv")
        (temporary / "scan.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        for number, picture in enumerate(found.pictures, 1):
            (temporary / f"stamp-{number}.png").write_bytes(encode_png(magnified(picture, ENLARGED)))
    return content


def suspects_table(found: Scan) -> pl.DataFrame:
    """Columns id, score, flagged, reason, row and column (null without a place); the most suspicious image first."""
    table = pl.DataFrame(found.suspects, orient="row", schema=["score", "flagged", "reason", "row", "column"])
    place = [pl.when(pl.col(name) >= 0).then(name).alias(name) for name in ("row", "column")]
    return (
        table.insert_column(0, pl.Series("id", found.catalog.ids))
        .with_columns(place)
        .sort("score", descending=True, maintain_order=True)
    )


def summary_of(found: Scan) -> dict[str, Any]:
    """What scan.json holds."""
    suspicious = [one for one in found.families if one.suspicious]
    weakly_associated = [one for one in found.families if one.weakly_associated]
    harmless = sorted((one for one in found.families if one.p_value >= LEVEL), key=lambda one: -len(one.images))
    return {
        "schema": 1,
        "dataset": found.catalog.name,
        "images": len(found.catalog),
        "unread": len(found.unread),
        "tampered": found.found,
        "flagged": sum(suspect.flagged for suspect in found.suspects),
        "twins": sum(bool(pair.stamp.size) for pair in found.pairs),
        "duplicates": sum(not pair.stamp.size for pair in found.pairs),
        "copies": 0 if found.copies is None else len(found.copies.copied),
        "level": LEVEL,
        "stamps": [
            _family(found, one) | {"pixels": picture.tolist()} for one, picture in zip(suspicious, found.pictures, strict=True)
        ],
        "leaning": [_family(found, one) for one in weakly_associated[:HARMLESS]],
        "model": found.feature_outliers is not None,
        "harmless": [_family(found, one) for one in harmless[:HARMLESS]],
        "limits": LIMITS,
    }


def _family(found: Scan, one: Family) -> dict[str, Any]:
    return {
        "height": one.height,
        "width": one.width,
        "images": len(one.images),
        "same_pixels": one.exact,
        "row": int(one.rows[0]) if one.fixed else None,
        "column": int(one.columns[0]) if one.fixed else None,
        "label": describe_label(found.catalog, one),
        "share_with_label": one.share,
        "share_of_all": one.usual,
        "odds_ratio": one.odds,
        "p_value": one.p_value,
    }


def write_clean(found: Scan, folder: Path) -> int:
    """Write the dataset without the images that are flagged or cannot be read, in its own layout.

    Returns:
        The number of images written.

    Raises:
        PetechiaError: the folder exists, no image is left, or one cannot be decoded any more.
    """
    refuse_existing(folder, "--clean-to")
    catalog, kept = found.catalog, found.kept
    if not len(kept):
        raise PetechiaError("No image would be left in the clean dataset; nothing was written.")

    def content(j: int) -> bytes | None:
        if isinstance(catalog.reader, FileReader):
            return None
        image = next(iter(catalog.reader.read(kept[j : j + 1])))
        if isinstance(image, PetechiaError):
            raise image
        return encode_png(image)

    with building(folder) as temporary:
        write_dataset(temporary, catalog, Written(kept, catalog.ids[kept], catalog.labels[kept], content))
    return len(kept)
