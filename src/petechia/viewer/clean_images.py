"""The clean images that pictures are screened against."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.rows import evenly_spread
from petechia.detect.collection import read_collection
from petechia.models.classifier import Classifier
from petechia.viewer.run_images import Prepare, RunImages

LOGGER = logging.getLogger(__name__)
MOST = 100  # clean images in a set
FEWEST = 20  # for a useful threshold: one of them may be left out, and then 1 in 20 clean pictures is flagged

Images = NDArray[np.uint8]


class CleanImages(NamedTuple):
    """Sets of clean images.

    Attributes:
        sets: each reads one set, uint8 [N, S, S] or [N, S, S, 3], as the model sees it.
        size: images in a set, about: images that cannot be read are left out.
        missing: why nothing can be screened; empty where it can.
    """

    sets: tuple[Callable[[], Images], ...]
    size: int
    missing: str = ""


def clean_images_in(folder: str, classifier: Classifier) -> CleanImages:
    """One set from a folder, or from a data source such as `phantom:images=100`.

    Raises:
        PetechiaError: there are too few images, or one cannot be read.
    """
    found = read_collection([folder], classifier, MOST)
    images = found.images
    if found.not_read:
        LOGGER.warning("beside the clean images: %s", found.not_read)
    if len(images) < FEWEST:
        raise PetechiaError(f"There are {len(images)} images in {folder}; give at least {FEWEST}.")
    return CleanImages((lambda: images,), len(images))


def clean_test_images(images: RunImages, prepare: Prepare, title: str) -> CleanImages:
    """Two sets, or one where there are few, of the run's test images, on which no network was trained."""
    every = np.arange(len(images))
    halves = (every[::2], every[1::2]) if len(every) >= MOST else (every,)
    chosen = [half[evenly_spread(len(half), MOST, nearest=False)] for half in halves]
    count = len(chosen[-1])
    missing = (
        f"Screening needs at least {FEWEST} clean images, better {MOST} or more. Start the viewer with a folder of images that "
        f"nobody has tampered with: petechia serve {title} --clean DIR."
    )
    sets = tuple(partial(_read, images, positions, prepare) for positions in chosen)
    return CleanImages(sets, count, "" if count >= FEWEST else missing)


def _read(images: RunImages, positions: NDArray[np.intp], prepare: Prepare) -> Images:
    inputs = images.inputs(positions, prepare)
    if len(inputs) < FEWEST:
        raise PetechiaError(
            f"Only {len(inputs)} of the run's test images can be read, and screening needs {FEWEST}; give other clean images "
            "with --clean DIR."
        )
    return np.stack(inputs)
