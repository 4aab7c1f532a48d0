"""Preprocessing, compared with the image processors of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.data import Preprocess
from petechia.models.openers.processor import Processor

RNG = np.random.default_rng(0)
PATH = Path("preprocessor_config.json")
# Smooth enough for a filter to matter less than geometry, rough enough for geometry to matter.
PICTURE = np.asarray(Image.fromarray(RNG.integers(0, 256, (12, 12, 3), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC))
ROUNDING = 1.6  # grey levels; ours are rounded to whole ones after the resizing
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def ours(content: dict[str, Any], image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = Processor.of(content, PATH)
    prepared = Preprocess.model_validate(found.preprocess)(image) / 255
    values = (prepared - np.array(found.mean)) / np.array(found.std)
    return np.asarray(values[..., ::-1] if found.reversed_channels else values)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViTImageProcessor", {"size": {"height": 48, "width": 48}}),
        ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "resample": 3}),
        ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "do_normalize": False}),
        ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "do_rescale": False}),
        ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "rescale_factor": 1 / 127.5}),
        ("DeiTImageProcessor", {"size": {"height": 64, "width": 64}, "crop_size": {"height": 48, "width": 48}}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
        ("BitImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.75}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "crop_pct": 0.75}),
        ("EfficientNetImageProcessor", {"size": {"height": 48, "width": 48}, "resample": 2}),
        ("EfficientNetImageProcessor", {"size": {"height": 48, "width": 48}, "resample": 2, "rescale_offset": True}),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}),
    ],
)
def test_square_images_are_prepared_as_transformers_does(kind: str, settings: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    normalised = {} if kind.startswith("MobileViT") else {"image_mean": MEAN, "image_std": STD}
    theirs = getattr(transformers, kind)(**settings, **normalised)
    wanted = theirs(Image.fromarray(PICTURE), return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    content = theirs.to_dict()
    found = ours(content, PICTURE)
    assert found.shape == wanted.shape
    level = np.array(Processor.of(content, PATH).std) * 255  # of a value, in grey levels
    off = np.abs(found - wanted) * level
    assert off.mean() < 0.5
    assert np.quantile(off, 0.99) < ROUNDING


@pytest.mark.parametrize("shape", [(60, 96), (96, 60)])
def test_an_image_that_is_not_square_is_cropped_where_clip_crops_it(shape: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    settings: dict[str, Any] = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    image = np.ascontiguousarray(PICTURE[: shape[0], : shape[1]])
    theirs = transformers.CLIPImageProcessor(**settings, image_mean=MEAN, image_std=STD)
    wanted = theirs(Image.fromarray(image), return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    off = np.abs(ours(theirs.to_dict(), image) - wanted) * np.array(STD) * 255
    assert off.mean() < 3  # where the sides of the crop are not whole pixels, it is resized by a hair more


@pytest.mark.parametrize(
    ("content", "preprocess"),
    [
        ({"size": 48}, {"size": 48, "resample": "bilinear"}),  # old files
        ({"size": 48, "crop_size": 40, "resample": 3}, {"size": 40, "crop": 40 / 48, "resample": "bicubic"}),
        ({"size": 48, "crop_size": None, "resample": 0}, {"size": 48, "resample": "nearest"}),
        ({"size": 48, "crop_size": 40, "do_center_crop": False, "resample": 4}, {"size": 48, "resample": "area"}),
        ({"do_resize": False, "size": 48, "resample": "bicubic"}, {"resample": "bicubic"}),
        ({}, {"resample": "bilinear"}),
    ],
)
def test_what_a_file_leaves_out(content: dict[str, Any], preprocess: dict[str, Any]) -> None:
    assert Processor.of(content, PATH).preprocess == preprocess


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"do_pad": True}, "asks for do_pad, which Petechia does not do"),
        ({"size": {"height": 48, "width": 64}}, "only square images"),
        ({"size": {"longest_edge": 48}}, "only square images"),
        ({"size": 48, "crop_size": 64}, "crops to 64 pixels what it has resized to 48"),
        ({"size": 0, "crop_size": -1}, "only square images"),
        ({"size": 48, "resample": 17}, "unknown resample 17"),
        ({"size": 48, "resample": "\x1b[31m"}, "unknown resample"),
        ({"size": 48, "image_std": [0.0, 1, 1], "image_mean": [0, 0, 0]}, "greater than 0"),
        ({"size": 48, "image_mean": [float("nan")] * 3}, "finite"),
        ({"size": 48, "do_normalize": True, "image_mean": [0.5] * 3}, "has no image_mean or no image_std"),
        ({"size": 48, "rescale_factor": 0}, "greater than 0"),
        ({"size": {"height": {"a": 1}}}, "cannot be used"),
    ],
)
def test_what_is_refused(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PetechiaError, match=sentence) as raised:
        Processor.of(content, PATH)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [({"resample": 1}, "bicubic in place of lanczos"), ({"image_processor_type": "LevitImageProcessor"}, "rules of its own")],
)
def test_what_is_done_otherwise_is_told(content: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture) -> None:
    Processor.of({"size": 48, **content}, PATH)
    assert told in caplog.text
