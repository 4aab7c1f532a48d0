"""Stamps that only colour shows: their grey level is that of the image beneath."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

from petechia.data import open_source
from petechia.detect.scan import ScanResult, scan_catalog
from petechia.detect.scan.traces import plane_of

COUNT, STAMPED, SIDE = 120, 15, 64
Images = list[NDArray[np.uint8]]


def photographs(count: int = COUNT) -> Images:
    """Smooth images in colour, all different."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(90, 170, (count, 6, 6, 3), np.uint8)
    return [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in coarse]


def stamped(image: NDArray[np.uint8], row: int, column: int, shift: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Colour shifted in 3 x 3 pixels whose mean over the channels stays."""
    copy = image.astype(int)
    copy[row : row + 3, column : column + 3] += shift
    assert copy.min() >= 0
    assert copy.max() <= 255
    return np.asarray(copy, np.uint8)


def scanned(folder: Path, images: Images, labels: list[str]) -> ScanResult:
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    names = [f"{number:03}.png" for number in range(len(images))]
    pl.DataFrame({"image": names, "label": labels}).write_csv(folder / "labels.csv")
    return scan_catalog(open_source(f"folder:{folder / 'labels.csv'},colour=true"))


def flagged(found: ScanResult) -> set[str]:
    return set(found.flagged_ids)


@pytest.mark.parametrize("shift", [(60, -60, 0), (0, -60, 60), (60, 0, -60)], ids=["red", "blue", "red-blue"])
def test_a_stamp_that_only_colour_shows_is_found_at_its_place(tmp_path: Path, shift: tuple[int, int, int]) -> None:
    images = photographs()
    images[:STAMPED] = [stamped(image, 30, 20, shift) for image in images[:STAMPED]]
    assert [image.mean(axis=2).tolist() for image in images] == [image.mean(axis=2).tolist() for image in photographs()]
    found = scanned(tmp_path, images, ["b" if n < STAMPED else "ac"[n % 2] for n in range(COUNT)])
    assert flagged(found) == {f"{n:03}.png" for n in range(STAMPED)}
    first = found.stamps[0]
    assert (first.height, first.width, first.row, first.column) == (3, 3, 30, 20)
    assert first.plane in ("red less green", "blue less green")


def test_untouched_photographs_are_not_flagged(tmp_path: Path) -> None:
    assert flagged(scanned(tmp_path, photographs(), ["ac"[n % 2] for n in range(COUNT)])) == set()


def test_a_copy_that_differs_in_colour_alone_is_a_near_duplicate(tmp_path: Path) -> None:
    images = photographs(20)
    found = scanned(tmp_path, [*images, stamped(images[4], 30, 20, (60, -60, 0))], ["a"] * 20 + ["b"])
    assert (found.near_duplicates, found.duplicates) == (1, 0)
    assert flagged(found) == {"020.png"}


def test_planes_are_grey_and_differences_from_green() -> None:
    pixels = np.array([[[10, 20, 60], [255, 0, 0]]], np.uint8)
    assert [plane_of(pixels, plane).tolist() for plane in range(3)] == [[[30, 85]], [[118, 255]], [[168, 128]]]
    assert plane_of(pixels[..., 0], 2).tolist() == [[10, 255]]
