"""Small patterns that recur in a dataset, and whether they are tied to a label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from petechia.data.catalog import Catalog
from petechia.detect.scan.lookalikes import SMALLEST, is_prominent_size, look_alikes
from petechia.detect.scan.spots import GROUPED, collected, count, most_frequent, to_spots, to_table
from petechia.detect.scan.thresholds import StampLimits, packaged_thresholds

COLUMNS = ("image", "plane", "row", "column", "height", "width", "pattern")  # of spots, by which they are grouped
KINDS = (  # what makes a pattern: grey levels at one place, grey levels at any, or any at one place
    ["plane", "height", "width", "row", "column", "pattern"],
    ["plane", "height", "width", "pattern"],
    ["plane", "height", "width", "row", "column"],
)
CANDIDATES = 2000  # recurring patterns that are tested, the most frequent first
Rows = NDArray[np.uint32]


class Family(NamedTuple):
    """A recurring pattern.

    Attributes:
        images: uint32 [n], indices of the images that show it.
        rows: uint16 [n], of its top left corner on each.
        columns: uint16 [n].
        height: in pixels.
        width: in pixels.
        exact: whether the grey levels are the same everywhere; else only place and size are.
        fixed: whether the place is the same everywhere.
        label: position of the class that it is tied to most.
        alone: whether the tie is to that class as the only finding.
        share: of its images that have that label.
        usual: share of all images that have it.
        odds: ratio of the odds of the label with and without the pattern (with half an image added to each count).
        p_value: of the tie, one-sided, corrected for all patterns and labels that were tested.
        single: among the images with the class, ratio of the odds that it is the only finding with and without the pattern.
        single_p_value: of that tie, corrected for the patterns that are tied to a label, of which it is asked.
        tests: number of patterns and labels that were tested.
        level: p-value below which a tie is no chance.
        enough: odds from which on the pattern is suspicious.
        overwrites: whether the pattern also goes with the class being the only finding, as overwritten labels do.
        prominent: False where it has a fixed place around which things of its size are as frequent, as those of anatomy are,
            or where it is only one of several sizes of things that look alike, as nodules are.
        plane: of the images in which it is seen, see `petechia.detect.scan.traces.PLANES`.
    """

    images: NDArray[np.uint32]
    rows: NDArray[np.uint16]
    columns: NDArray[np.uint16]
    height: int
    width: int
    exact: bool
    fixed: bool
    label: int
    alone: bool
    share: float
    usual: float
    odds: float
    p_value: float
    single: float
    single_p_value: float
    tests: int
    level: float
    enough: float
    overwrites: bool
    prominent: bool = True
    plane: int = 0

    @property
    def associated(self) -> bool:
        """Whether it is tied to a label at all: chance does not explain that they go together."""
        return self.p_value < self.level

    @property
    def suspicious(self) -> bool:
        """Whether it is tied to a label as only a stamp is."""
        return self.associated and self.odds >= self.enough and self.prominent

    @property
    def weakly_associated(self) -> bool:
        """Whether it is tied to a label, but not as only a stamp is."""
        return self.associated and not self.suspicious


def label_sets(labels: NDArray[np.int8]) -> NDArray[np.bool_]:
    """What a pattern may be tied to: each class, and each class alone; bool [N, 2 K]. Without classes, one that none has."""
    present = labels == 1 if labels.shape[1] else np.zeros((len(labels), 1), bool)
    return np.concatenate([present, present & (present.sum(axis=1) == 1)[:, None]], axis=1)


class LabelCounts(NamedTuple):
    """The labels of all images, and how many of the images that count have each.

    Attributes:
        sets: bool [N, 2 K], see `label_sets`.
        totals: int [2 K], images with each label.
        images: number of images.
        explained: bool [N], images that do not count, because other evidence explains them.
    """

    sets: NDArray[np.bool_]
    totals: NDArray[np.intp]
    images: int
    explained: NDArray[np.bool_]

    @classmethod
    def of(cls, labels: NDArray[np.int8], explained: NDArray[np.bool_] | None = None) -> LabelCounts:
        """Count labels.

        Args:
            labels: int8 [N, K].
            explained: bool [N], images that do not count; None where all do.
        """
        sets = label_sets(labels)
        return cls(sets, sets.sum(axis=0), len(sets), np.zeros(len(sets), bool)).without(explained)

    def without(self, explained: NDArray[np.bool_] | None) -> LabelCounts:
        """The counts without some more images, bool [N]."""
        if explained is None or not explained.any():
            return self
        more = np.flatnonzero(explained & ~self.explained)
        totals = self.totals - self.sets[more].sum(axis=0)
        return LabelCounts(self.sets, totals, self.images - len(more), self.explained | explained)

    def tie(self, counts: NDArray[np.intp], members: int) -> tuple[float, int]:
        """Of a pattern on `members` images, of which `counts`, int [2 K], have each label: the least p-value, and its label."""
        p_values = stats.hypergeom.sf(counts - 1, self.images, self.totals, members)
        best = int(np.argmin(p_values))
        return float(p_values[best]), best

    def odds(self, label: int, count: int, members: int) -> float:
        """The ratio of the odds of a label with and without the pattern."""
        return _odds(count, members, int(self.totals[label]), self.images)

    def single(self, having: NDArray[np.intp], label: int) -> tuple[float, float]:
        """Among the images with a class: how a pattern goes with it being the only finding; odds ratio and p-value.

        Args:
            having: int [2 K], images with the pattern that have each label.
            label: position of the class.
        """
        alone = label + len(self.totals) // 2
        members, inside = int(having[label]), int(having[alone])
        images, everywhere = int(self.totals[label]), int(self.totals[alone])
        return _odds(inside, members, everywhere, images), float(stats.hypergeom.sf(inside - 1, images, everywhere, members))


def label_of(labels: NDArray[np.int8], family: Family) -> NDArray[np.bool_]:
    """Which images have the label that a family is tied to; bool [N]."""
    if not labels.shape[1]:
        return np.zeros(len(labels), bool)
    has = labels[:, family.label] == 1
    return np.asarray(has & ((labels == 1).sum(axis=1) == 1) if family.alone else has)


def describe_label(catalog: Catalog, family: Family) -> str:
    """The label of a family for people: the class, and whether it is the only finding."""
    if not catalog.classes:
        return "no label, as there are none"
    return catalog.classes[family.label] + (" as the only finding" if family.alone else "")


def find_families(
    spots: NDArray[np.void] | pl.LazyFrame, labels: NDArray[np.int8], limits: StampLimits | None = None
) -> list[Family]:
    """Group what recurs, by its grey levels at any place and by its place and size at any grey levels; test each.

    The test is Fisher's, one-sided: do more of the images that show the pattern have the label than chance allows?
    Correction is Bonferroni's.

    Args:
        spots: `Spot` of all images; or a table of them, see `petechia.detect.scan.spots`.
        labels: int8 [N, K].
        limits: of the search; those of the calibration where it is None.

    Returns:
        Families, the most suspicious first. Of families with the same images one is kept.
    """
    limits = limits or packaged_thresholds().stamps
    table = (spots if isinstance(spots, pl.LazyFrame) else to_table(spots).lazy()).with_row_index("spot")
    recurring = [most_frequent(table, keys, limits.fewest_images, CANDIDATES) for keys in KINDS]
    by_look = _by_look(table, limits)
    counts = LabelCounts.of(labels)
    tests = (sum(values.height for values in recurring) + len(by_look)) * len(counts.totals)
    found: dict[bytes, tuple[Family, Rows]] = {}

    def keep(groups: Iterable[pl.DataFrame]) -> None:
        tested = [(int(group["spot"][0]), _tested(group, counts, tests, limits)) for group in groups]
        for _, (family, numbers) in sorted(tested, key=itemgetter(0)):
            found.setdefault(hashlib.sha256(family.images.tobytes()).digest(), (family, numbers))

    for keys, values in zip(KINDS, recurring, strict=True):  # of families with the same images, the first is kept
        keep(_groups(table, keys, values))
    keep(_tied(by_look, counts, tests, limits.level))
    tied = sum(family.associated for family, _ in found.values())
    families = [_judged(table, family, spots, tied, limits) for family, spots in found.values()]
    order = sorted(families, key=lambda one: (not one.suspicious, one.p_value, -len(one.images)))
    return _without_echoes(order, counts)


def _without_echoes(families: list[Family], counts: LabelCounts) -> list[Family]:
    """Leave out what is suspicious only because of images that a more suspicious pattern explains."""
    kept = []
    for family in families:
        if family.suspicious and not _is_significant(family, counts, family.enough):
            continue
        if family.suspicious:
            explained = np.zeros(len(counts.sets), bool)
            explained[family.images] = True
            counts = counts.without(explained)
        kept.append(family)
    return kept


def still_significant(family: Family, counts: LabelCounts, odds: float | None = None) -> bool:
    """Whether a family is tied to a label even without the images that other evidence explains.

    Args:
        family: of the scan.
        counts: of the labels of the other images.
        odds: of the tie, at least; those from which on the family is suspicious where it is None.
    """
    return _is_significant(family, counts, odds or family.enough)


def _is_significant(family: Family, counts: LabelCounts, odds: float) -> bool:
    left = family.images[~counts.explained[family.images]]
    if not len(left):
        return False
    having = counts.sets[left].sum(axis=0)
    p_value, best = counts.tie(having, len(left))
    return p_value * family.tests < family.level and counts.odds(best, int(having[best]), len(left)) >= odds


def _groups(table: pl.LazyFrame, keys: list[str], values: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The spots, the first of each image, of each pattern that some columns make with these values; some patterns at a time."""
    batch = values["images"].cum_sum() // GROUPED
    for some in values.with_columns(batch.alias("batch")).partition_by("batch", maintain_order=True):
        members = collected(table.select("spot", *COLUMNS).join(some.lazy().select(keys), on=keys, how="semi"))
        first = members.sort("spot").unique([*keys, "image"], keep="first", maintain_order=True)
        yield from first.partition_by(keys, maintain_order=True)


def _by_look(table: pl.LazyFrame, limits: StampLimits) -> list[pl.DataFrame]:
    """The spots of each group that looks alike."""
    some = collected(table.filter((pl.col("height") >= SMALLEST) & (pl.col("width") >= SMALLEST)))
    groups = look_alikes(to_spots(some), limits, CANDIDATES)
    kept = some.select("spot", *COLUMNS)
    return [kept[rows] for rows in groups]


def _tied(groups: list[pl.DataFrame], counts: LabelCounts, tests: int, level: float) -> list[pl.DataFrame]:
    """Those of the groups that are tied to a label; the many others that look alike are of no interest."""
    if not groups:
        return []
    having = np.stack([counts.sets[group["image"].to_numpy()].sum(axis=0) for group in groups])
    sizes = np.array([group.height for group in groups])
    p_values = stats.hypergeom.sf(having - 1, counts.images, counts.totals, sizes[:, None]).min(axis=1)
    return [group for group, p_value in zip(groups, p_values, strict=True) if p_value * tests < level]


def _tested(group: pl.DataFrame, counts: LabelCounts, tests: int, limits: StampLimits) -> tuple[Family, Rows]:
    """The family of some spots, one an image, as far as labels judge it; and the numbers of its spots if it is tied to one."""
    group = group.sort("image")
    images, rows, columns = (group[name].to_numpy() for name in ("image", "row", "column"))
    having = counts.sets[images].sum(axis=0)
    p_value, best = counts.tie(having, len(images))
    classes = len(counts.totals) // 2
    single, single_p_value = counts.single(having, best % classes)
    family = Family(
        images=images,
        rows=rows,
        columns=columns,
        height=int(group["height"][0]),
        width=int(group["width"][0]),
        exact=group["pattern"].n_unique() == 1,
        fixed=bool((rows == rows[0]).all() and (columns == columns[0]).all()),
        label=best % classes,
        alone=best >= classes,
        share=float(having[best] / len(images)),
        usual=float(counts.totals[best] / counts.images),
        odds=counts.odds(best, int(having[best]), len(images)),
        p_value=min(1.0, p_value * tests),
        single=single,
        single_p_value=single_p_value,
        tests=tests,
        level=limits.level,
        enough=limits.odds,
        overwrites=False,
        plane=int(group["plane"][0]),
    )
    return family, group["spot"].to_numpy() if family.associated else np.zeros(0, np.uint32)


def _judged(table: pl.LazyFrame, family: Family, spots: Rows, tied: int, limits: StampLimits) -> Family:
    """The family with what makes it suspicious.

    Args:
        table: of all spots, with their numbers.
        family: as `_tested` leaves it.
        spots: numbers of its spots.
        tied: families that are tied to a label. Of these it is asked whether that is a class alone, so for these the answer is
            corrected.
        limits: of the search.
    """
    single_p_value = min(1.0, family.single_p_value * max(tied, 1))
    alone = family.alone and family.associated and family.odds >= limits.overwritten_odds
    overwrites = alone and family.single >= limits.single_odds and single_p_value < limits.level
    by_look = not (family.exact or family.fixed or overwrites)
    enough = limits.overwritten_odds if overwrites else limits.alike_odds if by_look else limits.odds
    family = family._replace(single_p_value=single_p_value, overwrites=overwrites, enough=enough)
    if family.suspicious and family.fixed:
        return family._replace(prominent=_is_prominent(table, family, limits))
    if family.suspicious and not (family.exact and family.overwrites):
        return family._replace(prominent=_has_prominent_size(table, family, spots, limits))
    return family


def _is_prominent(table: pl.LazyFrame, family: Family, limits: StampLimits) -> bool:
    """Whether a family at a fixed place has many more images than things of its size have at the places around it."""
    row, column, near = int(family.rows[0]), int(family.columns[0]), limits.neighbourhood
    around = table.filter(
        (pl.col("plane") == family.plane)
        & (pl.col("height") == family.height)
        & (pl.col("width") == family.width)
        & pl.col("row").is_between(row - near, row + near)
        & pl.col("column").is_between(column - near, column + near)
        & ((pl.col("row") != row) | (pl.col("column") != column))
    )
    places = (2 * near + 1) ** 2 - 1
    return len(family.images) * places >= limits.prominence * count(around)


def _has_prominent_size(table: pl.LazyFrame, family: Family, spots: Rows, limits: StampLimits) -> bool:
    """See `is_prominent_size`; only the spots of about the size of the family are read."""
    some = collected(
        table.filter(
            (pl.col("plane") == family.plane)
            & pl.col("height").is_between(max(family.height - 1, 1), family.height + 1)
            & pl.col("width").is_between(max(family.width - 1, 1), family.width + 1)
        )
    )
    return is_prominent_size(to_spots(some), np.flatnonzero(np.isin(some["spot"].to_numpy(), spots)), limits)


def _odds(inside: int, members: int, everywhere: int, images: int) -> float:
    """Ratio of the odds with and without a pattern, with half an image added to each count.

    Args:
        inside: images with the pattern and the label.
        members: images with the pattern.
        everywhere: images with the label.
        images: number of images.
    """
    without, outside = members - inside, everywhere - inside
    neither = images - everywhere - without
    return (inside + 0.5) / (without + 0.5) * (neither + 0.5) / (outside + 0.5)
