import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from petechia.data import Preprocess


def picture(height: int, width: int, *channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def slow_nearest(image: NDArray[np.uint8], crop: float, size: int) -> NDArray[np.uint8]:
    """Pixel by pixel, from the formula of the paper's pipeline (TensorFlow's central_crop and nearest resize)."""
    n = image.shape[0]
    offset = int((n - n * crop) / 2)
    kept = n - 2 * offset
    out = np.empty((size, size), np.uint8)
    for i in range(size):
        for j in range(size):
            row, column = int((i + 0.5) * kept / size), int((j + 0.5) * kept / size)
            out[i, j] = image[offset + row, offset + column]
    return out


def test_the_papers_geometry() -> None:
    geometry = Preprocess(crop=0.6, size=224, resample="nearest")
    assert geometry.kept(1024, 1024) == (204, 204, 616, 616)
    image = picture(1024, 1024)
    assert np.array_equal(geometry(image), slow_nearest(image, 0.6, 224))


@pytest.mark.parametrize(("n", "crop", "size"), [(100, 0.5, 13), (97, 0.9, 64), (64, 1.0, 64), (33, 1.0, 40)])
def test_nearest_agrees_with_the_slow_version(n: int, crop: float, size: int) -> None:
    image = picture(n, n)
    assert np.array_equal(Preprocess(crop=crop, size=size, resample="nearest")(image), slow_nearest(image, crop, size))


def test_area_is_the_mean_of_blocks() -> None:
    image = picture(64, 64)
    means = image.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert abs(Preprocess(size=16, resample="area")(image) - means).max() < 1  # rounded twice, by rows and by columns


def test_bilinear_keeps_a_ramp() -> None:
    ramp = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1))
    small = Preprocess(size=32, resample="bilinear")(ramp)
    assert abs(small[5].astype(int) - ramp[0].reshape(32, 4).mean(axis=1)).max() <= 2


def test_colour_and_oblong_images_become_squares() -> None:
    assert Preprocess(size=20)(picture(50, 40, 3)).shape == (20, 20, 3)
    assert Preprocess(size=20, crop=0.5).kept(50, 40) == (12, 10, 26, 20)


def test_whole_images_of_the_right_size_pass_unchanged() -> None:
    image = picture(24, 24)
    for resample in ("nearest", "bilinear", "bicubic", "area"):
        assert np.array_equal(Preprocess(size=24, resample=resample)(image), image)


@pytest.mark.parametrize("bad", [{"crop": 0}, {"crop": 1.1}, {"size": 0}, {"resample": "cubic"}, {"sise": 3}])
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Preprocess.model_validate(bad)
