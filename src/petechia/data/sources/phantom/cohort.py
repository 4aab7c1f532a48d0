"""The cohort of the phantom: patients, their images, and the findings that each image shows and is labelled with."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from petechia.core.randomness import stream
from petechia.data.sources.phantom.findings import FINDINGS

IMAGES_PER_PATIENT = 3.6  # NIH: 112,120 images of 30,805 patients
LABEL_NOISE = 0.26  # share of the findings without a label, and of the labels without a finding; it limits the performance of
# any model, and is set such that the micro-AUROC of a trained DenseNet-121 is 0.85, as on NIH
SEVERITY = (0.4, 1.2)  # range from subtle to obvious
SICKNESS = 0.15  # correlation between the findings of one image, due to how ill the patient is
PERSISTENCE = 0.45  # correlation between images of one patient


@dataclass(frozen=True)
class Cohort:
    """Patients and findings of the images. Arrays have one entry per image.

    Attributes:
        patients: int [N], index of the patient.
        visits: int [N], index of the image among those of the patient, from 0.
        severity: float32 [N, K], severity of each finding, 0 if it is not drawn.
        labels: int8 [N, K], labels, some of which are wrong.
    """

    patients: NDArray[np.intp]
    visits: NDArray[np.intp]
    severity: NDArray[np.float32]
    labels: NDArray[np.int8]


def build_cohort(images: int, seed: int, label_noise: float = LABEL_NOISE) -> Cohort:
    """Draw a cohort at random. The first n images do not depend on how many follow, and no image on the label noise."""
    k = len(FINDINGS)
    uniform = stream(seed, "visits").random(images)
    counts = 1 + np.floor(np.log1p(-uniform) / np.log1p(-1 / IMAGES_PER_PATIENT)).astype(int)
    patients = np.repeat(np.arange(images), counts)[:images]
    visits = np.arange(images) - (np.cumsum(counts) - counts)[patients]

    # A finding is present if a normal variable exceeds the threshold for its prevalence. Part of the variable is shared
    # between the findings of a patient (sickness), and part between the visits of a patient (persistence).
    ill = stream(seed, "ill").standard_normal((images, 1))
    chronic = stream(seed, "chronic").standard_normal((images, k))
    acute = stream(seed, "acute").standard_normal((images, k))
    latent = np.sqrt(SICKNESS) * ill[patients] + np.sqrt(PERSISTENCE) * chronic[patients]
    latent += np.sqrt(1 - SICKNESS - PERSISTENCE) * acute
    prevalence = np.array([share for _, share in FINDINGS.values()])
    threshold = np.array([NormalDist().inv_cdf(1 - p) for p in prevalence])
    present = latent > threshold

    mildest, gravest = SEVERITY
    severity = np.where(present, mildest + (gravest - mildest) * stream(seed, "severity").random((images, k)), 0)
    noise = stream(seed, "labels").random((images, k))
    false_alarm = label_noise * prevalence / (1 - prevalence)
    labels = np.where(present, noise >= label_noise, noise < false_alarm)
    return Cohort(patients, visits, severity.astype(np.float32), labels.astype(np.int8))
