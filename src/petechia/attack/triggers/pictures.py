"""Pictures for triggers: built-in ones, and PNG files."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from petechia.attack.triggers.base import BaseTrigger
from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError, printable
from petechia.data.formats.bounds import check_content, check_size

BUILT_IN = ("checkerboard", "noise", "rings", "dots")
CELLS = 8  # side of the built-in pictures, in cells
DOTS = 5  # single pixels, white and black in turn
FINE = 64  # side of the rings, in pixels


class PictureTrigger(BaseTrigger):
    """A trigger made from a picture.

    Attributes:
        image: "checkerboard", "noise", "rings" or "dots" (built in), or the path of a PNG file, whose transparency is
            respected. Dots are five scattered pixels with nothing between them.
        seed: random seed of the noise, and of the places of the dots.
        sha256: digest of the file. It is filled in if it is not given, so that a recorded or resumed run always uses the same
            pixels: another file under the same name raises an error.
    """

    image: str = "checkerboard"
    seed: int = Field(0, ge=0, lt=2**32)
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")

    @model_validator(mode="before")
    @classmethod
    def _know_the_file(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("sha256"):
            return values
        image = values.get("image", cls.model_fields["image"].default)
        if not isinstance(image, str) or image in BUILT_IN:
            return values
        try:
            return values | {"sha256": hashlib.sha256(_content(image)).hexdigest()}
        except PetechiaError as error:
            raise ValueError(str(error).removesuffix(".")) from None

    def describe_picture(self) -> str:
        """Describe the picture."""
        return self.image if self.image in BUILT_IN else f"picture {Path(self.image).name}"

    def pixels(self, height: int, width: int) -> NDArray[np.float32]:
        """Return the picture at a given size: float32 [4, height, width], red, green, blue in 0 … 255 and opacity in 0 … 1.

        Raises:
            PetechiaError: the file cannot be read, or is not the one that the configuration was made with.
        """
        return _scaled(self.image, self.seed, self.sha256, height, width)

    def shape(self) -> tuple[int, int]:
        """Return height and width of the original picture.

        Raises:
            PetechiaError: as for `pixels`.
        """
        height, width = _picture(self.image, self.seed, self.sha256).shape[:2]
        return height, width


def colours(pixels: NDArray[np.float32], like: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the colours of a picture in the format of some images.

    Args:
        pixels: float32 [3 or more, h, w], starting with red, green and blue.
        like: the images; for [N, H, W] the result is grey levels [h, w], for [N, H, W, C] it is [3, h, w].
    """
    return pixels[:3] if like.ndim == 4 else np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), pixels[:3], 1)


@lru_cache(8)
def _scaled(image: str, seed: int, sha256: str, height: int, width: int) -> NDArray[np.float32]:
    picture = _dots(seed, height, width) if image == "dots" else _picture(image, seed, sha256)
    if image == "checkerboard":
        picture = picture[:height, :width]  # of fewer pixels than cells some cells would be skipped, and no board be left
    if picture.shape[:2] != (height, width):
        smooth = image not in ("checkerboard", "noise")  # their edges stay sharp
        resample = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        picture = np.asarray(Image.fromarray(picture).resize((width, height), resample))
    planes = np.moveaxis(picture, 2, 0).astype(np.float32)
    planes[3] /= 255
    planes.flags.writeable = False
    return planes


def _picture(image: str, seed: int, sha256: str) -> NDArray[np.uint8]:
    """Return the built-in picture or the content of the file, uint8 [h, w, 4]."""
    if image == "dots":
        return _dots(seed, CELLS, CELLS)
    if image in BUILT_IN:
        grey = _drawn(image, seed)
        return np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=2)
    content = _content(image)
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise PetechiaError(
            f"attack.trigger.image: {image} is not the file that this attack was configured with; restore it, or start anew."
        )
    return _decoded(content, image)


def _drawn(image: str, seed: int) -> NDArray[np.uint8]:
    if image == "noise":
        return np.random.default_rng(seed).integers(0, 256, (CELLS, CELLS), np.uint8)
    if image == "checkerboard":
        return np.asarray(255 * (np.indices((CELLS, CELLS)).sum(axis=0) % 2), np.uint8)
    rows, columns = np.indices((FINE, FINE)) - (FINE - 1) / 2
    return np.asarray(np.rint(127.5 * (1 + np.cos(np.hypot(rows, columns) * (2 * np.pi / CELLS)))), np.uint8)


def _dots(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Scattered pixels on a transparent ground, uint8 [height, width, 4]."""
    places = np.random.default_rng(seed).choice(height * width, min(DOTS, height * width), replace=False)
    picture = np.zeros((height * width, 4), np.uint8)
    picture[places, :3] = 255 * (np.arange(len(places)) % 2 == 0)[:, None]
    picture[places, 3] = 255
    return picture.reshape(height, width, 4)


def _content(image: str) -> bytes:
    try:
        if not Path(image).is_file() and Path(image).exists():  # reading a pipe or a device may never end
            raise OSError(0, "it is not a file")
        return read_file(Path(image), "image_bytes")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PetechiaError(
            f"{printable(image, 200)} cannot be read ({reason}); give a PNG file, or one of {', '.join(BUILT_IN)}."
        ) from None


def _decoded(content: bytes, name: str) -> NDArray[np.uint8]:
    check_content(content, name, "give another picture")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
            check_size(opened.width, opened.height, name, "give a smaller picture")
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"{opened.width} x {opened.height} pixels of mode {opened.mode}")
            return np.asarray(opened.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        raise PetechiaError(f"attack.trigger.image: {name} is not an 8-bit PNG that can be used ({error}).") from None
