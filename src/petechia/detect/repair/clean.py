"""The clean images that a model is repaired with, and those on which the repair is measured."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petechia.core.errors import PetechiaError, listing
from petechia.core.progress import SILENT, Progress
from petechia.core.rows import evenly_spread
from petechia.data import Catalog, open_source, prepare
from petechia.data.catalog import patient_fractions
from petechia.data.dataset import Images, Selection
from petechia.data.not_read import EVERYTHING_READ, NotRead
from petechia.detect.collection import collect, described
from petechia.models.classifier import Classifier

FEWEST = 20  # images to repair with, and as many to measure on
HELD_OUT = 1 / 3  # share of the patients on whose images the repair is measured


class CleanSet(NamedTuple):
    """Clean images.

    Attributes:
        images: prepared, uint8 [N, H, W] or [N, H, W, 3].
        labels: int8 [N, K] for the model's classes; -1 is unknown.
        patients: str [N]; an image without a patient is a patient of its own.
        not_read: images that lie beside these and were not read.
    """

    images: Images
    labels: NDArray[np.int8]
    patients: NDArray[np.str_]
    not_read: NotRead = EVERYTHING_READ

    def take(self, rows: NDArray[np.intp]) -> CleanSet:
        """Some of the images, with their labels and patients."""
        return CleanSet(Selection(self.images, rows), self.labels[rows], self.patients[rows], self.not_read)

    def split(self) -> tuple[CleanSet, CleanSet]:
        """Images to repair with, and images to measure on; no patient is in both.

        Raises:
            PetechiaError: there are too few images.
        """
        held = patient_fractions(self.patients, "repair") < HELD_OUT
        fit, test = self.take(np.flatnonzero(~held)), self.take(np.flatnonzero(held))
        if min(len(fit.images), len(test.images)) < FEWEST:
            raise PetechiaError(
                f"{len(held)} clean images are too few: {len(fit.images)} are left to repair with and {len(test.images)} to "
                f"measure on, of other patients, and {FEWEST} of each are needed; give some hundreds."
            )
        return fit, test


def read_clean(
    source: str | Path | Catalog | ArrayLike,
    classifier: Classifier,
    most: int = 1000,
    progress: Progress = SILENT,
) -> CleanSet:
    """Read clean images from a labelled source such as `nih:FOLDER`, or from a folder of images without labels.

    Args:
        source: a data source, a folder or files; or a catalog; or images in memory, without labels.
        classifier: the model that they are for. The source's labels are matched to its classes by name.
        most: images that are taken at most, evenly spread over all of them.
        progress: told of every image that is read.

    Raises:
        PetechiaError: the images cannot be read, or their labels are of other classes.
    """
    classes = classifier.classes
    if not isinstance(source, Catalog) and not (isinstance(source, str) and not Path(source).exists()):
        found = collect(source, classifier, most, progress)
        unknown = np.full((len(found.ids), len(classes)), -1, np.int8)
        return CleanSet(found.images, unknown, np.array(found.ids), found.not_read)
    catalog = source if isinstance(source, Catalog) else open_source(source, "skip")  # `not_read` names what is missing
    catalog = catalog if classifier.colour else catalog.in_grey()
    chosen = evenly_spread(len(catalog), most)
    dataset, catalog, _ = prepare(catalog.take(chosen), classifier.preprocess, "skip", progress)
    if not dataset.classes:
        labels = np.full((len(dataset), len(classes)), -1, np.int8)
    else:
        labels = _labels_of(dataset.labels, dataset.classes, classes, described(source))
    return CleanSet(dataset.images, labels, dataset.patients, catalog.not_read)


def _labels_of(labels: NDArray[np.int8], given: tuple[str, ...], wanted: tuple[str, ...], source: str) -> NDArray[np.int8]:
    """Labels in the order of the wanted classes; a class that the source lacks is unknown."""
    if not set(given) & set(wanted):
        raise PetechiaError(
            f"{source} has labels for {listing(given)}, but the model's classes are {listing(wanted)}; give images with labels "
            f"of these, or a folder of images without any."
        )
    places = {name: k for k, name in enumerate(given)}
    unknown = np.full(len(labels), -1, np.int8)
    return np.stack([labels[:, places[name]] if name in places else unknown for name in wanted], axis=1)
