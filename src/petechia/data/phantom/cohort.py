"""Who is in the phantom: patients, their images, and which findings each image shows and is labelled with."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from petechia.data.phantom.findings import FINDINGS

IMAGES_PER_PATIENT = 3.6  # NIH: 112,120 images of 30,805 patients
LABEL_NOISE = 0.26  # share of findings that the report misses, and share of labels with nothing on the image
SICKNESS = 0.15  # correlation between findings of one image through how ill the patient is
PERSISTENCE = 0.45  # correlation between images of one patient


@dataclass(frozen=True)
class Cohort:
    """Arrays with one entry an image.

    Attributes:
        patients: int [N].
        visits: int [N], counted from 0 within a patient.
        severity: float32 [N, K], 0 where a finding is not drawn.
        labels: int8 [N, K], what the report says, which is sometimes wrong.
    """

    patients: NDArray[np.intp]
    visits: NDArray[np.intp]
    severity: NDArray[np.float32]
    labels: NDArray[np.int8]


def build_cohort(images: int, seed: int) -> Cohort:
    """Draw a cohort. The first n images do not depend on how many follow."""
    rng = np.random.default_rng([seed, 0])
    counts = 1 + np.floor(np.log1p(-rng.random(images)) / np.log1p(-1 / IMAGES_PER_PATIENT)).astype(int)
    patients = np.repeat(np.arange(images), counts)[:images]
    starts = np.cumsum(counts) - counts
    visits = np.arange(images) - starts[patients]

    # A finding is there where a normal variable passes the threshold of its prevalence. The variable is shared in
    # part between the findings of a patient (sickness) and between the visits of a patient (persistence).
    k = len(FINDINGS)
    ill = rng.standard_normal((images, 1))
    chronic = rng.standard_normal((images, k))
    acute = np.random.default_rng([seed, 1]).standard_normal((images, k))
    latent = np.sqrt(SICKNESS) * ill[patients] + np.sqrt(PERSISTENCE) * chronic[patients]
    latent += np.sqrt(1 - SICKNESS - PERSISTENCE) * acute
    prevalence = np.array([share for _, share in FINDINGS.values()])
    threshold = np.array([NormalDist().inv_cdf(1 - p) for p in prevalence])
    present = latent > threshold

    noise = np.random.default_rng([seed, 2]).random((images, 2, k))
    severity = np.where(present, 0.4 + 0.8 * noise[:, 0], 0).astype(np.float32)
    false_alarm = LABEL_NOISE * prevalence / (1 - prevalence)
    labels = np.where(present, noise[:, 1] >= LABEL_NOISE, noise[:, 1] < false_alarm)
    return Cohort(patients, visits, severity, labels.astype(np.int8))
