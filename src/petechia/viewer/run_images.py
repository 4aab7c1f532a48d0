"""The images to choose from: the test images of a run, or the few that it kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.study.config import Config
from petechia.study.directory import read_arrays, read_table
from petechia.viewer.pictures import Picture, Pictures
from petechia.viewer.run import ViewedRun, reporting_damage

RECENT = 256 * 1024 * 1024  # bytes of images in memory, of all readers together
Prepare = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]  # an image as it is in its file → what the model sees of it


class RunImages:
    """The images of a run that the reader can choose from. The ones used last stay in memory. A model alone has none.

    Attributes:
        notice: why these are not the run's test images; empty where they are.
    """

    def __init__(self, run: ViewedRun | None, classes: tuple[str, ...], colour: bool) -> None:
        self._run = run
        self._recent = Pictures(most_bytes=RECENT)
        self._source, self.notice = _open_source(run, classes, colour)

    def __len__(self) -> int:
        """How many there are."""
        with reporting_damage(self._run):
            return len(self._source)

    def picture(self, position: int) -> Picture:
        """Read one image.

        Raises:
            PetechiaError: there is no such image, or it cannot be read.
        """
        count = len(self)
        if not 0 <= position < count:
            raise PetechiaError(f"There is no test image {position + 1}; there are {count}.")
        name = str(position)
        with reporting_damage(self._run):
            picture = self._recent.find(name) or self._source.picture(position)
        self._recent.put(name, picture)
        return picture

    def without_target(self) -> list[int]:
        """Positions of the images that do not show the target class."""
        with reporting_damage(self._run):
            return self._source.without_target()

    def inputs(self, positions: NDArray[np.intp], prepare: Prepare) -> list[NDArray[np.uint8]]:
        """What the model sees of clean images, each uint8 [S, S] or [S, S, 3]; images that cannot be read are left out."""
        with reporting_damage(self._run):
            return self._source.inputs(positions, prepare)


class ImageSource(Protocol):
    """Where images come from. Its methods are those of `RunImages`, which adds memory and checks."""

    def __len__(self) -> int:
        """How many images there are."""

    def picture(self, position: int) -> Picture:
        """Read the image at a valid position."""

    def without_target(self) -> list[int]:
        """Positions of the images that do not show the target class."""

    def inputs(self, positions: NDArray[np.intp], prepare: Prepare) -> list[NDArray[np.uint8]]:
        """What the model sees of images."""


def _open_source(run: ViewedRun | None, classes: tuple[str, ...], colour: bool) -> tuple[ImageSource, str]:
    """The source of the images, and why it is not the run's test images."""
    if run is None:
        return _KeptExamples(None), ""
    test = read_table(run.directory.test)
    try:
        catalog = open_source(run.config.data, run.config.missing)
        return _TestImages(catalog if colour else catalog.in_grey(), test, run.config, classes), ""
    except PetechiaError as error:
        notice = f"The data of the run cannot be opened, so only the few images that the run has kept can be chosen. {error}"
        return _KeptExamples(run.directory.examples), notice


class _TestImages:
    """The test images of a run, read from its data."""

    def __init__(self, catalog: Catalog, test: pl.DataFrame, config: Config, classes: tuple[str, ...]) -> None:
        self._catalog, self._test, self._config, self._classes = catalog, test, config, classes

    def __len__(self) -> int:
        return self._test.height

    def picture(self, position: int) -> Picture:
        row = self._test.row(position, named=True)
        found = np.flatnonzero(self._catalog.ids == row["id"])[:1]
        if not len(found):
            raise PetechiaError(f"Test image {position + 1} is no longer in {self._config.data}; choose another.")
        (image,) = self._catalog.reader.read(found)
        if isinstance(image, PetechiaError):
            raise image
        findings = tuple(name for name in self._classes if row[name] == 1)
        seed = self._config.seeds[0]
        place = (row[f"row_seed_{seed}"], row[f"column_seed_{seed}"])
        return Picture.of(image, findings=findings, place=place if min(place) >= 0 else None)

    def without_target(self) -> list[int]:
        target = self._config.attack.target_name(self._classes)
        positions: list[int] = np.flatnonzero(self._test[target].to_numpy() == 0).tolist()
        return positions

    def inputs(self, positions: NDArray[np.intp], prepare: Prepare) -> list[NDArray[np.uint8]]:
        rows = np.flatnonzero(np.isin(self._catalog.ids, self._test["id"].to_numpy()[positions]))
        return [prepare(image) for image in self._catalog.reader.read(rows) if not isinstance(image, PetechiaError)]


class _KeptExamples:
    """The few clean inputs that a run has kept. They are prepared already: as the run's networks see them."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def __len__(self) -> int:
        return len(self._inputs())

    def picture(self, position: int) -> Picture:
        return Picture.of(self._inputs()[position], prepared=True)

    def without_target(self) -> list[int]:
        return list(range(len(self)))

    def inputs(self, positions: NDArray[np.intp], _prepare: Prepare) -> list[NDArray[np.uint8]]:
        return list(self._inputs()[positions])

    def _inputs(self) -> NDArray[np.uint8]:
        if self._file is None or not self._file.is_file():
            return np.zeros((0, 1, 1), np.uint8)
        inputs: NDArray[np.uint8] = read_arrays(self._file)["clean"]
        return inputs
