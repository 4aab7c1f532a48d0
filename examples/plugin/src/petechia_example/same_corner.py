"""A detector of poisoned datasets: images whose top left corner is the same, pixel by pixel, in many others."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from petechia import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.data import Catalog
from petechia.detect.protocol import Calibration, Finding, Findings

SIDE = 4  # of the corner, in pixels


class SameCorner:
    """Counts how many images share each image's corner. A corner of one grey level counts as none: borders are black."""

    name = "same-corner"
    examines: Literal["dataset", "model", "images"] = "dataset"

    def calibrate(self, clean: Sequence[Catalog]) -> Calibration:
        """One more than the largest share of images with the same corner in clean datasets; without any, 1 in 100."""
        shares = [max(shared(catalog)) / len(catalog) for catalog in clean]
        on = f"{len(clean)} clean datasets" if clean else "nothing; chosen by hand"
        return Calibration(detector=self.name, measured_on=on, values={"share": max([0.01, *shares])})

    def examine(self, subject: Catalog, calibration: Calibration, progress: Progress = SILENT) -> Findings:
        """A finding for each image that shares its corner with another.

        Raises:
            PetechiaError: the calibration is another detector's.
        """
        progress.phase("comparing corners", len(subject))
        threshold = calibration.require(self.name).values["share"] * len(subject) + 1
        found = [
            Finding(
                about=name,
                kind="image",
                score=float(count),
                flagged=count >= threshold,
                threshold=threshold,
                reason=f"its top left corner is that of {count} images",
            )
            for name, count in zip(subject.ids.tolist(), shared(subject), strict=True)
            if count > 1
        ]
        progress.advance(len(subject))
        return Findings(detector=self.name, measured_on=calibration.measured_on, found=tuple(found))


def shared(catalog: Catalog) -> list[int]:
    """For each image, how many have its corner; 0 for corners of one grey level."""
    corners = []
    for image in catalog.reader.read(np.arange(len(catalog))):
        corner = None if isinstance(image, PetechiaError) else image[:SIDE, :SIDE]
        corners.append(b"" if corner is None or corner.std() == 0 else corner.tobytes())
    counts = Counter(corners)
    return [counts[corner] if corner else 0 for corner in corners]
