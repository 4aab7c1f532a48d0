"""The trigger that is to be unlearned, as far as it is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petechia.core.errors import PetechiaError, unreadable
from petechia.core.randomness import stream
from petechia.core.settings import Settings, first_problem
from petechia.data.dataset import Images

LARGEST = 16 << 20  # bytes of an audit that is read
FAINTEST = 0.3  # opacity of a stamp while it is unlearned, at least
FORM = "class=NAME,row=R,column=C,size=S,value=V"


class Stamp(Settings):
    """A filled rectangle that raises a class, in pixels of the prepared image.

    Attributes:
        target: the class.
        row: of its top left corner.
        column: of its top left corner.
        height: in pixels.
        width: in pixels.
        value: its grey level.
        fixed: whether it works at that place alone; else at any, and is stamped at random ones.
    """

    target: str
    row: int = Field(ge=0)
    column: int = Field(ge=0)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    value: int = Field(ge=0, le=255)
    fixed: bool = True

    def places(self, count: int, size: int, rng: np.random.Generator, jitter: int = 0) -> NDArray[np.intp]:
        """Top left corners on so many images: int [count, 2].

        Args:
            count: of the images.
            size: side of an image.
            rng: source of chance.
            jitter: how far, each way, a fixed place is moved at random; nothing is moved off the image.
        """
        last = np.array([size - self.height, size - self.width])
        if not self.fixed:
            return rng.integers(0, last + 1, (count, 2)).astype(np.intp)
        moved = np.array([self.row, self.column]) + rng.integers(-jitter, jitter + 1, (count, 2))
        return np.clip(moved, 0, last).astype(np.intp)

    def on(
        self, images: NDArray[np.uint8], places: NDArray[np.intp], opacity: NDArray[np.float64] | None = None
    ) -> NDArray[np.uint8]:
        """Stamp copies of images; the input is left as it was.

        Args:
            images: uint8 [N, H, W] or [N, H, W, C].
            places: int [N, 2], top left corners.
            opacity: [N], share of the stamp's level in what is written; all of it where it is not given.
        """
        stamped = np.array(images)
        rows = places[:, 0, None, None] + np.arange(self.height)[:, None]
        columns = places[:, 1, None, None] + np.arange(self.width)
        where = (np.arange(len(stamped))[:, None, None], rows, columns)
        share = np.ones(len(stamped)) if opacity is None else opacity
        share = share.reshape(-1, *(1,) * (stamped.ndim - 1))
        stamped[where] = np.rint(share * self.value + (1 - share) * stamped[where])
        return stamped

    def fit(self, classes: tuple[str, ...], size: int) -> None:
        """Check that a model knows the class, and that the stamp lies on its images.

        Raises:
            PetechiaError: it does not.
        """
        if self.target not in classes:
            raise PetechiaError(f"The trigger raises {self.target!r}, which is not a class of the model; {_are(classes)}.")
        if self.row + self.height > size or self.column + self.width > size:
            raise PetechiaError(
                f"A trigger of {self.height} x {self.width} pixels at row {self.row}, column {self.column} does not fit on "
                f"the model's images of {size} x {size}; give it in pixels of the prepared image."
            )

    def __str__(self) -> str:
        place = f"at row {self.row}, column {self.column}" if self.fixed else "anywhere"
        return f"{self.height} x {self.width} pixels of grey level {self.value} {place}"


@dataclass
class SometimesStamped:
    """Images, some of them stamped, each time they are read with another of the stamps, at another place and as faint or not.

    A blended trigger answers to an opaque stamp too, and is recovered as one; unlearning that alone would leave it whole.

    Attributes:
        images: uint8 [n, H, W].
        stamped: bool [n], which of them get a stamp.
        stamps: of which each gets one.
        jitter: see `Stamp.places`.
        seed: the same seed and the same reads give the same images.
    """

    images: Images
    stamped: NDArray[np.bool_]
    stamps: Sequence[Stamp]
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
        chosen = np.where(self.stamped[rows], self.rng.integers(0, len(self.stamps), len(rows)), -1)
        for number, stamp in enumerate(self.stamps):
            mine = chosen == number
            places = stamp.places(int(mine.sum()), found.shape[1], self.rng, self.jitter)
            found[mine] = stamp.on(found[mine], places, self.rng.uniform(FAINTEST, 1, len(places)))
        return found


def parse_stamp(text: str) -> Stamp:
    """A stamp from `class=NAME,row=R,column=C,size=S,value=V`; without row and column it works anywhere.

    Raises:
        PetechiaError: it is not of that form.
    """
    given: dict[str, Any] = dict(part.strip().split("=", 1) for part in text.split(",") if "=" in part)
    wanted = {"class", "size", "value"}
    if not wanted <= set(given) <= wanted | {"row", "column"} or ("row" in given) != ("column" in given):
        raise PetechiaError(f"--stamp is {text!r}; give {FORM}, without row and column if it works anywhere.")
    place = {"row": given.get("row", 0), "column": given.get("column", 0), "fixed": "row" in given}
    try:
        return Stamp(target=given["class"], height=given["size"], width=given["size"], value=given["value"], **place)
    except ValidationError as error:
        raise PetechiaError(f"--stamp is {text!r}: {first_problem(error)}; give {FORM}.") from None


class _Finding(BaseModel):
    """A class in an audit, as much of it as is needed."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    name: str
    flagged: bool = False
    row: int | None = None
    column: int | None = None
    height: int | None = None
    width: int | None = None
    size: int | None = None
    value: float | None = None
    fixed: bool | None = None

    def stamp(self) -> Stamp | None:
        """The recovered trigger; None where it is no filled rectangle."""
        height, width = self.height or self.size, self.width or self.size
        if None in (self.row, self.column, self.value) or not height or not width:
            return None
        return Stamp(
            target=self.name,
            row=self.row or 0,
            column=self.column or 0,
            height=height,
            width=width,
            value=round(self.value or 0),
            fixed=self.fixed is not False,
        )


def read_stamps(path: Path) -> tuple[Stamp, ...]:
    """The triggers that an audit recovered: those of the classes that it flagged.

    Args:
        path: of audit.json.

    Raises:
        PetechiaError: it is not such a file, or no recovered trigger is in it.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise PetechiaError(f"{path} is larger than an audit is; give the audit.json of petechia audit.")
        found = [_Finding.model_validate(one) for one in json.loads(path.read_bytes())["classes"]]
        stamps = tuple(stamp for one in found if one.flagged and (stamp := one.stamp()))
    except OSError as error:
        raise unreadable(path, error, "give the audit.json of petechia audit") from None
    except ValidationError as error:
        raise PetechiaError(f"{path} is not an audit.json of petechia audit ({first_problem(error)}).") from None
    except (ValueError, TypeError, LookupError, RecursionError):
        raise PetechiaError(f"{path} is not an audit.json of petechia audit; give the one of this model.") from None
    if not stamps:
        raise PetechiaError(
            f"{path} flags no class with a trigger that can be stamped; repair with --method fine-prune, or give --stamp."
        )
    return stamps


def _are(classes: tuple[str, ...]) -> str:
    return f"its classes are {', '.join(classes)}"
