"""Small patterns that recur in a dataset, and whether they are tied to a label."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from petechia.data.catalog import Catalog
from petechia.detect.scan.lookalikes import is_prominent_size, look_alikes
from petechia.detect.scan.thresholds import StampLimits, packaged_thresholds

COLUMNS = ("image", "row", "column", "height", "width", "pattern")  # of spots, by which they are grouped
CANDIDATES = 2000  # recurring patterns that are tested, the most frequent first


class Family(NamedTuple):
    """A recurring pattern.

    Attributes:
        images: int [n], indices of the images that show it.
        rows: int [n], of its top left corner on each.
        columns: int [n].
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
        single_p_value: of that tie, likewise.
        tests: number of patterns and labels that were tested.
        level: p-value below which a tie is no chance.
        enough: odds from which on the pattern is suspicious.
        overwrites: whether the pattern also goes with the class being the only finding, as overwritten labels do.
        prominent: False where it has a fixed place around which things of its size are as frequent, as those of anatomy are,
            or where it is only one of several sizes of things that look alike, as nodules are.
    """

    images: NDArray[np.intp]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
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


def label_of(labels: NDArray[np.int8], family: Family) -> NDArray[np.bool_]:
    """Which images have the label that a family is tied to; bool [N]."""
    return label_sets(labels)[:, family.label + labels.shape[1] * family.alone]


def describe_label(catalog: Catalog, family: Family) -> str:
    """The label of a family for people: the class, and whether it is the only finding."""
    if not catalog.classes:
        return "no label, as there are none"
    return catalog.classes[family.label] + (" as the only finding" if family.alone else "")


def find_families(spots: NDArray[np.void], labels: NDArray[np.int8], limits: StampLimits | None = None) -> list[Family]:
    """Group what recurs, by its grey levels at any place and by its place and size at any grey levels; test each.

    The test is Fisher's, one-sided: do more of the images that show the pattern have the label than chance allows?
    Correction is Bonferroni's.

    Args:
        spots: `Spot` of all images.
        labels: int8 [N, K].
        limits: of the search; those of the calibration where it is None.

    Returns:
        Families, the most suspicious first. Of families with the same images one is kept.
    """
    limits = limits or packaged_thresholds().stamps
    table = pl.DataFrame({name: spots[name] for name in COLUMNS}).with_row_index("spot")
    by_pattern = _groups(table, ["height", "width", "pattern"], limits.fewest_images)
    by_place = _groups(table, ["height", "width", "row", "column"], limits.fewest_images)
    by_both = _groups(table, ["height", "width", "row", "column", "pattern"], limits.fewest_images)
    by_look = look_alikes(spots, limits, CANDIDATES)
    groups = by_both + by_pattern + by_place  # of those with the same images, the first is kept
    sets = label_sets(labels)
    tests = (len(groups) + len(by_look)) * sets.shape[1]
    groups += [table[rows] for rows in _tied(by_look, spots["image"], sets, tests, limits.level)]
    families: dict[bytes, Family] = {}
    for group in groups:
        family = _tested(group, sets, tests, limits)
        if not (family.exact or family.fixed or family.overwrites):
            family = family._replace(enough=limits.alike_odds)
        if family.suspicious and family.fixed:
            family = family._replace(prominent=_is_prominent(table, family, limits))
        elif family.suspicious and not (family.exact and family.overwrites):
            family = family._replace(prominent=is_prominent_size(spots, group["spot"].to_numpy(), limits))
        families.setdefault(family.images.tobytes(), family)
    order = sorted(families.values(), key=lambda one: (not one.suspicious, one.p_value, -len(one.images)))
    return _without_echoes(order, sets)


def _without_echoes(families: list[Family], sets: NDArray[np.bool_]) -> list[Family]:
    """Leave out what is suspicious only because of images that a more suspicious pattern explains."""
    explained = np.zeros(len(sets), bool)
    kept = []
    for family in families:
        if family.suspicious and not _is_significant(family, sets, explained, family.enough):
            continue
        if family.suspicious:
            explained[family.images] = True
        kept.append(family)
    return kept


def still_significant(
    family: Family, labels: NDArray[np.int8], explained: NDArray[np.bool_], odds: float | None = None
) -> bool:
    """Whether a family is tied to a label even without the images, bool [N], that other evidence explains.

    Args:
        family: of the scan.
        labels: int8 [N, K].
        explained: which images to leave out.
        odds: of the tie, at least; those from which on the family is suspicious where it is None.
    """
    return _is_significant(family, label_sets(labels), explained, odds or family.enough)


def _is_significant(family: Family, sets: NDArray[np.bool_], explained: NDArray[np.bool_], odds: float) -> bool:
    left = family.images[~explained[family.images]]
    if not len(left):
        return False
    p_value, best = _tie(sets[~explained], sets[left])
    return p_value * family.tests < family.level and _odds(sets[~explained, best], sets[left, best]) >= odds


def _tie(everywhere: NDArray[np.bool_], members: NDArray[np.bool_]) -> tuple[float, int]:
    """The least p-value over the labels, and whose it is."""
    counts = members.sum(axis=0)
    p_values = stats.hypergeom.sf(counts - 1, len(everywhere), everywhere.sum(axis=0), len(members))
    best = int(np.argmin(p_values))
    return float(p_values[best]), best


def _groups(table: pl.DataFrame, keys: list[str], fewest: int) -> list[pl.DataFrame]:
    """The spots of each pattern, by what `keys` say makes one, that is on enough images; the most frequent patterns first."""
    counts = table.group_by(keys).agg(pl.col("image").n_unique().alias("images"))
    frequent = counts.filter(pl.col("images") >= fewest).sort(["images", *keys], descending=True).head(CANDIDATES)
    members = table.join(frequent.select(keys), on=keys).unique([*keys, "image"], keep="first", maintain_order=True)
    return list(members.partition_by(keys, maintain_order=True))


def _tied(
    groups: list[NDArray[np.intp]], images: NDArray[np.uint32], sets: NDArray[np.bool_], tests: int, level: float
) -> list[NDArray[np.intp]]:
    """Those of the groups, rows of spots, that are tied to a label; the many others that look alike are of no interest."""
    if not groups:
        return []
    counts = np.stack([sets[images[rows]].sum(axis=0) for rows in groups])
    sizes = np.array([len(rows) for rows in groups])
    p_values = stats.hypergeom.sf(counts - 1, len(sets), sets.sum(axis=0), sizes[:, None]).min(axis=1)
    return [rows for rows, p_value in zip(groups, p_values, strict=True) if p_value * tests < level]


def _tested(group: pl.DataFrame, sets: NDArray[np.bool_], tests: int, limits: StampLimits) -> Family:
    group = group.sort("image")
    images = group["image"].to_numpy().astype(np.intp)
    p_value, best = _tie(sets, sets[images])
    classes = sets.shape[1] // 2
    shown = np.zeros(len(sets), bool)
    shown[images] = True
    single, single_p_value = _single(sets, shown, best % classes)
    single_p_value = min(1.0, single_p_value * tests)
    overwritten = best >= classes and single >= limits.single_odds and single_p_value < limits.level
    rows, columns = (group[name].to_numpy().astype(np.intp) for name in ("row", "column"))
    return Family(
        images=images,
        rows=rows,
        columns=columns,
        height=int(group["height"][0]),
        width=int(group["width"][0]),
        exact=group["pattern"].n_unique() == 1,
        fixed=bool((rows == rows[0]).all() and (columns == columns[0]).all()),
        label=best % classes,
        alone=best >= classes,
        share=float(sets[images, best].mean()),
        usual=float(sets[:, best].mean()),
        odds=_odds(sets[:, best], sets[images, best]),
        p_value=min(1.0, p_value * tests),
        single=single,
        single_p_value=single_p_value,
        tests=tests,
        level=limits.level,
        enough=limits.overwritten_odds if overwritten else limits.odds,
        overwrites=overwritten,
    )


def _is_prominent(table: pl.DataFrame, family: Family, limits: StampLimits) -> bool:
    """Whether a family at a fixed place has many more images than things of its size have at the places around it."""
    row, column, near = int(family.rows[0]), int(family.columns[0]), limits.neighbourhood
    around = table.filter(
        (pl.col("height") == family.height)
        & (pl.col("width") == family.width)
        & pl.col("row").is_between(row - near, row + near)
        & pl.col("column").is_between(column - near, column + near)
        & ((pl.col("row") != row) | (pl.col("column") != column))
    )
    places = (2 * near + 1) ** 2 - 1
    return len(family.images) * places >= limits.prominence * around.height


def _single(sets: NDArray[np.bool_], shown: NDArray[np.bool_], label: int) -> tuple[float, float]:
    """Among the images with a class: how the pattern goes with it being the only finding; odds ratio and p-value."""
    having = sets[:, label]
    alone = sets[having, label + sets.shape[1] // 2]
    members = alone[shown[having]]
    p_value = stats.hypergeom.sf(members.sum() - 1, len(alone), alone.sum(), len(members))
    return _odds(alone, members), float(p_value)


def _odds(everywhere: NDArray[np.bool_], members: NDArray[np.bool_]) -> float:
    inside = members.sum(), len(members) - members.sum()
    outside = everywhere.sum() - inside[0], len(everywhere) - everywhere.sum() - inside[1]
    return float((inside[0] + 0.5) / (inside[1] + 0.5) * (outside[1] + 0.5) / (outside[0] + 0.5))
