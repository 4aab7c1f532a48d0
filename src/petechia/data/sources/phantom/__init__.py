"""The phantom: procedurally drawn chest radiographs, Petechia's built-in data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from petechia.core.settings import Settings
from petechia.data.catalog import Catalog, split_by_patient
from petechia.data.sources.nih import write_nih
from petechia.data.sources.phantom.anatomy import Array, Dice, build_chest, draw_chest, expose
from petechia.data.sources.phantom.cohort import LABEL_NOISE, Cohort, build_cohort
from petechia.data.sources.phantom.distractors import DISTRACTORS, SPECKS, add_specks
from petechia.data.sources.phantom.findings import FINDINGS

COARSE, FINE = 6, 40  # cells of the two texture grids
PATIENT, VISIT, SPECK = 32, 16, 5 * SPECKS  # number of random numbers for each part of a drawing
FINDING, DISTRACTOR = 24, 8
BATCH_PIXELS = 1 << 17  # pixels drawn at a time: few enough for the CPU cache, many enough for numpy
TEST_SHARE = 0.22  # share of the patients in the test split, about as in the official split of NIH ChestX-ray14


class PhantomOptions(Settings):
    """Options of the phantom.

    Attributes:
        images: number of images.
        size: side of the images, in pixels.
        seed: random seed.
        label_noise: share of the labels that are wrong.
    """

    images: int = Field(2400, ge=1, le=10_000_000)
    size: int = Field(64, ge=16, le=4096)
    seed: int = Field(0, ge=0)
    label_noise: float = Field(LABEL_NOISE, ge=0, lt=1)


def open_phantom(options: PhantomOptions) -> Catalog:
    """Return the phantom as a catalog; images are drawn on access."""
    cohort = build_cohort(options.images, options.seed, options.label_noise)
    patients = np.char.mod("%08d", cohort.patients + 1)
    return Catalog(
        name="phantom",
        classes=tuple(FINDINGS),
        ids=np.char.add(patients, np.char.mod("_%03d.png", cohort.visits)),
        patients=patients,
        split=split_by_patient(patients, TEST_SHARE),
        labels=cohort.labels,
        reader=Phantom(cohort, options.size, options.seed, np.arange(options.images)),
        layout=write_nih,
    )


class Phantom:
    """Draws the images of a cohort. Image i depends only on the seed, the size and i, not on the other images in a batch.

    Attributes:
        cohort: patients and findings.
        size: side of the images, in pixels.
        seed: random seed.
        indices: int [N], indices of the images in the cohort.
    """

    def __init__(self, cohort: Cohort, size: int, seed: int, indices: NDArray[np.intp]) -> None:
        self.cohort = cohort
        self.size = size
        self.seed = seed
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: NDArray[np.intp]) -> Phantom:
        """Return a reader for some of the images."""
        return Phantom(self.cohort, self.size, self.seed, self.indices[rows])

    def fingerprint(self) -> str:
        """Return a digest of the settings and of the source code that draws."""
        digest = hashlib.sha256(f"{self.seed} {self.size}".encode())
        digest.update(self.indices.astype(np.int64).tobytes())
        for module in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(module.read_bytes())
        return digest.hexdigest()

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        """Draw some of the images, each uint8 [size, size]."""
        step = max(1, BATCH_PIXELS // self.size**2)
        for start in range(0, len(rows), step):
            yield from self._draw(self.indices[rows[start : start + step]])

    def _draw(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        own = [np.random.Generator(np.random.Philox(key=[self.seed, 2 * int(i)])) for i in indices]
        patients = self.cohort.patients[indices]
        shared = [np.random.Generator(np.random.Philox(key=[self.seed, 2 * int(p) + 1])) for p in patients]
        patient, visit, specks = Dice(_uniform(shared, PATIENT)), Dice(_uniform(own, VISIT)), Dice(_uniform(own, SPECK))
        of_finding = _uniform(own, len(FINDINGS), FINDING)
        of_distractor = _uniform(own, len(DISTRACTORS), DISTRACTOR + 1)
        coarse, fine = _normal(own, COARSE, COARSE), _normal(own, FINE, FINE)
        grain = _normal(own, self.size, self.size)

        severity = self.cohort.severity[indices][:, :, None, None]
        chest = build_chest(self.size, patient, visit, {name: severity[:, k] for k, name in enumerate(FINDINGS)})
        image = draw_chest(chest, patient, visit, coarse, fine)
        for k, (draw_finding, _) in enumerate(FINDINGS.values()):
            some = np.flatnonzero(severity[:, k, 0, 0])
            if len(some):
                part = image[some]
                draw_finding(chest.of(some), part, severity[some, k], Dice(of_finding[some, k]))
                image[some] = part
        for k, (draw_distractor, share) in enumerate(DISTRACTORS):
            some = np.flatnonzero(of_distractor[:, k, 0] < share)
            if len(some):
                part = image[some]
                draw_distractor(chest.of(some), part, Dice(of_distractor[some, k, 1:]))
                image[some] = part
        grey = expose(image, visit, grain)
        add_specks(grey, specks)
        return grey


def _uniform(generators: list[np.random.Generator], *shape: int) -> Array:
    return np.stack([rng.random(shape, np.float32) for rng in generators])


def _normal(generators: list[np.random.Generator], *shape: int) -> Array:
    return np.stack([rng.standard_normal(shape, np.float32) for rng in generators])
