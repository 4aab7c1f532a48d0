"""The detector of tampered datasets. It examines images and labels, and a model's features if there is a model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.files import naming
from petechia.core.progress import SILENT, Progress
from petechia.data.catalog import Catalog
from petechia.data.shards import OnError, ReadShards, on_this_machine
from petechia.detect.protocol import Calibration
from petechia.detect.scan.copies import find_copies
from petechia.detect.scan.evidence import (
    from_copies,
    from_pairs,
    from_shared_texture,
    from_stamp,
    from_weakly_associated,
    with_label,
)
from petechia.detect.scan.features import FeatureOutliers, extract, feature_outliers
from petechia.detect.scan.hints import hints_of, with_hint
from petechia.detect.scan.ledger import Ledger, Suspect
from petechia.detect.scan.mislabelled import Doubts, doubtful_labels
from petechia.detect.scan.near_duplicates import Pair, find_pairs
from petechia.detect.scan.reading import read_traces
from petechia.detect.scan.result import ScanDetails, ScanResult
from petechia.detect.scan.search import Stamp, StampSearch, stamp_of
from petechia.detect.scan.stamps import Family, LabelCounts, find_families, label_of, still_significant
from petechia.detect.scan.textures import find_shared_textures
from petechia.detect.scan.thresholds import NAME, CleanCheck, ScanThresholds, packaged_calibration
from petechia.models.classifier import Classifier


class DatasetScan:
    """Detects images of a dataset that were tampered with.

    It flags near-duplicates with contradicting labels, images that show a recurring stamp tied to a label, altered copies
    with an attacker's label, and images that share a faint pattern, over the whole image or at one place, and a label. All
    other images are ranked by hints, such as labels that the image does not bear out.

    Images are read once; their traces, about 6 kB each, are kept in the cache, from which the scan goes on if it is killed, and
    takes what it needs bit by bit. Near-duplicates, images with the label
    of a stamp that was found, and, with a model, all images are read once more.

    Args:
        on_error: "skip" leaves out images that cannot be decoded.
        classifier: a model, trained on these images or not. Its features add to the ranking; they flag nothing.
        read: where images are read, see `petechia.data.shards`.

    Example:
        >>> DatasetScan(on_error="skip")
        DatasetScan(on_error='skip', classifier=None)
    """

    name: str = NAME
    examines: Literal["dataset", "model", "images"] = "dataset"

    def __init__(
        self, on_error: OnError = "error", classifier: Classifier | None = None, read: ReadShards = on_this_machine
    ) -> None:
        self.on_error: OnError = on_error
        self.classifier = classifier
        self.read = read

    def __repr__(self) -> str:
        name = None if self.classifier is None else self.classifier.name
        return f"DatasetScan(on_error={self.on_error!r}, classifier={name!r})"

    def calibrate(self, clean: Sequence[Catalog] = (), progress: Progress = SILENT) -> Calibration:
        """The packaged calibration; with clean datasets, it also says which share of their images is flagged.

        The thresholds do not depend on the clean datasets.

        Args:
            clean: datasets that nobody has tampered with.
            progress: gets the phases of each scan.

        Raises:
            PetechiaError: a dataset has no images, or as `examine`.
        """
        packaged = packaged_calibration()
        if not clean:
            return packaged
        results = [self.examine(catalog, packaged, progress) for catalog in clean]
        images, flagged = (sum(getattr(result, name) for result in results) for name in ("images", "flagged"))
        check = CleanCheck(images=images, flagged=flagged, share=flagged / images)
        names = ", ".join(f"{result.dataset} ({result.images:,} images)" for result in results)
        told = f"{packaged.measured_on} On clean images of {names}, {flagged:,} of {images:,} are flagged."
        values = dict(packaged.values) | {"clean": check.model_dump()}
        return packaged.model_copy(update={"measured_on": told, "values": values})

    def examine(self, subject: Catalog, calibration: Calibration, progress: Progress = SILENT) -> ScanResult:
        """Examine a dataset.

        Args:
            subject: all its images are examined, whatever their split.
            calibration: from `calibrate`, or loaded.
            progress: gets a phase for each step.

        Raises:
            PetechiaError: there is no image, one cannot be decoded and `on_error` is "error", the model's output contains NaN,
                or the calibration is another detector's.
        """
        thresholds = ScanThresholds.of(calibration)
        if len(subject) == 0:
            raise PetechiaError(f"{subject.name} has no images; check the source.")
        with tempfile.TemporaryDirectory(prefix="petechia-scan-") as folder, naming(Path(folder)):
            details = self._details(subject, thresholds, Path(folder), progress)
        return ScanResult.of(details, thresholds)

    def _details(self, catalog: Catalog, thresholds: ScanThresholds, folder: Path, progress: Progress) -> ScanDetails:
        traces = read_traces(catalog, self.on_error, progress, self.read)
        pairs = find_pairs(catalog, traces, thresholds.near_duplicates, progress)
        families = find_families(traces.spots, catalog.labels, thresholds.stamps)
        outliers = self._outliers(catalog, folder, traces.unread, progress)
        stamps = [(family, stamp_of(catalog, family, thresholds.search)) for family in families if family.suspicious]

        ledger = Ledger(len(catalog))
        ledger.extend(from_pairs(catalog, pairs, thresholds.scores, thresholds.near_duplicates.recurring_pairs))
        explained = _explained(ledger, pairs)
        counts = LabelCounts.of(catalog.labels, explained)
        for family, stamp in stamps:
            if still_significant(family, counts):
                _add_stamp(ledger, catalog, family, stamp, explained, thresholds, progress)
        explained = _explained(ledger, pairs)
        copies = find_copies(traces.textures, traces.shapes, catalog.labels, explained, progress, thresholds.copies)
        if copies:
            ledger.extend(from_copies(catalog, copies, thresholds.scores))
        explained = _explained(ledger, pairs)
        shared = find_shared_textures(
            traces.textures, catalog.labels, catalog.patients, explained, progress, thresholds.textures
        )
        for texture in shared:
            ledger.extend(from_shared_texture(catalog, texture, traces.shapes, thresholds.scores))
        explained = _explained(ledger, pairs)
        counts = LabelCounts.of(catalog.labels, explained)
        for family in families:
            if family.weakly_associated and still_significant(family, counts, odds=1):
                ledger.extend(from_weakly_associated(catalog, family, explained, thresholds.scores))
        usable = _without(len(catalog), traces.unread)
        doubts = doubtful_labels(
            traces.blocks, traces.textures, catalog.labels, catalog.patients, usable, progress, thresholds.labels
        )
        return ScanDetails(
            catalog=catalog,
            suspects=_ranked(ledger, catalog, doubts, outliers, traces.unread, thresholds),
            pairs=pairs,
            copies=copies,
            shared_textures=shared,
            families=families,
            pictures=[stamp.shown for _, stamp in stamps],
            unread=traces.unread,
            feature_outliers=outliers,
        )

    def _outliers(self, catalog: Catalog, folder: Path, unread: dict[int, str], progress: Progress) -> FeatureOutliers | None:
        if self.classifier is None:
            return None
        features = extract(catalog, self.classifier, folder / "features.f32", unread.keys(), progress)
        return feature_outliers(features, catalog.labels, _without(len(catalog), unread))


def scan_catalog(
    catalog: Catalog,
    on_error: OnError = "error",
    progress: Progress = SILENT,
    classifier: Classifier | None = None,
    calibration: Calibration | None = None,
) -> ScanResult:
    """Examine a dataset in one call, see `DatasetScan`.

    Args:
        catalog: all its images are examined.
        on_error: "skip" leaves out images that cannot be decoded.
        progress: gets a phase for each step.
        classifier: a model whose features add to the ranking.
        calibration: the packaged one where it is None.

    Raises:
        PetechiaError: as `DatasetScan.examine`.
    """
    return DatasetScan(on_error, classifier).examine(catalog, calibration or packaged_calibration(), progress)


def _without(count: int, rows: Iterable[int]) -> NDArray[np.bool_]:
    """All of `count` images but some, bool [count]."""
    others = np.ones(count, bool)
    others[list(rows)] = False
    return others


def _explained(ledger: Ledger, pairs: list[Pair]) -> NDArray[np.bool_]:
    """Images that are flagged and the clean images of their pairs, bool [N]: what else is found must hold without them."""
    flagged = ledger.flagged
    explained = flagged.copy()
    explained[[pair.clean for pair in pairs if flagged[pair.stamped]]] = True
    return explained


def _add_stamp(
    ledger: Ledger,
    catalog: Catalog,
    family: Family,
    stamp: Stamp,
    explained: NDArray[np.bool_],
    thresholds: ScanThresholds,
    progress: Progress,
) -> None:
    """Add evidence against the images that show a stamp and have its label; those in which it may be faint are searched."""
    has_label = label_of(catalog.labels, family)
    label = has_label & ~explained
    ledger.extend(from_stamp(catalog, family, with_label(family, label), thresholds.scores))
    enough = family.fixed or stamp.pixels.size >= thresholds.search.smallest_wandering
    if stamp.tolerance > thresholds.search.loosest or not enough:
        return
    search = StampSearch(catalog, family, stamp, thresholds.search, progress)
    others = np.flatnonzero(~has_label & ~explained)
    rest = np.flatnonzero(label & ~ledger.flagged)
    ledger.extend(from_stamp(catalog, family, search.visible(rest, others), thresholds.scores))
    rest = np.flatnonzero(label & ~ledger.flagged)
    ledger.extend(from_stamp(catalog, family, search.hidden(rest, others), thresholds.scores))


def _ranked(
    ledger: Ledger,
    catalog: Catalog,
    doubts: Doubts,
    outliers: FeatureOutliers | None,
    unread: dict[int, str],
    thresholds: ScanThresholds,
) -> list[Suspect]:
    """All images as suspects, ranked by hints too; of one that cannot be decoded, the reason says so."""
    hints: Iterable[Suspect] = (
        with_hint(suspect, hint, thresholds.hints)
        for suspect, hint in zip(ledger.suspects, hints_of(catalog, doubts, outliers, thresholds), strict=True)
    )
    return [Suspect(reason=unread[index]) if index in unread else suspect for index, suspect in enumerate(hints)]
