"""What every data source must do."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.core.rows import evenly_spread
from petechia.data.catalog import SPLITS, Catalog
from petechia.data.sources import SOURCES, open_source
from petechia.testing.assertions import require

MOST = 24  # images that are decoded


def check_source(source: str, nonsense: str = "/no/such/file") -> Catalog:
    """Check a source, as it stands in a configuration, and the opener of its kind.

    The opener is registered and says how it is written, refuses what is not there in a sentence, and gives the same catalog
    each time, see `check_catalog`.

    Args:
        source: such as "npz:images.npz".
        nonsense: what stands behind KIND: in a source that does not exist.

    Returns:
        The catalog.

    Raises:
        AssertionError: says what it does wrong.
    """
    kind = source.partition(":")[0]
    require(kind in SOURCES, f"{kind!r} is not among the registered sources, {', '.join(SOURCES)}.")
    opener = SOURCES[kind]
    require(len(opener.help) > 5, f"The opener of {kind!r} has the help {opener.help!r}; say what it opens.")
    _check_refusal(f"{kind}:{nonsense}")
    catalog, again = open_source(source), open_source(source)
    check_catalog(catalog)
    for name in ("ids", "patients", "split", "labels"):
        require(np.array_equal(getattr(catalog, name), getattr(again, name)), f"Opened again, {source} has other {name}.")
    require(catalog.reader.fingerprint() == again.reader.fingerprint(), f"Opened again, {source} has another fingerprint.")
    return catalog


def check_catalog(catalog: Catalog) -> None:
    """Check a catalog: shapes, types and values, patients and split, and its reader.

    Raises:
        AssertionError: says what is wrong.
    """
    _check_columns(catalog)
    _check_patients(catalog)
    _check_reader(catalog)


def _check_refusal(source: str) -> None:
    try:
        open_source(source)
    except PetechiaError as error:
        require(str(error).strip().endswith("."), f"For {source} it says {str(error)!r}, which is no sentence.")
        return
    except Exception as error:
        raise AssertionError(f"For {source} it raises {type(error).__name__}; raise PetechiaError with a sentence.") from error
    raise AssertionError(f"It opens {source}, which is not there.")


def _check_columns(catalog: Catalog) -> None:
    count, classes = len(catalog), len(catalog.classes)
    require(count > 0, "The catalog has no image.")
    for name in ("ids", "patients", "split"):
        values: NDArray[np.str_] = getattr(catalog, name)
        require(values.shape == (count,), f"{name} has shape {values.shape} for {count} images.")
        require(values.dtype.kind == "U", f"{name} is {values.dtype}, not text.")
    require(len(np.unique(catalog.ids)) == count, "Two images have the same id.")
    unknown = set(catalog.split.tolist()) - set(SPLITS)
    require(not unknown, f"The split has {', '.join(map(repr, sorted(unknown)))}; it is one of {', '.join(SPLITS)}.")
    require(
        catalog.labels.shape == (count, classes),
        f"labels has shape {catalog.labels.shape} for {count} images and {classes} classes.",
    )
    require(catalog.labels.dtype == np.int8, f"labels is {catalog.labels.dtype}, not int8.")
    require(np.isin(catalog.labels, (-1, 0, 1)).all(), "labels has values other than 1, 0 and -1.")


def _check_patients(catalog: Catalog) -> None:
    pairs = sorted(set(zip(catalog.patients.tolist(), catalog.split.tolist(), strict=True)))
    twice = [patient for (patient, _), (other, _) in pairwise(pairs) if patient == other]
    require(not twice, f"Patient {twice[0] if twice else ''} is in more than one part of the split.")


def _check_reader(catalog: Catalog) -> None:
    reader, count = catalog.reader, len(catalog)
    require(len(reader) == count, f"The reader has {len(reader)} images, the catalog {count}.")
    rows = evenly_spread(count, MOST)
    images = _decoded(catalog, rows)
    _check_same(images[::-1], _decoded(catalog, rows[::-1]), "read() gives images in an order other than that of the rows.")
    taken = catalog.take(rows[::-1])
    require(len(taken.reader) == len(rows), f"take() of {len(rows)} rows gives a reader of {len(taken.reader)} images.")
    everything = np.arange(len(rows))
    _check_same(images[::-1], _decoded(taken, everything), "take() does not keep the order of the rows it is given.")
    twice = taken.take(everything[:1])
    _check_same(images[-1:], _decoded(twice, everything[:1]), "take() of what was taken gives another image.")
    require(reader.fingerprint() == reader.fingerprint(), "fingerprint() changes though no image does.")
    require(
        len(rows) < 2 or taken.reader.fingerprint() != reader.fingerprint(),
        "fingerprint() is the same for other rows, so that a cache would mix them up.",
    )


def _check_same(found: list[NDArray[np.uint8]], other: list[NDArray[np.uint8]], problem: str) -> None:
    require(all(np.array_equal(one, two) for one, two in zip(found, other, strict=True)), problem)


def _decoded(catalog: Catalog, rows: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
    """Images as the reader gives them, each of which is as the catalog says."""
    images = list(catalog.reader.read(rows))
    require(len(images) == len(rows), f"read() of {len(rows)} rows gives {len(images)} images.")
    dimensions = 3 if catalog.colour else 2
    found = []
    for row, image in zip(rows.tolist(), images, strict=True):
        name = catalog.ids[row]
        if isinstance(image, PetechiaError):
            raise AssertionError(f"Image {name} cannot be read ({image}); check sources whose images are all sound.")
        require(isinstance(image, np.ndarray), f"read() gives {type(image).__name__} for {name}, not an array.")
        require(image.dtype == np.uint8, f"read() gives {image.dtype} for {name}, not uint8.")
        require(image.ndim == dimensions, f"Image {name} has shape {image.shape}, but colour is {catalog.colour}.")
        require(dimensions == 2 or image.shape[2] == 3, f"Image {name} has {image.shape[-1]} channels, not 3.")
        found.append(image)
    return found
