"""The audit as a detector: calibrated on clean models, then asked about one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from petechia.core.errors import PetechiaError
from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.examination import examine_model, measure_model
from petechia.detect.audit.measured import Measured
from petechia.detect.audit.result import AuditResult, Origin
from petechia.detect.audit.verdict import DETECTOR, FEWEST_MODELS, LEVEL, AuditNulls, packaged_calibration
from petechia.detect.protocol import Calibration, ModelUnderTest


class ModelAudit:
    """Looks for a backdoor in a model, with clean images alone. See `examine_model`.

    Attributes:
        name: "audit".
        examines: "model".
        quick: whether of the changes of the image only patterns are searched for.

    Example:
        >>> detector = ModelAudit()
        >>> calibration = detector.calibrate()
        >>> calibration.values["level"]
        0.03
    """

    name: str = DETECTOR
    examines: Literal["dataset", "model", "images"] = "model"

    def __init__(self, quick: bool = False) -> None:
        self.quick = quick

    def __repr__(self) -> str:
        return f"ModelAudit(quick={self.quick})"

    def calibrate(self, clean: Sequence[ModelUnderTest] = ()) -> Calibration:
        """Measure on clean models how strong the evidence for their strongest class is.

        Args:
            clean: clean models, as many as can be had: p-values get small only with many. Without any, the calibration that
                comes with Petechia is returned.

        Raises:
            PetechiaError: there is only one, or a model cannot be examined.
        """
        packaged = packaged_calibration()
        if not clean:
            return packaged
        return calibrated([measure_model(one.classifier, one.clean, self.quick) for one in clean], f"{self!r}.calibrate(clean)")

    def examine(
        self, subject: ModelUnderTest, calibration: Calibration | None = None, progress: Progress = SILENT
    ) -> AuditResult:
        """Examine a model.

        Args:
            subject: the model and clean images.
            calibration: what decides the verdict; by default the one that comes with Petechia.
            progress: told of phases and of answered images.

        Raises:
            PetechiaError: see `examine_model`.
        """
        found = examine_model(subject.classifier, subject.clean, self.quick, calibration, progress)
        return AuditResult.of(found, Origin(subject.classifier.public_name, None, "an array of images"))


def calibrated(models: Sequence[Measured], command: str) -> Calibration:
    """The calibration that follows from what was measured of clean models.

    With few models the level is higher: no p-value is smaller than they can support. Models with few classes are compared with
    each other, and so are those with more; the larger group sets the level.

    Args:
        models: what an audit found in each.
        command: that measured them.

    Raises:
        PetechiaError: there is only one of either.
    """
    few = sum(one.few for one in models)
    compared = max(few, len(models) - few)
    if compared < FEWEST_MODELS:
        raise PetechiaError(f"A calibration needs {FEWEST_MODELS} clean models, and better 60; there is {compared}.")
    packaged = AuditNulls.of()
    nulls = packaged.with_models(models).model_copy(update={"level": max(LEVEL, 1 / (compared + 1))})
    return Calibration(
        detector=DETECTOR, measured_on=_described(models), command=command, values=nulls.model_dump(mode="json", by_alias=True)
    )


def _described(models: Sequence[Measured]) -> str:
    sizes = sorted({one.size for one in models})
    counts = sorted({len(one.classes) for one in models})
    images = sorted({one.images for one in models})
    return (
        f"{len(models)} clean models of {_range(counts)} classes for images of {_range(sizes)} pixels a side, with "
        f"{_range(images)} clean images each"
    )


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
