"""The screen as a detector: what `petechia screen` and the benchmarks call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.data.preprocess import Preprocess
from petechia.detect.protocol import Calibration, ImagesUnderTest
from petechia.detect.screen.conformal import PARTS
from petechia.detect.screen.files import in_file
from petechia.detect.screen.result import BoxRecord, ScreenedImage, ScreenResult, TriggerPixel
from petechia.detect.screen.screen import ImageEvidence, Screen

CLEAN = 200  # clean images that are used at most; examining them takes as long as examining others


class ImageScreen:
    """Detects images that carry the trigger of a backdoored model.

    The class of an image that stands out most from the clean images is examined. A trigger takes its class along to clean
    images: a stamp in a few pixels, a pattern or a wave in the fine structure of the whole image. See `Screen`, which does the
    work.

    `examine` compares images with the clean ones, which are not part of a calibration. The detector keeps them after
    `calibrate`. To use a calibration that was loaded from a file, give the clean images that it was made with.

    Args:
        fpr: the share of clean images that may be flagged.
        target: the one class to examine; None takes the class that stands out most.
        parts: what to compute, see `Screen.fit`.
        clean: uint8 [n, H, W] or [n, H, W, 3], prepared; the clean images of a calibration that was loaded, in the same order.

    Example:
        >>> ImageScreen(fpr=0.05)
        ImageScreen(fpr=0.05, target=None, parts=('transplant', 'removal', 'outlier', 'detail', 'strip', 'features', 'mirror'))
    """

    name: str = "screen"
    examines: Literal["dataset", "model", "images"] = "images"

    def __init__(
        self,
        fpr: float = 0.01,
        target: str | None = None,
        parts: Sequence[str] = PARTS,
        clean: NDArray[np.uint8] | None = None,
    ) -> None:
        self.fpr = fpr
        self.target = target
        self.parts = tuple(parts)
        self.clean = clean
        self._fitted: tuple[Calibration, Screen] | None = None

    def __repr__(self) -> str:
        return f"ImageScreen(fpr={self.fpr}, target={self.target!r}, parts={self.parts})"

    def calibrate(self, clean: Sequence[ImagesUnderTest], progress: Progress = SILENT) -> Calibration:
        """Set the threshold for one model on its clean images.

        Args:
            clean: one subject: the model, and 100 to 200 images that nobody has tampered with.
            progress: gets the phase "examining clean images".

        Returns:
            The threshold and what else was computed from the clean images; see `ScreenValues`.

        Raises:
            PetechiaError: there is not just one subject, or as `Screen.fit`.
        """
        if len(clean) != 1:
            raise PetechiaError(
                f"The screen sets its threshold on the clean images of one model, but {len(clean)} sets of images were given; "
                f"give one."
            )
        progress.phase("examining clean images", len(clean[0].images))
        screen = Screen.fit(clean[0].classifier, clean[0].images, self.fpr, self.target, self.parts, progress)
        calibration = screen.to_calibration()
        self.clean = clean[0].images
        self._fitted = calibration, screen
        return calibration

    def examine(self, subject: ImagesUnderTest, calibration: Calibration, progress: Progress = SILENT) -> ScreenResult:
        """Examine images.

        Args:
            subject: the model of the calibration and the images. Without ids, images are called "1", "2", and so on.
            calibration: from `calibrate`, or loaded.
            progress: gets the phase "screening images".

        Raises:
            PetechiaError: the calibration is another detector's or another model's, its clean images are not known, or as
                `Screen.score`.
        """
        screen = self._screen(subject, calibration.require(self.name))
        progress.phase("screening images", len(subject.images))
        evidence = screen.evidence(subject.images, progress)
        return screen_result(screen, subject, evidence)

    def _screen(self, subject: ImagesUnderTest, calibration: Calibration) -> Screen:
        if self._fitted is not None:
            known, screen = self._fitted
            if screen.classifier is subject.classifier and known == calibration:
                return screen
        if self.clean is None:
            raise PetechiaError(
                "The screen compares images with clean ones, which are not part of a calibration; give the clean images that "
                "the calibration was made with, as ImageScreen(clean=...), or calibrate again."
            )
        screen = Screen.restore(subject.classifier, self.clean, calibration)
        self._fitted = calibration, screen
        return screen


def screen_result(screen: Screen, subject: ImagesUnderTest, evidence: Sequence[ImageEvidence]) -> ScreenResult:
    """The result of a screen.

    Args:
        screen: that examined the images.
        subject: N images. Without ids they are numbered from 1; without shapes, files are taken to be as the images are.
        evidence: N, in the order of the images.
    """
    ids = subject.ids or tuple(str(number) for number in range(1, len(subject.images) + 1))
    result = ScreenResult(
        model=screen.classifier.public_name,
        black_box=screen.classifier.network is None,
        clean_images=len(screen.reference.images),
        false_positive_rate=screen.conformal.fpr,
        threshold=screen.conformal.threshold,
        groups=screen.conformal.groups,
        flagged=sum(one.flagged for one in evidence),
        warnings=screen.warnings,
        images=tuple(
            _image(name, image, one, screen.classifier.preprocess, None if subject.shapes is None else subject.shapes[row])
            for row, (name, image, one) in enumerate(zip(ids, subject.images, evidence, strict=True))
        ),
    )
    result.attach_pictures(subject.images)
    return result


def _image(
    name: str, image: NDArray[np.uint8], one: ImageEvidence, preprocess: Preprocess, shape: NDArray[np.intp] | None
) -> ScreenedImage:
    rows, columns = np.nonzero(one.pixels)
    place = one.box if shape is None else in_file(one.box, preprocess, int(shape[0]), int(shape[1]))
    return ScreenedImage(
        id=name,
        suspicion=one.suspicion,
        p_value=one.p_value,
        flagged=one.flagged,
        class_=one.name,
        extent="whole" if one.whole else "part",
        box=BoxRecord.of(one.box),
        box_in_file=BoxRecord.of(place),
        pixels=tuple(
            TriggerPixel(row=int(row), column=int(column), value=image[row, column].tolist())
            for row, column in zip(rows, columns, strict=True)
        ),
        parts=one.parts,
    )
