"""The trigger that must be unlearned, as far as it is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petechia.attack.square import checkerboard, grey_words, paint
from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError, unreadable
from petechia.core.randomness import stream
from petechia.core.settings import Settings, first_problem
from petechia.data.dataset import Images
from petechia.detect.audit.result import AuditResult
from petechia.detect.repair.known_change import KnownChange

LARGEST = 16 << 20  # bytes of an audit.json that is read
FAINTEST = 0.3  # lowest opacity with which a trigger is stamped while it is unlearned
FORM = "class=NAME,row=R,column=C,size=S,value=V"


class KnownTrigger(Settings):
    """A rectangle that raises a class, filled or as a checkerboard, in pixels of the prepared image.

    Attributes:
        target: the class.
        row: of its top left corner.
        column: of its top left corner.
        height: in pixels.
        width: in pixels.
        value: its grey level.
        other: grey level of every other pixel of a checkerboard.
        fixed: whether it works at that place only; else at any, and it is stamped at random ones.
    """

    target: str
    row: int = Field(ge=0)
    column: int = Field(ge=0)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    value: int = Field(ge=0, le=255)
    other: int | None = Field(None, ge=0, le=255)
    fixed: bool = True

    def places(self, count: int, size: int, rng: np.random.Generator, jitter: int = 0) -> NDArray[np.intp]:
        """Top left corners, one for each image: int [count, 2].

        Args:
            count: how many images there are.
            size: side of an image, in pixels.
            rng: source of randomness.
            jitter: pixels, each way, by which a fixed place is moved at random; nothing is moved off the image.
        """
        last = np.array([size - self.height, size - self.width])
        if not self.fixed:
            return rng.integers(0, last + 1, (count, 2)).astype(np.intp)
        moved = np.array([self.row, self.column]) + rng.integers(-jitter, jitter + 1, (count, 2))
        return np.clip(moved, 0, last).astype(np.intp)

    def on(
        self, images: NDArray[np.uint8], places: NDArray[np.intp], opacity: float | NDArray[np.float64] = 1.0
    ) -> NDArray[np.uint8]:
        """Copies of images with the trigger on each.

        Args:
            images: uint8 [N, H, W] or [N, H, W, C]; not changed.
            places: int [N, 2], top left corners.
            opacity: share of the trigger's grey level in what is written, one number or [N].
        """
        level = self.value if self.other is None else checkerboard(self.height, self.width, self.value, self.other)
        return paint(images, places, self.height, self.width, level, opacity)

    def check_fits(self, classes: tuple[str, ...], size: int) -> None:
        """Check that a model has the class, and that the trigger lies on its images.

        Raises:
            PetechiaError: it does not.
        """
        if self.target not in classes:
            raise PetechiaError(
                f"The trigger raises {self.target!r}, which is not a class of the model; its classes are {', '.join(classes)}."
            )
        if self.row + self.height > size or self.column + self.width > size:
            raise PetechiaError(
                f"A trigger of {self.height} x {self.width} pixels at row {self.row}, column {self.column} does not fit on "
                f"the model's images of {size} x {size}; give it in pixels of the prepared image."
            )

    def __str__(self) -> str:
        place = f"at row {self.row}, column {self.column}" if self.fixed else "anywhere"
        return f"{self.height} x {self.width} pixels of {grey_words(self.value, self.other)} {place}"


Known = KnownTrigger | KnownChange


@dataclass
class SometimesStamped:
    """Images of which some are stamped anew at each read: with one of the triggers, at its place or near it, opaque or faint.

    A blended trigger answers to an opaque stamp too, and is recovered as one. Unlearning the opaque stamp alone would leave the
    blended trigger whole.

    Attributes:
        images: uint8 [n, H, W] or [n, H, W, 3].
        stamped: bool [n], which of them get a trigger.
        triggers: of which each gets one.
        jitter: see `KnownTrigger.places`.
        seed: the same seed and the same reads give the same images.
    """

    images: Images
    stamped: NDArray[np.bool_]
    triggers: Sequence[Known]
    jitter: int
    seed: int

    def __post_init__(self) -> None:
        self.rng = stream(self.seed, "repair")

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, …]."""
        return self.images.shape

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        found = np.array(self.images[rows])
        chosen = np.where(self.stamped[rows], self.rng.integers(0, len(self.triggers), len(rows)), -1)
        for number, trigger in enumerate(self.triggers):
            mine = chosen == number
            places = trigger.places(int(mine.sum()), found.shape[1], self.rng, self.jitter)
            found[mine] = trigger.on(found[mine], places, self.rng.uniform(FAINTEST, 1, len(places)))
        return found


def parse_trigger(text: str) -> KnownTrigger:
    """A trigger from `class=NAME,row=R,column=C,size=S,value=V`; without row and column it works anywhere.

    Raises:
        PetechiaError: the text is not of that form.
    """
    given: dict[str, Any] = dict(part.strip().split("=", 1) for part in text.split(",") if "=" in part)
    wanted = {"class", "size", "value"}
    if not wanted <= set(given) <= wanted | {"row", "column"} or ("row" in given) != ("column" in given):
        raise PetechiaError(f"--stamp is {text!r}; give {FORM}, without row and column if it works anywhere.")
    place = {"row": given.get("row", 0), "column": given.get("column", 0), "fixed": "row" in given}
    try:
        return KnownTrigger(target=given["class"], height=given["size"], width=given["size"], value=given["value"], **place)
    except ValidationError as error:
        raise PetechiaError(f"--stamp is {text!r}: {first_problem(error)}; give {FORM}.") from None


class _RecoveredChange(BaseModel):
    """The change of the image in a class of an audit.json."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    family: str
    strength: float
    shape: tuple[int, ...]
    direction: str


class _RecoveredTrigger(BaseModel):
    """A class of an audit.json, as much of it as a repair needs.

    An `AuditResult` has more. But a repair also takes a file that was written by hand, by another version, or for a rectangle
    (`height` and `width` in place of `size`), and says what is wrong with the part that it needs.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    name: str
    flagged: bool = False
    row: int | None = None
    column: int | None = None
    height: int | None = None
    width: int | None = None
    size: int | None = None
    value: float | None = None
    other: int | None = None
    fixed: bool | None = None
    trigger: str = "stamp"
    change: _RecoveredChange | None = None

    def known(self) -> Known | None:
        """The trigger that the audit shows; None where the class is not flagged, or no trigger was recovered."""
        if self.flagged and self.change is not None and self.trigger == "change":
            return KnownChange(target=self.name, **self.change.model_dump())
        height, width = self.height or self.size, self.width or self.size
        if not self.flagged or None in (self.row, self.column, self.value) or not height or not width:
            return None
        return KnownTrigger(
            target=self.name,
            row=self.row or 0,
            column=self.column or 0,
            height=height,
            width=width,
            value=round(self.value or 0),
            other=self.other,
            fixed=self.fixed is not False,
        )


def triggers_of(audit: AuditResult) -> tuple[Known, ...]:
    """The triggers that an audit recovered: those of the classes that it flagged; none where it flagged no class."""
    return _known([one.model_dump() for one in audit.classes])


def read_triggers(path: Path) -> tuple[Known, ...]:
    """The triggers that an audit recovered, from its file: those of the classes that it flagged.

    Args:
        path: of audit.json.

    Raises:
        PetechiaError: it is not such a file, or no recovered trigger is in it.
    """
    try:
        content = read_file(path, "result_bytes", "give the audit.json of petechia audit")
        if len(content) > LARGEST:
            raise PetechiaError(f"{path} is larger than an audit is; give the audit.json of petechia audit.")
        triggers = _known(json.loads(content)["classes"])
    except OSError as error:
        raise unreadable(path, error, "give the audit.json of petechia audit") from None
    except ValidationError as error:
        raise PetechiaError(f"{path} is not an audit.json of petechia audit ({first_problem(error)}).") from None
    except (ValueError, TypeError, LookupError, RecursionError):
        raise PetechiaError(f"{path} is not an audit.json of petechia audit; give the one of this model.") from None
    if not triggers:
        raise PetechiaError(
            f"{path} flags no class with a trigger that can be stamped; repair with --method fine-prune, or give --stamp."
        )
    return triggers


def _known(classes: Sequence[Any]) -> tuple[Known, ...]:
    recovered = [_RecoveredTrigger.model_validate(one) for one in classes]
    return tuple(known for one in recovered if (known := one.known()))
