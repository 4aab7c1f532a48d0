"""The audit as a detector: calibrated on clean models, then asked about one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from petechia.core.errors import PetechiaError, listing
from petechia.core.progress import SILENT, Progress
from petechia.detect.audit.examination import examine_model, gather_evidence
from petechia.detect.audit.reconstruct import STEPS
from petechia.detect.audit.result import AuditResult, Origin
from petechia.detect.audit.verdict import DETECTOR, AuditNulls, Null, packaged_calibration, strongest_evidence
from petechia.detect.protocol import Calibration, ModelUnderTest

FEWEST_MODELS = 2  # clean models that give a null


class ModelAudit:
    """Looks for a backdoor in a model, with clean images alone. See `examine_model`.

    Attributes:
        name: "audit".
        examines: "model".
        steps: of the optimizer that reconstructs triggers of any shape; 0 leaves them out.

    Example:
        >>> detector = ModelAudit()
        >>> calibration = detector.calibrate()
        >>> calibration.values["level"]
        0.01
    """

    name: str = DETECTOR
    examines: Literal["dataset", "model", "images"] = "model"

    def __init__(self, steps: int = STEPS) -> None:
        self.steps = steps

    def __repr__(self) -> str:
        return f"ModelAudit(steps={self.steps})"

    def calibrate(self, clean: Sequence[ModelUnderTest] = ()) -> Calibration:
        """Measure on clean models how strong the evidence for their strongest class is.

        Args:
            clean: clean models, as many as can be had: p-values get small only with many. Without any, the calibration that
                comes with Petechia is returned.

        Raises:
            PetechiaError: fewer than two of the models have enough classes for these to be compared, or a model cannot be
                examined.
        """
        packaged = packaged_calibration()
        if not clean:
            return packaged
        before = AuditNulls.of(packaged)
        fewest = before.fewest_classes
        comparable = sum(len(one.classifier.classes) >= fewest for one in clean)
        if comparable < FEWEST_MODELS:
            raise PetechiaError(
                f"{comparable} of the {len(clean)} clean models have {fewest} classes or more, and a calibration needs "
                f"{FEWEST_MODELS} such models; give more, or none to use the calibration that comes with Petechia."
            )
        found = [gather_evidence(one.classifier, one.clean, self.steps) for one in clean]
        strongest = [strongest_evidence(one.gains, one.sizes, fewest) for one in found]
        nulls = {name: _null([one[name] for one in strongest]) for name in ("strength", "contrast", "trigger")}
        measured = AuditNulls.model_validate({"level": before.level, "fewest_classes": fewest, **nulls})
        return Calibration(
            detector=self.name, measured_on=_described(clean), command=f"{self!r}.calibrate(clean)", values=measured.values()
        )

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
        found = examine_model(subject.classifier, subject.clean, self.steps, calibration, progress)
        return AuditResult.of(found, Origin(subject.classifier.name, None, "an array of images"))


def _null(strongest: list[float]) -> Null | None:
    """None where too few models have evidence of this kind: no trigger of a black box, no contrast of few classes."""
    finite = [value for value in strongest if np.isfinite(value)]
    return Null.of(finite) if len(finite) >= FEWEST_MODELS else None


def _described(clean: Sequence[ModelUnderTest]) -> str:
    images = sorted({len(one.clean) for one in clean})
    each = str(images[0]) if len(images) == 1 else f"{images[0]} to {images[-1]}"
    return f"{len(clean)} clean models ({listing([one.classifier.name for one in clean])}) with {each} clean images each"
