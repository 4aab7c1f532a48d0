"""Turns what was found into evidence, by the rules. Each function gives indices of images with the evidence against them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from petechia.data.catalog import Catalog
from petechia.detect.scan.copies import Copies
from petechia.detect.scan.ledger import Evidence
from petechia.detect.scan.near_duplicates import Pair
from petechia.detect.scan.rules import (
    ALTERED_COPY,
    EXACT_DUPLICATE_OTHER_LABELS,
    EXACT_DUPLICATE_SAME_LABELS,
    EXACT_DUPLICATE_WRITTEN_LABELS,
    NEAR_DUPLICATE_KNOWN_STAMP,
    NEAR_DUPLICATE_NO_LABELS,
    NEAR_DUPLICATE_OTHER_LABELS,
    NEAR_DUPLICATE_SAME_LABELS,
    SHARED_TEXTURE,
    SHOWS_STAMP,
    WEAKLY_ASSOCIATED,
)
from petechia.detect.scan.search import Place
from petechia.detect.scan.stamps import Family, describe_label, label_of
from petechia.detect.scan.textures import SharedTexture
from petechia.detect.scan.thresholds import Scores
from petechia.detect.scan.traces import FINE

Found = Iterator[tuple[int, Evidence]]


def from_pairs(catalog: Catalog, pairs: list[Pair], scores: Scores, recurring: int) -> Found:
    """Against the stamped image of each pair, and against both images of exact duplicates.

    A pair contradicts itself if its labels differ. The stamps of such pairs are known from there on, and the labels that most
    of their stamped images have are those that the attacker wrote. Where no image of a pair has a label, the box of `recurring`
    or more such pairs is a stamp.
    """
    contradicts = [bool((catalog.labels[pair.stamped] != catalog.labels[pair.clean]).any()) for pair in pairs]
    proofs = [pair for pair, differs in zip(pairs, contradicts, strict=True) if differs and pair.stamp.size]
    known = {trait for pair in proofs for trait in _traits(pair)}
    written = Counter(catalog.labels[pair.stamped].tobytes() for pair in proofs)
    infected = written.most_common(1)[0][0] if written else b""
    unlabelled = [pair for pair in pairs if pair.stamp.size and (catalog.labels[[pair.stamped, pair.clean]] < 0).all()]
    seen = Counter(trait for pair in unlabelled for trait in _traits(pair))
    stamps = {trait: pairs for trait, pairs in seen.items() if pairs >= recurring}
    for pair, differs in zip(pairs, contradicts, strict=True):
        if pair.stamp.size:
            yield pair.stamped, _from_near_duplicate(catalog, pair, differs, known, stamps, scores)
        else:
            yield from _from_duplicates(catalog, pair, differs, infected, scores)


def _from_near_duplicate(
    catalog: Catalog, pair: Pair, differs: bool, known: set[object], stamps: dict[object, int], scores: Scores
) -> Evidence:
    recurs = max(stamps.get(trait, 0) for trait in _traits(pair))
    if differs:
        rule = NEAR_DUPLICATE_OTHER_LABELS
    elif not known.isdisjoint(_traits(pair)):
        rule = NEAR_DUPLICATE_KNOWN_STAMP
    elif recurs and (catalog.labels[[pair.stamped, pair.clean]] < 0).all():
        rule = NEAR_DUPLICATE_NO_LABELS
    else:
        rule = NEAR_DUPLICATE_SAME_LABELS
    height, width = pair.stamp.shape
    place = pair.row, pair.column
    return rule.evidence(scores, place, other=catalog.ids[pair.clean], height=height, width=width, pairs=recurs)


def _from_duplicates(catalog: Catalog, pair: Pair, differs: bool, infected: bytes, scores: Scores) -> Found:
    # A stamp on pixels that had its grey level already leaves no difference but the label.
    for index, other in ((pair.stamped, pair.clean), (pair.clean, pair.stamped)):
        if not differs:
            rule = EXACT_DUPLICATE_SAME_LABELS
        elif catalog.labels[index].tobytes() == infected:
            rule = EXACT_DUPLICATE_WRITTEN_LABELS
        else:
            rule = EXACT_DUPLICATE_OTHER_LABELS
        yield index, rule.evidence(scores, other=catalog.ids[other])


def _traits(pair: Pair) -> tuple[object, object]:
    """By what a stamp is known again: its pixels, and its place."""
    return (pair.stamp.shape, pair.stamp.tobytes()), (pair.stamp.shape, pair.row, pair.column)


def from_stamp(catalog: Catalog, family: Family, places: Iterable[tuple[int, Place]], scores: Scores) -> Found:
    """Against images, given with the place, that show the stamp of a family and have its label."""
    evidence = SHOWS_STAMP.evidence(
        scores,
        strength=family.share,
        height=family.height,
        width=family.width,
        images=len(family.images),
        share=100 * family.share,
        label=describe_label(catalog, family),
    )
    for index, (row, column) in places:
        yield index, evidence._replace(row=row, column=column)


def from_weakly_associated(catalog: Catalog, family: Family, explained: NDArray[np.bool_], scores: Scores) -> Found:
    """Against the images of a pattern that have its label and, bool [N], are not explained by other evidence.

    The evidence is the stronger, the fewer of them have the label by chance.
    """
    evidence = WEAKLY_ASSOCIATED.evidence(
        scores,
        strength=max(0.0, 1 - family.usual / family.share),
        height=family.height,
        width=family.width,
        images=len(family.images),
        label=describe_label(catalog, family),
        share=100 * family.share,
        usual=100 * family.usual,
    )
    for index, (row, column) in with_label(family, label_of(catalog.labels, family) & ~explained):
        yield index, evidence._replace(row=row, column=column)


def with_label(family: Family, label: NDArray[np.bool_]) -> Iterator[tuple[int, Place]]:
    """The images of a family among those with its label, bool [N], and where they show the pattern."""
    for index, row, column in zip(family.images.tolist(), family.rows.tolist(), family.columns.tolist(), strict=True):
        if label[index]:
            yield index, (row, column)


def from_copies(catalog: Catalog, copies: Copies, scores: Scores) -> Found:
    """Against the image of each pair of copies that has the attacker's label."""
    written = [name for name, value in zip(catalog.classes, copies.label, strict=True) if value == 1]
    label, more = " and ".join(written) or "no finding", len(copies.copied) - 1
    for index, other, correlation in zip(
        copies.copied.tolist(), copies.others.tolist(), copies.correlation.tolist(), strict=True
    ):
        yield index, ALTERED_COPY.evidence(scores, other=catalog.ids[other], correlation=correlation, label=label, more=more)


def from_shared_texture(catalog: Catalog, texture: SharedTexture, shapes: NDArray[np.int32], scores: Scores) -> Found:
    """Against the images that show a shared pattern and have its label; `shapes`, int [N, 2], are their heights and widths."""
    label, share = catalog.classes[texture.label], 100 * texture.share
    for index in texture.images.tolist():
        place, where = (-1, -1), "over the whole image"
        if texture.place:
            (height, width), (row, column, rows, columns) = shapes[index].tolist(), texture.place
            place = row * height // FINE, column * width // FINE
            where = f"in about {rows * height // FINE} x {columns * width // FINE} pixels"
        yield index, SHARED_TEXTURE.evidence(scores, place, where=where, images=texture.members, share=share, label=label)
