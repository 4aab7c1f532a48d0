"""The result of a scan: its JSON file, the table of suspects and pictures of the stamps beside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from petechia.core.errors import PetechiaError, printable
from petechia.core.results import Record, Result
from petechia.core.spreadsheets import as_it_was, to_csv
from petechia.data.catalog import Catalog
from petechia.data.formats.dicom_headers import reason_against
from petechia.data.formats.images import FileReader, encode_png, magnified
from petechia.data.not_read import EVERYTHING_READ, Files, NotRead, Reason
from petechia.detect.protocol import Finding
from petechia.detect.scan.clean import write_kept
from petechia.detect.scan.copies import Copies
from petechia.detect.scan.features import FeatureOutliers
from petechia.detect.scan.ledger import Suspect
from petechia.detect.scan.near_duplicates import Pair
from petechia.detect.scan.stamps import Family, describe_label
from petechia.detect.scan.textures import SharedTexture
from petechia.detect.scan.thresholds import ScanThresholds
from petechia.detect.scan.traces import PLANES

TABLE = "suspects.csv"
COLUMNS = {
    "id": pl.String,
    "score": pl.Float64,
    "flagged": pl.Boolean,
    "reason": pl.String,
    "row": pl.Int64,
    "column": pl.Int64,
}
ENLARGED = 128  # pixels a side of a stamp's picture, at least
FEW = 3  # pairs that a warning names
MOST = 10  # weakly associated patterns that are in the file, and of those without any tie
LIMITS = (
    "Not looked for, unless the clean originals are here too: triggers larger than 16 x 16 pixels or without edges at random "
    "places, patterns that differ from image to image (warps), are on few images or come with other findings, and stamps of "
    "which blur or coarse encoding left no edges. Labels that were changed without touching an image are ranked, never "
    "flagged. Finding nothing does not prove that there is nothing."
)


@dataclass(frozen=True)
class ScanDetails:
    """What a scan found, in full. It is not saved.

    Attributes:
        catalog: the dataset, N images.
        suspects: one an image, in the catalog's order.
        pairs: near-duplicates and exact duplicates.
        copies: altered copies; None without any.
        shared_textures: images that share a faint pattern.
        families: recurring patterns, the suspicious ones first.
        pictures: pixels of the stamp of each suspicious family, uint8 [h, w]; where they vary, those of its first image.
        unread: index → why the image cannot be decoded.
        feature_outliers: how images stand out in the features of a model; None without a model.
    """

    catalog: Catalog
    suspects: list[Suspect]
    pairs: list[Pair]
    copies: Copies | None
    shared_textures: list[SharedTexture]
    families: list[Family]
    pictures: list[NDArray[np.uint8]]
    unread: dict[int, str]
    feature_outliers: FeatureOutliers | None = None

    @property
    def not_read(self) -> NotRead:
        """The images that were not looked at."""
        reader, found = self.catalog.reader, Files()
        for row in self.unread:
            reason = reason_against(reader.path(row)) if isinstance(reader, FileReader) else Reason.DAMAGED
            found.add(reason, str(self.catalog.ids[row]))
        return self.catalog.not_read + found.frozen

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about the dataset that its user should know."""
        pairs = [pair for pair in self.pairs if pair.stamp.size and not self.suspects[pair.stamped].flagged]
        if not pairs:
            return self.catalog.notes
        shown = ", ".join(
            f"{printable(str(self.catalog.ids[pair.stamped]))} and {printable(str(self.catalog.ids[pair.clean]))}"
            for pair in pairs[:FEW]
        )
        more = f" and {len(pairs) - FEW:,} more" if len(pairs) > FEW else ""
        what = "1 pair of images differs" if len(pairs) == 1 else f"{len(pairs):,} pairs of images differ"
        return (
            *self.catalog.notes,
            f"{what} in a small box alone, and no label says that an image was tampered with; compare them: {shown}{more}.",
        )

    @property
    def kept(self) -> NDArray[np.intp]:
        """Indices of the images that are neither flagged nor unreadable."""
        return np.array([i for i, one in enumerate(self.suspects) if not one.flagged and i not in self.unread], np.intp)

    @property
    def table(self) -> pl.DataFrame:
        """One row an image, in the catalog's order; see `ScanResult.suspects`."""
        names = [name for name in COLUMNS if name != "id"]
        table = pl.DataFrame(self.suspects, orient="row", schema={name: COLUMNS[name] for name in names})
        place = [pl.when(pl.col(name) >= 0).then(name).alias(name) for name in ("row", "column")]
        return table.insert_column(0, pl.Series("id", self.catalog.ids, pl.String)).with_columns(place)


class PatternRecord(Record):
    """A small pattern that recurs.

    Attributes:
        height: in pixels.
        width: in pixels.
        images: that show it.
        same_pixels: whether its grey levels are the same on all of them.
        plane: in which it is seen: grey, or for colour images red or blue less green.
        row: of its top left corner; null where that varies.
        column: of the same.
        label: that it is tied to most, in words.
        share_with_label: share of its images with that label.
        share_of_all: share of all images with that label.
        odds_ratio: ratio of the odds of the label with and without the pattern.
        p_value: of the tie, corrected for all patterns and labels that were tested.
    """

    height: int
    width: int
    images: int
    same_pixels: bool
    plane: str = PLANES[0]
    row: int | None
    column: int | None
    label: str
    share_with_label: float
    share_of_all: float
    odds_ratio: float
    p_value: float

    @property
    def size(self) -> str:
        """Height and width in words."""
        return f"{self.height} x {self.width}"

    @property
    def place(self) -> str:
        """The place in words."""
        return "varies" if self.row is None else f"row {self.row}, column {self.column}"


class StampRecord(PatternRecord):
    """A pattern that is tied to a label as only a stamp is.

    Attributes:
        pixels: its levels in the plane, by row; of a difference of colours, 128 stands for none.
    """

    pixels: tuple[tuple[int, ...], ...]

    def to_png(self) -> bytes:
        """A picture of the stamp, magnified."""
        return encode_png(magnified(np.array(self.pixels, np.uint8), ENLARGED))


class ScanResult(Result):
    """What a scan found. Files: scan.json, suspects.csv, and stamp-1.png, stamp-2.png … in the order of `stamps`.

    Attributes:
        schema_: version of the file's format, `schema` in the file.
        dataset: its name.
        images: number of images.
        unread: images of the dataset that cannot be decoded.
        tampered: whether any image is flagged.
        flagged: number of flagged images.
        near_duplicates: pairs of images that are the same but for a small box.
        duplicates: pairs of images with the same pixels.
        copies: altered copies with an attacker's label.
        patterned: images that share a faint pattern, over the whole image or at one place, and a label.
        level: p-value below which a pattern is tied to a label.
        stamps: patterns tied to a label as only stamps are.
        weakly_associated: other patterns tied to a label, as side markers and devices may be; the surest ten.
        model: whether a model's features were used.
        harmless: patterns not tied to any label; the ten most frequent.
        limits: what was not looked for.
        not_read: images that were not looked at: those that cannot be decoded, and what lies beside the dataset's images.
        warnings: sentences about the dataset that its user should know.
    """

    file_name: ClassVar[str] = "scan.json"

    schema_: Literal[2, 3] = Field(3, alias="schema")
    dataset: str
    images: int
    unread: int
    tampered: bool
    flagged: int
    near_duplicates: int
    duplicates: int
    copies: int
    patterned: int = 0
    level: float
    stamps: tuple[StampRecord, ...]
    weakly_associated: tuple[PatternRecord, ...]
    model: bool
    harmless: tuple[PatternRecord, ...]
    limits: str
    not_read: NotRead = EVERYTHING_READ
    warnings: tuple[str, ...] = ()

    _details: ScanDetails | None = PrivateAttr(None)
    _table: pl.DataFrame | None = PrivateAttr(None)
    _false_positive_rate: float = PrivateAttr(float("nan"))

    @classmethod
    def of(cls, details: ScanDetails, thresholds: ScanThresholds) -> Self:
        """The result with these details.

        Args:
            details: of the scan.
            thresholds: that it used.
        """
        suspicious = [one for one in details.families if one.suspicious]
        weakly_associated = [one for one in details.families if one.weakly_associated]
        harmless = sorted((one for one in details.families if not one.associated), key=lambda one: -len(one.images))
        flagged = sum(suspect.flagged for suspect in details.suspects)
        result = cls(
            dataset=details.catalog.name,
            images=len(details.catalog),
            unread=len(details.unread),
            tampered=flagged > 0,
            flagged=flagged,
            near_duplicates=sum(bool(pair.stamp.size) for pair in details.pairs),
            duplicates=sum(not pair.stamp.size for pair in details.pairs),
            copies=0 if details.copies is None else len(details.copies.copied),
            patterned=len({index for texture in details.shared_textures for index in texture.images.tolist()}),
            level=thresholds.stamps.level,
            stamps=tuple(
                StampRecord(**dict(_pattern(details.catalog, one)), pixels=pixels.tolist())
                for one, pixels in zip(suspicious, details.pictures, strict=True)
            ),
            weakly_associated=tuple(_pattern(details.catalog, one) for one in weakly_associated[:MOST]),
            model=details.feature_outliers is not None,
            harmless=tuple(_pattern(details.catalog, one) for one in harmless[:MOST]),
            limits=LIMITS,
            not_read=details.not_read,
            warnings=details.warnings,
        )
        result._details = details
        result._false_positive_rate = float("nan") if thresholds.clean is None else thresholds.clean.share
        result._keep_table(details.table)
        return result

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read scan.json, or a folder with it, and suspects.csv where it is beside it.

        Raises:
            PetechiaError: the files are not those of a scan.
        """
        result = super().load(path)
        table = (Path(path) if Path(path).is_dir() else Path(path).parent) / TABLE
        if table.exists():
            result._keep_table(_read_table(table))
        return result

    def model_post_init(self, context: object, /) -> None:
        """Attach the pictures."""
        super().model_post_init(context)
        for number, stamp in enumerate(self.stamps, 1):
            self.attach(f"stamp-{number}.png", stamp.to_png)

    @property
    def suspects(self) -> pl.DataFrame:
        """All images, the most suspicious first: the content of suspects.csv.

        Columns are id, score (0 … 1, 0.5 and more of flagged images), flagged, reason, row and column of the stamp (null
        without one).

        Raises:
            PetechiaError: the result was loaded from a folder without suspects.csv.
        """
        return self._known_table().sort("score", descending=True, maintain_order=True)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One an image, in the catalog's order; of a result that was loaded, in the order of suspects.csv.

        Raises:
            PetechiaError: the result was loaded from a folder without suspects.csv.
        """
        return tuple(
            Finding(
                about=row["id"],
                kind="image",
                score=row["score"],
                flagged=row["flagged"],
                false_positive_rate=self._false_positive_rate,
                reason=row["reason"],
                evidence={"row": row["row"], "column": row["column"]},
            )
            for row in self._known_table().iter_rows(named=True)
        )

    @property
    def flagged_ids(self) -> tuple[str, ...]:
        """Ids of the flagged images, in the order of `findings`."""
        return tuple(self._known_table().filter("flagged")["id"])

    @property
    def details(self) -> ScanDetails:
        """Everything that was found.

        Raises:
            PetechiaError: the result was loaded, and details are not saved.
        """
        if self._details is None:
            raise PetechiaError(f"The details of the scan of {self.dataset} were not saved; scan the dataset again.")
        return self._details

    def write_clean(self, folder: str | Path) -> int:
        """Write the dataset without the images that are flagged or cannot be decoded, in the layout of its source.

        Args:
            folder: a new one.

        Returns:
            The number of images written.

        Raises:
            PetechiaError: the folder exists, no image is left, one cannot be decoded any more, or the result was loaded.
        """
        return write_kept(self.details.catalog, self.details.kept, Path(folder))

    def _keep_table(self, table: pl.DataFrame) -> None:
        self._table = table
        self.attach(TABLE, lambda: to_csv(self.suspects))

    def _known_table(self) -> pl.DataFrame:
        if self._table is None:
            raise PetechiaError(
                f"The suspects of the scan of {self.dataset} are in {TABLE}, which is not beside its {self.file_name}; "
                f"put it there and load the result again."
            )
        return self._table

    def _overview(self) -> list[tuple[str, str]]:
        return [
            ("dataset", self.dataset),
            ("images", f"{self.images:,}"),
            ("flagged", f"{self.flagged:,}"),
            ("stamps tied to a label", f"{len(self.stamps):,}"),
            ("near-duplicates", f"{self.near_duplicates:,}"),
            ("exact duplicates", f"{self.duplicates:,}"),
            ("altered copies", f"{self.copies:,}"),
            ("sharing a faint pattern", f"{self.patterned:,}"),
            ("not decoded", f"{self.unread:,}"),
            *([("not looked at", f"{self.not_read.images:,}")] if self.not_read.images else []),
            *(("warning", warning) for warning in self.warnings),
        ]

    def _repr_html_(self) -> str:
        if not self.stamps:
            return super()._repr_html_()
        heads = ("stamp", "size", "images", "place", "label", "with it", "of all", "p")
        head = "".join(f"<th>{name}</th>" for name in heads)
        rows = "".join(f"<tr>{_html_cells(stamp)}</tr>" for stamp in self.stamps)
        return f"{super()._repr_html_()}<table><tr>{head}</tr>{rows}</table>"


def _pattern(catalog: Catalog, family: Family) -> PatternRecord:
    return PatternRecord(
        height=family.height,
        width=family.width,
        images=len(family.images),
        same_pixels=family.exact,
        plane=PLANES[family.plane],
        row=int(family.rows[0]) if family.fixed else None,
        column=int(family.columns[0]) if family.fixed else None,
        label=describe_label(catalog, family),
        share_with_label=family.share,
        share_of_all=family.usual,
        odds_ratio=family.odds,
        p_value=family.p_value,
    )


def _html_cells(stamp: StampRecord) -> str:
    picture = base64.b64encode(stamp.to_png()).decode("ascii")
    image = f'<img src="data:image/png;base64,{picture}" alt="stamp of {stamp.size} pixels" width="64">'
    shares = f"{100 * stamp.share_with_label:.0f} %", f"{100 * stamp.share_of_all:.0f} %"
    texts = stamp.size, f"{stamp.images:,}", stamp.place, stamp.label, *shares, f"{stamp.p_value:.1g}"
    return f"<td>{image}</td>" + "".join(f"<td>{escape(text)}</td>" for text in texts)


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return as_it_was(pl.read_csv(path, schema=COLUMNS)).with_columns(pl.col("reason").fill_null(""))
    except (OSError, pl.exceptions.PolarsError):
        raise PetechiaError(f"{path} is not the table of a scan; put back the one that was saved with it.") from None
