"""The JSON between the page and the server: what the page asks, and what it is answered."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from petechia.attack.square import Square
from petechia.measure import THRESHOLDS
from petechia.saliency.layers import NAMED
from petechia.saliency.overlays import COLOURS, OPACITY
from petechia.viewer.methods import offered_methods
from petechia.viewer.networks import Network
from petechia.viewer.pictures import Picture
from petechia.viewer.screens import Suspected
from petechia.viewer.subject import Reading, Subject
from petechia.viewer.uploads import MOST_UPLOAD

MOST_STAMPS = 64
MOST_NUMBER = 2**63 - 1


class SquareGiven(BaseModel):
    """A square as the page sends it."""

    model_config = ConfigDict(extra="forbid")
    row: int = Field(ge=0, le=100_000)
    column: int = Field(ge=0, le=100_000)
    size: int = Field(ge=1, le=1024)
    value: int = Field(ge=0, le=255)


class PictureQuestion(BaseModel):
    """A picture with its stamps, and the network to ask about it."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(max_length=64)
    stamps: Annotated[list[SquareGiven], Field(max_length=MOST_STAMPS)] = []
    attacked: bool = False
    arm: str = Field(max_length=64)
    seed: int = Field(ge=0, le=MOST_NUMBER)
    epoch: int = Field(ge=0, le=MOST_NUMBER)

    @property
    def squares(self) -> list[Square]:
        """The stamps."""
        return [Square(**stamp.model_dump()) for stamp in self.stamps]

    @property
    def network(self) -> Network:
        """The network to ask."""
        return Network(self.arm, self.seed, self.epoch)


class ExplainQuestion(PictureQuestion):
    """What to explain about a picture, and how."""

    target: Annotated[int, Field(ge=0, le=MOST_NUMBER)] | None = None
    method: str = Field("gradcam", max_length=64)


UidText = Annotated[str, Field(max_length=64, pattern=r"^[0-9.]*$")]


class PacsQuestion(BaseModel):
    """Which image of the PACS to open; "" takes the first."""

    model_config = ConfigDict(extra="forbid")
    study: UidText
    series: UidText = ""
    instance: UidText = ""


def session_of(subject: Subject) -> dict[str, Any]:
    """What the page has to know of a run or a model before it shows an image."""
    colours = (255 * np.asarray(mpl.colormaps[COLOURS](np.arange(256)))[:, :3]).round().astype(int)
    networks, stamping = subject.networks.available, subject.stamping
    return {
        "classes": list(subject.classes),
        "target": subject.target,
        "networks": [{"arm": arm, "seed": seed, "epochs": epochs} for (arm, seed), epochs in networks.items()],
        "layers": NAMED,
        "methods": offered_methods(),
        "trigger": {"size": stamping.brush.size, "value": stamping.brush.value},
        "attack": {"text": stamping.trigger.describe(), "square": stamping.trigger.brush is not None},
        "stage": stamping.stage,
        "preprocess": subject.preprocess.model_dump(),
        "threshold": THRESHOLDS[0],
        "tests": len(subject.images),
        "without_target": subject.images.without_target(),
        "notice": subject.images.notice,
        "clean_images": subject.clean.size,
        "no_screen": subject.clean.missing,
        "colours": colours.tolist(),
        "opacity": OPACITY,
        "most_upload": MOST_UPLOAD,
    }


def opened(subject: Subject, name: str, picture: Picture) -> dict[str, Any]:
    """What the page has to know of an image that was opened under a name."""
    height, width = picture.shape
    stamping = subject.stamping
    return {
        "image": name,
        "height": height,
        "width": width,
        "colour": picture.colour is not None,
        "least": picture.span[0],
        "most": picture.span[1],
        "low": picture.window[0],
        "high": picture.window[1],
        "kept": stamping.kept(picture)._asdict(),
        "input": subject.preprocess.size if stamping.stamps_input(picture) else None,
        "findings": picture.findings,
        "place": stamping.attackers_place(picture),
    }


def answered(reading: Reading) -> dict[str, Any]:
    """Scores and heat maps. Maps are sent as shares of their own maximum, so that small numbers keep their digits."""
    hottest = {layer: maps.max(axis=(1, 2)) for layer, maps in reading.maps.items()}
    shares = {layer: maps / np.maximum(hottest[layer], 1e-30)[:, None, None] for layer, maps in reading.maps.items()}
    return {
        "target": reading.target,
        "scores": _rounded(reading.scores, 5),
        "maps": {layer: _rounded(maps, 4) for layer, maps in shares.items()},
        "hottest": {layer: one.astype(float).tolist() for layer, one in hottest.items()},
        "seen": [base64.b64encode(one.tobytes()).decode() for one in reading.seen],
        "size": reading.seen.shape[1],
        "changed": reading.changed,
    }


def suspected(found: Suspected) -> dict[str, Any]:
    """What the screen found."""
    return {
        "suspicion": found.evidence.suspicion,
        "threshold": found.threshold,
        "rate": found.rate,
        "images": found.images,
        "flagged": found.evidence.flagged,
        "target": found.target,
        "whole": found.evidence.whole,
        "box": found.box._asdict(),
        "pixels": int(found.evidence.pixels.sum()),
        "warnings": found.warnings,
    }


def _rounded(values: NDArray[np.float32], digits: int) -> Any:
    return np.asarray(values, np.float64).round(digits).tolist()
