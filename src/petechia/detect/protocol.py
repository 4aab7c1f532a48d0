"""What every detector can be asked, ours and others': calibrate on what is clean, then examine a subject."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError, printable, unreadable
from petechia.core.files import write_text
from petechia.core.progress import SILENT, Progress
from petechia.core.registry import Registry, deferred
from petechia.core.results import Number, Record, Result
from petechia.core.settings import first_problem
from petechia.data.not_read import EVERYTHING_READ, NotRead
from petechia.models.classifier import Classifier

Values = TypeVar("Values", bound=BaseModel)
Subject = TypeVar("Subject", contravariant=True)  # noqa: PLC0105 (the word of the protocol)


class Finding(Record):
    """What a detector says of one thing.

    Attributes:
        about: what it is about: an image's id, a class's name, or a model's name.
        kind: "image", "class" or "model".
        score: higher is more suspicious; scores of one detector can be compared with each other, and with nothing else.
        flagged: whether it is reported.
        p_value: chance that a clean subject gives as high a score; NaN where the detector gives none.
        threshold: the score from which it is flagged; NaN where a p-value decides.
        false_positive_rate: at which the threshold was set; NaN where none was measured.
        reason: one sentence for people; may be empty where nothing was found.
        evidence: what a person can look at: plain values, such as a place, a size or the name of a picture.
    """

    about: str
    kind: str
    score: Number
    flagged: bool
    p_value: Number = float("nan")
    threshold: Number = float("nan")
    false_positive_rate: Number = float("nan")
    reason: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)


class Examination(Protocol):
    """What a detector found; `ScanResult`, `AuditResult` and `ScreenResult` are such."""

    @property
    def findings(self) -> Sequence[Finding]:
        """One for each thing that was examined."""


class Calibration(Record):
    """Thresholds and nulls of a detector, with what they were measured on. A versioned JSON file.

    Attributes:
        schema_: version of the file's format, `schema` in the file.
        detector: whose they are.
        measured_on: in words and numbers: models, images, machine, date.
        command: that measured them; empty where they were chosen by hand, which `measured_on` then says.
        values: name → number, list of numbers, or object of numbers; each detector says what it needs.
    """

    schema_: int = Field(1, alias="schema")
    detector: str
    measured_on: str
    command: str = ""
    values: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a calibration file.

        Raises:
            PetechiaError: it is not such a file.
        """
        try:
            return cls.model_validate_json(read_file(Path(path), "result_bytes", "check the path of the calibration"))
        except OSError as error:
            raise unreadable(path, error, "check the path of the calibration") from None
        except ValidationError as error:
            raise PetechiaError(f"{path} is not a calibration file ({first_problem(error)}).") from None

    @classmethod
    def packaged(cls, name: str) -> Self:
        """One of those that come with Petechia, in `petechia/detect/calibration/NAME.json`."""
        text = resources.files("petechia.detect").joinpath("calibration", f"{name}.json").read_text(encoding="utf-8")
        return cls.model_validate_json(text)

    def require(self, detector: str) -> Self:
        """This calibration, if it is that of a detector.

        Args:
            detector: name of the detector that wants to use it.

        Raises:
            PetechiaError: it is another detector's.
        """
        if self.detector != detector:
            raise PetechiaError(
                f"This calibration is for the detector {printable(self.detector)!r}, not for {detector!r}; "
                f"give one that {detector!r} made."
            )
        return self

    def read(self, detector: str, kind: type[Values]) -> Values:
        """The values, checked.

        Args:
            detector: name of the detector that wants to use them.
            kind: pydantic model of what it needs.

        Raises:
            PetechiaError: this calibration is another detector's, or a value is missing or not allowed.
        """
        try:
            return kind.model_validate(dict(self.require(detector).values))
        except ValidationError as error:
            problem = first_problem(error)
            raise PetechiaError(
                f"The calibration of the {detector} is not valid ({problem}) and cannot be used; make it again."
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the file, in one step."""
        write_text(Path(path), self.to_json())

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"


class ModelUnderTest(NamedTuple):
    """What a detector of backdoored models examines.

    Attributes:
        classifier: the model.
        clean: uint8 [N, H, W] or [N, H, W, 3], prepared images of the kind that it was made for; no labels are needed.
    """

    classifier: Classifier
    clean: NDArray[np.uint8]


class ImagesUnderTest(NamedTuple):
    """What a detector of triggered images examines.

    Attributes:
        classifier: the model that is asked about them.
        images: uint8 [N, H, W] or [N, H, W, 3], prepared.
        ids: names of the N images; empty where they have none.
        shapes: int [N, 2], height and width of each image before it was prepared, to say where in its file something lies;
            None where there are no files.
    """

    classifier: Classifier
    images: NDArray[np.uint8]
    ids: tuple[str, ...] = ()
    shapes: NDArray[np.intp] | None = None


class Detector(Protocol[Subject]):
    """A detector of backdoors, ours or of another package, which registers it in `petechia.detectors`.

    What it examines, its subject, is a `Catalog` ("dataset"), a `ModelUnderTest` ("model") or `ImagesUnderTest` ("images").

    Attributes:
        name: as the registry knows it.
        examines: which of the three.
    """

    name: str
    examines: Literal["dataset", "model", "images"]

    def calibrate(self, clean: Sequence[Subject]) -> Calibration:
        """Measure thresholds on clean subjects; without any, give those that were measured or published before.

        Raises:
            PetechiaError: the clean subjects do not suffice.
        """

    def examine(self, subject: Subject, calibration: Calibration, progress: Progress = SILENT) -> Examination:
        """Examine a subject.

        Raises:
            PetechiaError: it cannot be examined, or the calibration is another detector's.
        """


class Findings(Result):
    """What a detector found, in the form that all share. File: findings.json.

    Attributes:
        detector: its name.
        measured_on: what its calibration was measured on.
        found: the findings, in the order of what was examined.
        not_read: images that were not looked at.
    """

    file_name: ClassVar[str] = "findings.json"

    schema_: int = Field(2, alias="schema")
    detector: str
    measured_on: str
    found: tuple[Finding, ...]
    not_read: NotRead = EVERYTHING_READ

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings."""
        return self.found

    @property
    def flagged(self) -> tuple[Finding, ...]:
        """Those that are flagged."""
        return tuple(finding for finding in self.found if finding.flagged)


DETECTORS: Registry[Callable[..., Detector[Any]]] = Registry("detector", "petechia.detectors")
for _name, _class in {"scan": "DatasetScan", "audit": "ModelAudit", "screen": "ImageScreen"}.items():
    DETECTORS.add(_name, deferred(f"petechia.detect.{_name}.detector:{_class}"))
