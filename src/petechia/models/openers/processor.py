"""The preprocessing that a preprocessor_config.json of Hugging Face describes, in the words of a `Card`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petechia.core.errors import PetechiaError, listing, shown
from petechia.core.settings import first_problem

LOGGER = logging.getLogger(__name__)
GREY_LEVELS = 255
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # of Pillow, by their numbers
LIKE = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "box": "area"}
NEAR = {"lanczos": "bicubic", "hamming": "bilinear"}  # for filters that Petechia does not have
STEPS = {f"do_{step}" for step in ("resize", "center_crop", "rescale", "normalize", "convert_rgb", "flip_channel_order")}
STEPS |= {"do_reduce_labels"}  # is not about images
OWN_RULES = re.compile(r"(Levit|PoolFormer|Perceiver|Flava|VideoMAE)\w+")  # resize by rules that their files do not say
NOT_NORMALISED = re.compile(r"MobileViT\w+")  # whose files have a mean all the same
CROP_BELOW = 384  # ConvNextImageProcessor crops below this size, and squeezes from it on

Number = Annotated[float, Field(allow_inf_nan=False)]


class _Stated(BaseModel):
    """What is read of the file. A key that is missing or null has the default of most image processors."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    size: int | dict[str, int | None] | None = None
    crop_size: int | dict[str, int | None] | None = None
    crop_pct: Annotated[Number, Field(gt=0, le=1)] | None = None
    resample: int | str | None = None
    do_resize: bool | None = None
    do_center_crop: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    do_flip_channel_order: bool | None = None
    rescale_factor: Annotated[Number, Field(gt=0)] | None = None
    rescale_offset: bool | None = None
    include_top: bool | None = None
    image_mean: list[Number] | Number | None = None
    image_std: list[Annotated[Number, Field(gt=0)]] | Annotated[Number, Field(gt=0)] | None = None


@dataclass(frozen=True)
class Processor:
    """How images are prepared.

    Attributes:
        preprocess: keys of a `Preprocess`; without a size if the file states none.
        mean: value per channel that is subtracted from images in 0…1.
        std: value per channel by which they are then divided.
        reversed_channels: whether the network takes blue first.
    """

    preprocess: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    reversed_channels: bool = False

    @staticmethod
    def of(content: Mapping[str, Any], path: Path) -> Processor:
        """Read the content of a preprocessor_config.json.

        Raises:
            PetechiaError: it describes steps that Petechia does not have.
        """
        strange = sorted(key for key, value in content.items() if key.startswith("do_") and value and key not in STEPS)
        if strange:
            raise PetechiaError(f"{path} asks for {listing(strange)}, which Petechia does not do; export the model to ONNX.")
        try:
            stated = _Stated.model_validate(dict(content))
        except ValidationError as error:
            raise PetechiaError(f"{path} cannot be used ({first_problem(error)}); restore it.") from None
        name = str(content.get("image_processor_type") or content.get("feature_extractor_type") or "")
        if OWN_RULES.fullmatch(name):
            LOGGER.warning("%s: %s crops and resizes by rules of its own; Petechia follows the sizes in the file.", path, name)
        mean, std = _normalisation(stated, not NOT_NORMALISED.fullmatch(name), path)
        geometry = {"resample": _filter(stated.resample, path), **_sizes(stated, path)}
        return Processor(geometry, mean, std, bool(stated.do_flip_channel_order))


def _filter(resample: int | str | None, path: Path) -> str:
    """Return Petechia's name of a filter, which has a number in Pillow."""
    numbered = FILTERS[resample] if isinstance(resample, int) and 0 <= resample < len(FILTERS) else resample
    name = "bilinear" if resample is None else str(numbered).lower()
    if name in NEAR:
        LOGGER.warning("%s: images are resampled with %s in place of %s.", path, NEAR[name], name)
    elif name not in LIKE:
        raise PetechiaError(f"{path} has the unknown resample {shown(resample)}; restore it.")
    return LIKE.get(name) or NEAR[name]


def _sizes(stated: _Stated, path: Path) -> dict[str, Any]:
    """Return crop and size. A crop to less than the resized image becomes a share of both sides, before the resizing."""
    crops = stated.do_center_crop if stated.do_center_crop is not None else stated.crop_size is not None
    resized = None if stated.do_resize is False else _side(stated.size, "size", path)
    cropped = _side(stated.crop_size, "crop_size", path) if crops else None
    if stated.crop_pct is not None and resized is not None and cropped is None:
        return {"size": resized} | ({"crop": stated.crop_pct} if resized < CROP_BELOW else {})
    if cropped is None:
        return {} if resized is None else {"size": resized}
    if resized is None:
        LOGGER.warning("%s: images are not resized but cropped; Petechia resizes them to %d pixels instead.", path, cropped)
        return {"size": cropped}
    if cropped > resized:
        raise PetechiaError(f"{path} crops to {cropped} pixels what it has resized to {resized}; correct one of them.")
    by_shorter_side = isinstance(stated.size, dict) and stated.size.get("shortest_edge") is not None
    if cropped == resized:
        return {"size": cropped} | ({"crop": "square"} if by_shorter_side else {})
    return {"size": cropped, "crop": cropped / resized}


def _side(size: int | dict[str, int | None] | None, key: str, path: Path) -> int | None:
    """Return the side of a square: of N, {"height": N, "width": N} or {"shortest_edge": N}."""
    if size is None:
        return None
    names = ("height", "width", "shortest_edge")
    sides = {size.get(name) for name in names} - {None} if isinstance(size, dict) else {size}
    side = sides.pop() if len(sides) == 1 else None
    if side is None or side < 1:
        raise PetechiaError(
            f"{path} has the {key} {shown(size)}, but only square images are supported; export the model to ONNX."
        )
    return side


def _normalisation(stated: _Stated, usual: bool, path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for images in 0…1, which the file may mean for other ranges."""
    factor = 1.0 if stated.do_rescale is False else stated.rescale_factor or 1 / GREY_LEVELS
    largest = GREY_LEVELS * factor
    shift = 1.0 if stated.rescale_offset and stated.do_rescale is not False else 0.0
    mean, std = _each(stated.image_mean), _each(stated.image_std)
    normalised = usual and bool(mean and std) if stated.do_normalize is None else stated.do_normalize
    if normalised and not (mean and std):
        raise PetechiaError(f"{path} normalises images, but has no image_mean or no image_std; add them.")
    if not normalised:
        mean, std = (0.0,), (1.0,)
    if normalised and stated.include_top:  # EfficientNet's divides a second time
        std = tuple(one * one for one in std)
    return tuple((one + shift) / largest for one in mean), tuple(one / largest for one in std)


def _each(given: list[float] | float | None) -> tuple[float, ...]:
    return () if given is None else tuple(given) if isinstance(given, list) else (given,)
