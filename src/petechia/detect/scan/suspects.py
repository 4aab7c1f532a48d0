"""Was this collection tampered with? Looks at the images and labels of a dataset, and at a model's features if there is one."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from petechia.core.errors import PetechiaError
from petechia.core.parallel import in_parallel
from petechia.core.progress import SILENT, Progress
from petechia.data.catalog import Catalog
from petechia.data.levels import to_grey
from petechia.data.preparation import OnError
from petechia.detect.scan.copies import Copies, find_copies
from petechia.detect.scan.features import STATISTICS, FeatureOutliers, extract, feature_outliers
from petechia.detect.scan.labels import contradiction
from petechia.detect.scan.near_duplicates import Pair, assign, candidates, compare
from petechia.detect.scan.stamps import Family, find_families, label_of, still_significant
from petechia.detect.scan.traces import FINE, GRID, Spot, Trace, trace
from petechia.models.classifier import Classifier

SOFT = 6  # grey levels between a known stamp and its surroundings at which it is still seen
CHANCE = 0.2  # share of the images found at a stamp's place, not set off, that may show it by chance
LOUD = 0.99  # share of the images above which one stands out in features so far that it is said
SAMPLE = 1000  # images without the label on which that chance is measured
SEARCHED = 4  # pixels of the smallest wandering stamp that is searched for; a smaller one is found in any noise


class Suspect(NamedTuple):
    """What is found about one image.

    Attributes:
        score: 0 nothing … 1 certain; 0.5 and more of images that are flagged, and of no others.
        flagged: whether to take it out.
        reason: a sentence; empty where nothing was found.
        row: of the stamp; -1 where there is none.
        column: of the same.
    """

    score: float = 0.0
    flagged: bool = False
    reason: str = ""
    row: int = -1
    column: int = -1


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        catalog: that was scanned.
        suspects: one an image, in the catalog's order.
        pairs: near-duplicates.
        copies: images that are others with a small change everywhere, and labels that an attacker wrote; None without any.
        families: recurring patterns, the suspicious ones first.
        pictures: the stamp of each suspicious family, uint8 [h, w]; where its grey levels vary, the one of the first image.
        unread: index → why the image could not be decoded.
        feature_outliers: how images stand out in the features of a model; None without one.
    """

    catalog: Catalog
    suspects: list[Suspect]
    pairs: list[Pair]
    copies: Copies | None
    families: list[Family]
    pictures: list[NDArray[np.uint8]]
    unread: dict[int, str]
    feature_outliers: FeatureOutliers | None = None

    @property
    def found(self) -> bool:
        """Whether any image is flagged."""
        return any(suspect.flagged for suspect in self.suspects)

    @property
    def kept(self) -> NDArray[np.intp]:
        """Indices of the images that are neither flagged nor unreadable."""
        return np.array([i for i, one in enumerate(self.suspects) if not one.flagged and i not in self.unread], np.intp)


def scan(
    catalog: Catalog, on_error: OnError = "error", progress: Progress = SILENT, classifier: Classifier | None = None
) -> Scan:
    """Look for twins with contradicting labels and for recurring stamps that command a label; the rest is ranked by hints.

    Images are read once, one after the other; what is remembered of each, about 6 kB, lies in temporary files. Twins,
    images with the label of a stamp that was found, and all images if there is a model, are read once more.

    Args:
        catalog: all its images are looked at, whatever their split.
        on_error: "skip" leaves out images that cannot be decoded.
        progress: told what happens.
        classifier: a model, trained on these images or not; its features add to the ranking and flag nothing by themselves.

    Raises:
        PetechiaError: there is no image, or one cannot be decoded and `on_error` is "error", or the model answers with NaN.
    """
    if len(catalog) == 0:
        raise PetechiaError(f"{catalog.name} has no images; check the source.")
    with tempfile.TemporaryDirectory(prefix="petechia-scan-") as folder:
        blocks, textures, shapes, spots, unread = _traces(catalog, Path(folder), on_error, progress)
        pairs = _pairs(catalog, blocks, shapes, unread, progress)
        families = find_families(spots, catalog.labels)
        outliers = _standing(catalog, classifier, Path(folder), unread, progress) if classifier else None
        suspicious = [family for family in families if family.suspicious]
        pictures = [_picture(catalog, family) for family in suspicious]
        suspects = [Suspect() for _ in range(len(catalog))]
        _flag_near_duplicates(catalog, suspects, pairs)
        explained = _explained(suspects, pairs)
        for family, picture in zip(suspicious, pictures, strict=True):
            if still_significant(family, catalog.labels, explained):
                _flag_family(catalog, suspects, family, picture, explained, progress)
        explained = _explained(suspects, pairs)
        progress.phase("looking for altered copies", len(catalog))
        copies = find_copies(textures, shapes, catalog.labels, explained, progress)
        if copies:
            _flag_copies(catalog, suspects, copies)
        del blocks, textures, spots
    explained = _explained(suspects, pairs)
    for family in families:
        if family.weakly_associated and still_significant(family, catalog.labels, explained, odds=1):
            _raise_weakly_associated(catalog, suspects, family, explained)
    _add_hints(catalog, suspects, outliers)
    for index, reason in unread.items():
        suspects[index] = Suspect(reason=reason)
    return Scan(catalog, suspects, pairs, copies, families, pictures, unread, outliers)


def _explained(suspects: list[Suspect], pairs: list[Pair]) -> NDArray[np.bool_]:
    """Images that are flagged, and their clean twins."""
    flagged = np.array([suspect.flagged for suspect in suspects])
    near_duplicates = [pair.clean for pair in pairs if flagged[pair.stamped] and not flagged[pair.clean]]
    explained = flagged.copy()
    explained[near_duplicates] = True
    return explained


def _standing(
    catalog: Catalog, classifier: Classifier, folder: Path, unread: dict[int, str], progress: Progress
) -> FeatureOutliers:
    progress.phase("asking the model", len(catalog))
    features = extract(catalog, classifier, folder / "features.f32", unread.keys(), progress)
    usable = np.array([row not in unread for row in range(len(catalog))])
    return feature_outliers(features, catalog.labels, usable)


def _traces(
    catalog: Catalog, folder: Path, on_error: OnError, progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.int32], NDArray[np.void], dict[int, str]]:
    blocks = np.memmap(folder / "blocks.f32", np.float32, "w+", shape=(len(catalog), GRID, GRID))
    textures = np.memmap(folder / "textures.i8", np.int8, "w+", shape=(len(catalog), FINE, FINE))
    shapes = np.zeros((len(catalog), 2), np.int32)
    unread: dict[int, str] = {}

    def work(rows: NDArray[np.intp]) -> list[Trace | PetechiaError]:
        images = zip(rows.tolist(), catalog.reader.read(rows), strict=True)
        return [image if isinstance(image, PetechiaError) else trace(to_grey(image), row) for row, image in images]

    progress.phase("looking at images", len(catalog))
    with (folder / "spots").open("wb") as file:
        for index, item in enumerate(in_parallel(work, len(catalog))):
            progress.advance()
            if isinstance(item, PetechiaError):
                if on_error == "error":
                    raise item
                unread[index] = str(item)
                continue
            blocks[index], textures[index], shapes[index] = item.blocks, item.texture, item.shape
            file.write(item.spots.tobytes())
    return blocks, textures, shapes, np.fromfile(folder / "spots", Spot), unread


def _pairs(
    catalog: Catalog, blocks: NDArray[np.float32], shapes: NDArray[np.int32], unread: dict[int, str], progress: Progress
) -> list[Pair]:
    found = [(int(a), int(b)) for a, b in candidates(blocks, shapes) if a not in unread and b not in unread]

    def work(rows: NDArray[np.intp]) -> list[Pair | None]:
        return [compare(found[row][0], found[row][1], lambda i: _read(catalog, i)) for row in rows]

    progress.phase("comparing near-duplicates", len(found))
    pairs = []
    for pair in in_parallel(work, len(found)):
        progress.advance()
        if pair:
            pairs.append(pair)
    return assign(pairs, catalog.labels)


def _read(catalog: Catalog, index: int) -> NDArray[np.uint8]:
    image = next(iter(catalog.reader.read(np.array([index]))))
    if isinstance(image, PetechiaError):
        raise image
    return to_grey(image)


def _picture(catalog: Catalog, family: Family) -> NDArray[np.uint8]:
    row, column = int(family.rows[0]), int(family.columns[0])
    return _read(catalog, int(family.images[0]))[row : row + family.height, column : column + family.width].copy()


def describe_label(catalog: Catalog, family: Family) -> str:
    """For people: the class, and whether it is the only finding."""
    if not catalog.classes:
        return "no label, as there are none"
    return catalog.classes[family.label] + (" as the only finding" if family.alone else "")


def _flag_family(
    catalog: Catalog,
    suspects: list[Suspect],
    family: Family,
    picture: NDArray[np.uint8],
    explained: NDArray[np.bool_],
    progress: Progress,
) -> None:
    """Flag the images that show the stamp and have its label; search those with the label, in which it may be faint.

    Images of flagged twins are settled: one carries the stamp, the other does not.
    """
    label = label_of(catalog.labels, family) & ~explained
    reason = (
        f"shows a stamp of {family.height} x {family.width} pixels that {len(family.images)} images share, "
        f"{100 * family.share:.0f} % of them with {describe_label(catalog, family)}"
    )
    for index, row, column in zip(family.images.tolist(), family.rows.tolist(), family.columns.tolist(), strict=True):
        if label[index]:
            _raise(suspects, index, Suspect((1 + family.share) / 2, True, reason, row, column))
    if not family.exact or not (family.fixed or picture.size >= SEARCHED):
        return
    rest = np.array([i for i in np.flatnonzero(label) if not suspects[i].flagged], np.intp)
    at = (int(family.rows[0]), int(family.columns[0])) if family.fixed else None

    for index, place in _search(catalog, rest, picture, at, progress):
        _raise(suspects, index, Suspect((1 + family.share) / 2, True, reason, *place))
    if at is None:
        return
    rest = np.array([i for i in rest if not suspects[i].flagged], np.intp)
    others = np.flatnonzero(~label_of(catalog.labels, family) & ~explained)
    others = others[:: max(1, len(others) // SAMPLE)]
    usual = (1 + len(_search(catalog, others, picture, at, progress, soft=0))) / (1 + len(others))
    hidden = _search(catalog, rest, picture, at, progress, soft=0)
    if usual * len(rest) <= CHANCE * len(hidden):
        for index, place in hidden:
            _raise(suspects, index, Suspect((1 + family.share) / 2, True, reason, *place))


def _search(
    catalog: Catalog,
    rows: NDArray[np.intp],
    stamp: NDArray[np.uint8],
    at: tuple[int, int] | None,
    progress: Progress,
    soft: float = SOFT,
) -> list[tuple[int, tuple[int, int]]]:
    """Which of the images show a known stamp, and where."""

    def work(some: NDArray[np.intp]) -> list[tuple[int, int] | None]:
        images = catalog.reader.read(rows[some])
        return [None if isinstance(image, PetechiaError) else find_stamp(to_grey(image), stamp, at, soft) for image in images]

    progress.phase("searching for the stamp", len(rows))
    found = []
    for index, place in zip(rows.tolist(), in_parallel(work, len(rows)), strict=True):
        progress.advance()
        if place:
            found.append((index, place))
    return found


def _raise_weakly_associated(catalog: Catalog, suspects: list[Suspect], family: Family, explained: NDArray[np.bool_]) -> None:
    """Rank the images of a pattern that leans to a label higher: the more, the fewer of them are so labelled by chance."""
    beyond = max(0.0, 1 - family.usual / family.share)
    reason = (
        f"shows a pattern of {family.height} x {family.width} pixels that {len(family.images)} images share and that leans to "
        f"{describe_label(catalog, family)} ({100 * family.share:.0f} % of them, {100 * family.usual:.0f} % of all)"
    )
    label = label_of(catalog.labels, family) & ~explained
    for index, row, column in zip(family.images.tolist(), family.rows.tolist(), family.columns.tolist(), strict=True):
        if label[index]:
            _raise(suspects, index, Suspect(0.2 + 0.2 * beyond, False, reason, row, column))


def _add_hints(catalog: Catalog, suspects: list[Suspect], outliers: FeatureOutliers | None) -> None:
    """What labels and features say: it orders images of like evidence, and those without any; it flags none."""
    labels = contradiction(catalog.labels, catalog.split, catalog.patients)
    ranks = outliers.rank if outliers else np.zeros(len(suspects))
    for index, (suspect, label, rank) in enumerate(zip(suspects, labels.tolist(), ranks.tolist(), strict=True)):
        hint = (label + 3 * rank) / 4 if outliers else label
        reasons = [suspect.reason] if suspect.reason else []
        if label > 0 and not suspect.flagged:
            reasons.append("has labels that are more frequent among training images than among the others")
        if outliers and rank >= LOUD and not suspect.flagged:
            reasons.append(_stands_out(catalog, outliers, index))
        room = suspect.score * 0.98 + 0.02 * hint if suspect.flagged else min(suspect.score, 0.4) + 0.09 * hint
        suspects[index] = suspect._replace(score=room, reason="; ".join(reasons))


def _stands_out(catalog: Catalog, outliers: FeatureOutliers, index: int) -> str:
    classes = len(catalog.classes)
    k = int(outliers.group[index])
    among = (
        f"those with {catalog.classes[k]} from those without"
        if k < classes
        else f"those without {catalog.classes[k - classes]}"
    )
    scores = ", ".join(f"{name} {value:.1f}" for name, value in zip(STATISTICS, outliers.scores[index], strict=True))
    return f"stands out in the model's features among {among} ({scores})"


def find_stamp(
    image: NDArray[np.uint8], stamp: NDArray[np.uint8], at: tuple[int, int] | None = None, soft: float = SOFT
) -> tuple[int, int] | None:
    """Where a stamp is, exactly and set off from what surrounds it, however faintly: row and column, or None.

    Args:
        image: uint8 [H, W].
        stamp: uint8 [h, w].
        at: the only place to look at; else everywhere, and of several places the one that is set off most.
        soft: grey levels by which it must be set off.
    """
    height, width = stamp.shape
    room = image.shape[0] - height + 1, image.shape[1] - width + 1
    if min(room) < 1:
        return None
    if at is None:
        hits = np.ones(room, bool)
        for (i, j), value in np.ndenumerate(stamp):
            hits &= image[i : i + room[0], j : j + room[1]] == value
        alone = hits & (ndimage.uniform_filter(hits.astype(np.float32), 3, mode="constant") < 1.5 / 9)  # not in a flat area
        places = list(zip(*(part.tolist() for part in np.nonzero(alone)), strict=True))
    else:
        row, column = at
        there = row < room[0] and column < room[1]
        places = [at] if there and np.array_equal(image[row : row + height, column : column + width], stamp) else []
    strength = {place: _set_off(image, place, stamp.shape) for place in places}
    best = max(strength, key=strength.__getitem__, default=None)
    return best if best is not None and strength[best] >= soft else None


def _set_off(image: NDArray[np.uint8], place: tuple[int, int], shape: tuple[int, ...]) -> float:
    """Median step between the pixels on the border of a box and those that touch it from outside."""
    (row, column), (height, width) = place, shape
    framed = np.pad(image.astype(np.int16), 1, mode="edge")[row : row + height + 2, column : column + width + 2]
    steps = (
        framed[0, 1:-1] - framed[1, 1:-1],
        framed[-1, 1:-1] - framed[-2, 1:-1],
        framed[1:-1, 0] - framed[1:-1, 1],
        framed[1:-1, -1] - framed[1:-1, -2],
    )
    return float(np.median(np.abs(np.concatenate(steps))))


def _flag_near_duplicates(catalog: Catalog, suspects: list[Suspect], pairs: list[Pair]) -> None:
    """Flag the stamped image of a pair whose labels contradict each other, and of any pair with a stamp known from those."""
    differs = [pair for pair in pairs if pair.stamp.size]
    contradicts = [(catalog.labels[pair.stamped] != catalog.labels[pair.clean]).any() for pair in pairs]
    by_pair = dict(zip(map(id, pairs), contradicts, strict=True))
    known = Counter(key for pair in differs if by_pair[id(pair)] for key in _traits(pair))
    written = Counter(catalog.labels[pair.stamped].tobytes() for pair in differs if by_pair[id(pair)])
    infected = written.most_common(1)[0][0] if written else b""
    for pair in pairs:
        clean = catalog.ids[pair.clean]
        if not pair.stamp.size:
            _flag_duplicate(catalog, suspects, pair, infected, by_pair[id(pair)])
            continue
        size = f"{pair.stamp.shape[0]} x {pair.stamp.shape[1]} pixels"
        if by_pair[id(pair)]:
            suspect = Suspect(1.0, True, f"is {clean} but for {size}, and is labelled otherwise", pair.row, pair.column)
        elif any(known[key] for key in _traits(pair)):
            suspect = Suspect(0.9, True, f"is {clean} but for {size}, as in pairs labelled otherwise", pair.row, pair.column)
        else:
            suspect = Suspect(0.4, False, f"is {clean} but for {size}, with the same labels", pair.row, pair.column)
        _raise(suspects, pair.stamped, suspect)


def _flag_copies(catalog: Catalog, suspects: list[Suspect], copies: Copies) -> None:
    """Flag the image of each pair that has the attacker's label."""
    written = [name for name, value in zip(catalog.classes, copies.label, strict=True) if value == 1]
    label = " and ".join(written) or "no finding"
    for index, other, likeness in zip(copies.copied.tolist(), copies.others.tolist(), copies.likeness.tolist(), strict=True):
        reason = (
            f"has the fine structure of {catalog.ids[other]} (correlation {likeness:.2f}) but {label} among its labels, as "
            f"{len(copies.copied) - 1} more such copies have"
        )
        _raise(suspects, index, Suspect(0.9, True, reason))


def _traits(pair: Pair) -> tuple[object, ...]:
    return (pair.stamp.shape, pair.stamp.tobytes()), (pair.stamp.shape, pair.row, pair.column)


def _flag_duplicate(catalog: Catalog, suspects: list[Suspect], pair: Pair, infected: bytes, contradicts: bool) -> None:
    """A stamp on pixels that had its grey level already leaves no difference but the label."""
    for index, other in ((pair.stamped, pair.clean), (pair.clean, pair.stamped)):
        text = f"has the same pixels as {catalog.ids[other]}"
        if not contradicts:
            _raise(suspects, index, Suspect(0.2, False, f"{text}, with the same labels"))
            continue
        flagged = catalog.labels[index].tobytes() == infected
        _raise(suspects, index, Suspect(0.9 if flagged else 0.4, flagged, f"{text}, and is labelled otherwise"))


def _raise(suspects: list[Suspect], index: int, suspect: Suspect) -> None:
    """Keep the strongest evidence against an image; name every reason once it is flagged for several."""
    found = suspects[index]
    strong, weak = (suspect, found) if suspect.score > found.score else (found, suspect)
    reason = f"{strong.reason}; {weak.reason}" if weak.flagged and weak.reason not in strong.reason else strong.reason
    suspects[index] = strong._replace(reason=reason)
