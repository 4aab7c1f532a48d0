"""The `medmnist:` source: MedMNIST (Yang et al., Scientific Data 2023), 2-D and 3-D, grey or colour, in one .npz file."""

from __future__ import annotations

import hashlib
import math
import re
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from petechia.core.archives import open_zip
from petechia.core.budget import check, check_unpacked, limit
from petechia.core.errors import PetechiaError, first_line
from petechia.core.files import expand_home
from petechia.core.task import Task
from petechia.data.cache import cached
from petechia.data.catalog import Catalog
from petechia.data.formats.locate import Missing
from petechia.data.formats.slices import Axis, SliceOptions, note_on_slices
from petechia.data.sources.nih import CLASSES as NIH_CLASSES
from petechia.data.sources.options import hint_at_option, split_options

SPLITS = {"train": "train", "val": "validation", "test": "test"}  # name in the file → our name
ADVICE = "give a MedMNIST file"
CHUNK = 1 << 22
COLOURS = 3  # channels
STORED: tuple[Axis, ...] = ("axial", "coronal", "sagittal")  # what the axes of a volume count as; no file says it
NUMBERED = tuple("01234")
ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left", "lung-right"),
    *("pancreas", "spleen"),
)
# Class names of the published datasets, in the order of their labels.
NAMES = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "chestmnist": NIH_CLASSES,
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": NUMBERED,
    "breastmnist": ("malignant", "normal or benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil"),
        "platelet",
    ),
    "tissuemnist": (
        *("collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
        *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments", "thick ascending limb"),
    ),
    "organamnist": ORGANS,
    "organcmnist": ORGANS,
    "organsmnist": ORGANS,
    "organmnist3d": (
        *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart", "lung-right", "lung-left"),
        *("spleen", "pancreas"),
    ),
    "nodulemnist3d": ("benign", "malignant"),
    "adrenalmnist3d": ("normal", "hyperplasia"),
    "fracturemnist3d": ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    "vesselmnist3d": ("vessel", "aneurysm"),
    "synapsemnist3d": ("inhibitory synapse", "excitatory synapse"),
}


class MedmnistOptions(SliceOptions):
    """Options of the source, in addition to those in `SliceOptions`.

    Attributes:
        task: task; None means multi-label if there are several columns of labels, and multi-class otherwise.
        classes: names of the classes, separated by bars.
    """

    task: Task | None = None
    classes: str | None = None


class Member(NamedTuple):
    """One array of the file: its key, type and shape."""

    key: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


def open_medmnist(source: str, text: str, missing: Missing = "error") -> Catalog:
    """Open a MedMNIST file: read the labels; images are read on access.

    Patients are unknown, so every image counts as its own patient. So does every volume; its slices are images with its labels.

    Args:
        source: the whole source, for messages.
        text: FILE.npz with options, see `MedmnistOptions`.
        missing: ignored.

    Raises:
        PetechiaError: this is not a MedMNIST file, or an array is missing, pickled, too large or has a wrong shape.
    """
    name, options = split_options(source, text, MedmnistOptions)
    path = expand_home(name)
    if not path.is_file():
        raise PetechiaError(
            f"The data source {source!r} names {path}, which is not a file; correct it{hint_at_option(name, MedmnistOptions)}."
        )
    members = _members(path)
    splits = [key for key in SPLITS if f"{key}_images" in members]
    if not splits:
        raise PetechiaError(f"{path} has no train_images; give a MedMNIST file.")
    labels = {key: _read_labels(path, members, key) for key in splits}
    checked = {key: _check_images(path, members[f"{key}_images"], one) for key, one in labels.items()}
    images = {key: member for key, member in checked.items() if member.shape[0]}  # a split may be empty
    labels = {key: labels[key] for key in images}
    if not images:
        raise PetechiaError(f"{path} has no images; give a MedMNIST file with images.")
    if len({one.shape[1] for one in labels.values()}) > 1:
        raise PetechiaError(f"{path} has labels of different widths in its splits; restore it.")
    if len({member.shape[1:] for member in images.values()}) > 1:
        raise PetechiaError(f"{path} has images of different shapes in its splits; restore it.")
    classes, task, matrix = _classes(path, np.concatenate(list(labels.values())), options)
    shape = next(iter(images.values())).shape[1:]
    ids = np.array([f"{key}/{i:06d}.png" for key, one in labels.items() for i in range(len(one))], np.str_)
    catalog = Catalog(
        name=path.stem,
        classes=classes,
        ids=ids,
        patients=ids,
        split=np.repeat([SPLITS[key] for key in labels], [len(one) for one in labels.values()]),
        labels=matrix,
        reader=MedmnistReader(path, tuple(images.values()), np.arange(len(ids))),
        task=task,
        colour=len(shape) == 3 and shape[2] == COLOURS,
    )
    if len(shape) == 3 and not catalog.colour:
        return _in_slices(path, catalog, shape, options)
    if options.slices != "all" or options.axis:
        raise PetechiaError(f"{source!r} has slices= or axis=, but {path} has images and not volumes; leave them out.")
    return catalog


def _in_slices(path: Path, volumes: Catalog, shape: tuple[int, ...], options: MedmnistOptions) -> Catalog:
    """Return a catalog of the slices of volumes [D, H, W]; the file does not say how they lie."""
    axis = options.axis or "axial"
    count = shape[STORED.index(axis)]
    chosen = options.chosen(count)
    if not len(chosen):
        raise PetechiaError(
            f"The volumes of {path} have {count:,} {axis} slices, too few for slices={options.slices}; change it."
        )
    images, advice = len(volumes) * len(chosen), "choose fewer with slices="
    check("array_images", images, f"{path} has {images:,} slices", advice)
    cells = images * len(volumes.classes)
    check("array_cells", cells, f"{path} has {cells:,} labels, for every slice and class", advice)
    rows = np.repeat(np.arange(len(volumes)), len(chosen))
    numbers = np.tile(chosen, len(volumes))
    reader = volumes.reader
    assert isinstance(reader, MedmnistReader)  # noqa: S101 (for mypy)
    sliced = volumes.take(rows)
    names = zip(sliced.ids.tolist(), numbers.tolist(), strict=True)
    return replace(
        sliced,
        ids=np.array([f"{name.removesuffix('.png')}#{axis}-{number + 1}.png" for name, number in names], np.str_),
        reader=MedmnistReader(path, reader.members, rows, numbers, axis),
        notes=note_on_slices(len(rows), len(volumes) * count, options),
    )


class MedmnistReader:
    """Reads images from the file, which is unpacked into the cache once, so that memory use does not depend on its size.

    Attributes:
        path: path of the file.
        members: arrays of images in the file, uint8 [N, H, W] or [N, H, W, 3], one per split.
        rows: int [N], rows of the images, or of the volumes of slices, in the concatenation of all arrays.
        numbers: int [N], which slice of its volume each image is; None if there are no volumes.
        axis: plane of the slices.
    """

    def __init__(
        self,
        path: Path,
        members: tuple[Member, ...],
        rows: NDArray[np.intp],
        numbers: NDArray[np.intp] | None = None,
        axis: Axis = "axial",
    ) -> None:
        self.path = path
        self.members = members
        self.rows = rows
        self.numbers = numbers
        self.axis = axis
        self._starts = np.cumsum([0, *(member.shape[0] for member in members)])
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[MedmnistReader], tuple[object, ...]]:
        # A lock cannot be sent to another process.
        return MedmnistReader, (self.path, self.members, self.rows, self.numbers, self.axis)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8] | PetechiaError]:
        """Read some of the images."""
        with self._lock:
            arrays = self._arrays
        for place in rows.tolist():
            row = int(self.rows[place])
            which = int(np.searchsorted(self._starts, row, "right")) - 1
            found = arrays[which][row - self._starts[which]]
            if self.numbers is not None:
                found = found.take(self.numbers[place], STORED.index(self.axis))
            yield np.array(found)

    def take(self, rows: NDArray[np.intp]) -> MedmnistReader:
        """Return a reader for some of the images."""
        numbers = None if self.numbers is None else self.numbers[rows]
        return MedmnistReader(self.path, self.members, self.rows[rows], numbers, self.axis)

    def fingerprint(self) -> str:
        """Return a digest of the file's path, size and times, and of the rows."""
        digest = hashlib.sha256(f"{self._file()}".encode() + self.rows.astype(np.int64).tobytes())
        if self.numbers is not None:
            digest.update(self.axis.encode() + self.numbers.astype(np.int64).tobytes())
        return digest.hexdigest()

    def _file(self) -> list[object]:
        status = self.path.stat()
        return [str(self.path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    @cached_property
    def _arrays(self) -> list[NDArray[np.uint8]]:
        keys = [member.key for member in self.members]

        def unpack(folder: Path) -> None:
            for key in keys:
                with open_zip(self.path) as file, file.open(f"{key}.npy") as packed, (folder / key).open("wb") as target:
                    _header(packed)
                    while chunk := packed.read(CHUNK):
                        target.write(chunk)

        try:
            folder = cached("medmnist", {"file": self._file(), "keys": keys}, unpack)
        except (zipfile.BadZipFile, EOFError, ValueError, zlib.error) as error:
            raise PetechiaError(f"{self.path} is damaged ({first_line(error)}); restore it.") from None
        return [np.memmap(folder / one.key, np.uint8, "r", shape=one.shape) for one in self.members]


def _members(path: Path) -> dict[str, Member]:
    """Read the headers of the arrays of images and labels; nothing is unpacked or allocated."""
    found = {}
    try:
        with open_zip(path, ADVICE) as file:
            for info in file.infolist():
                key = info.filename.removesuffix(".npy")
                if not re.fullmatch(r"(train|val|test)_(images|labels)\.npy", info.filename) or key in found:
                    continue
                with file.open(info) as packed:
                    dtype, shape, columns_first = _header(packed)
                    began = packed.tell()
                size = int(np.prod(shape, dtype=object)) * dtype.itemsize
                _refuse_member(path, key, dtype, size, info, began)
                if columns_first and key.endswith("images"):  # labels are small, and read whole
                    raise PetechiaError(
                        f"{path} has {key} in Fortran order, in which one image cannot be read alone; save it again with "
                        f"numpy.ascontiguousarray({key})."
                    )
                found[key] = Member(key, dtype, shape)
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:
        raise PetechiaError(f"{path} is not a .npz file that can be read ({error}); give a MedMNIST file.") from None
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError) as error:  # from numpy, of a header
        raise PetechiaError(f"{path} contains {key}.npy, which is not an array ({first_line(error)}); restore it.") from None
    return found


def _header(packed: IO[bytes]) -> tuple[np.dtype[np.generic], tuple[int, ...], bool]:
    """Read the type and shape of an array, and whether it is in Fortran order."""
    version = npy.read_magic(packed)
    reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if reader is None:
        raise ValueError(f"version {version}")
    shape, fortran, dtype = reader(packed)
    if any(side < 0 for side in shape):
        raise ValueError("a negative side")
    return dtype, shape, fortran and len(shape) > 1


def _refuse_member(path: Path, key: str, dtype: np.dtype[np.generic], size: int, info: zipfile.ZipInfo, began: int) -> None:
    if dtype.hasobject:
        raise PetechiaError(
            f"{path} contains {key} as pickled objects, which could run code and are never read; get the original."
        )
    claim = f"{path} is refused before it is unpacked because {key} claims"
    check("array_bytes", size, f"{claim} {size:,} bytes")
    check_unpacked(size, info.compress_size, claim)
    if size != info.file_size - began:
        raise PetechiaError(f"{path} has in {key} a different number of bytes than its header states; restore it.")


def _check_images(path: Path, member: Member, labels: NDArray[np.int64]) -> Member:
    shape = member.shape
    colour = shape[3:] == (COLOURS,)
    pixels = [int(np.prod(shape[1:3], dtype=object))] if colour else [a * b for a, b in combinations(shape[1:], 2)]
    if member.dtype != np.uint8 or len(shape) not in (3, 4) or not all(1 <= one <= limit("image_pixels") for one in pixels):
        raise PetechiaError(
            f"{path} has {member.key} as {member.dtype} {list(shape)}; images must be uint8 [N, H, W] or [N, H, W, 3], and "
            f"volumes uint8 [N, D, H, W]."
        )
    check("array_images", shape[0], f"{path} has {shape[0]:,} {member.key}", "split it")
    if shape[0] != len(labels):
        raise PetechiaError(f"{path} has {shape[0]:,} {member.key}, but {len(labels):,} labels for them; restore it.")
    return member


def _read_labels(path: Path, members: dict[str, Member], split: str) -> NDArray[np.int64]:
    """Read the labels of one split, int64 [N, K]."""
    key = f"{split}_labels"
    member = members.get(key)
    if member is None:
        raise PetechiaError(f"{path} has {split}_images but no {key}; restore it.")
    count = int(np.prod(member.shape, dtype=object))
    check("array_labels", count, f"{path} has {count:,} labels in {key}", "check its labels")
    if len(member.shape) not in (1, 2) or member.dtype.kind not in "biuf" or 0 in member.shape[1:]:
        raise PetechiaError(
            f"{path} has {key} as {member.dtype} {list(member.shape)}; labels must be numbers [N, 1] or [N, K]."
        )
    try:
        with open_zip(path) as file, file.open(f"{key}.npy") as packed:
            values = npy.read_array(packed, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise PetechiaError(f"{path} is damaged in {key} ({first_line(error)}); restore it.") from None
    numbers = np.asarray(values, np.float64).reshape(len(values), math.prod(values.shape[1:]))
    bad = np.flatnonzero(~(numbers == numbers.round()).all(axis=1) | ~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise PetechiaError(f"{path} has in {key}, row {bad[0]}, a label that is not an integer; restore it.")
    return numbers.clip(-(2**31), 2**31).astype(np.int64)


def _classes(path: Path, labels: NDArray[np.int64], options: MedmnistOptions) -> tuple[tuple[str, ...], Task, NDArray[np.int8]]:
    """Return the class names, the task and the labels, int8 [N, K]."""
    wide = labels.shape[1] > 1
    if labels.min(initial=0) < 0 or (wide and labels.max(initial=0) > 1):
        raise PetechiaError(
            f"{path} has labels below 0, or several columns with labels other than 0 and 1; give a MedMNIST file."
        )
    count = labels.shape[1] if wide else max(2, int(labels.max(initial=0)) + 1)
    check("table_classes", count, f"{path} has {count:,} classes", "check its labels")
    known = NAMES.get(re.match(r"[a-z0-9]*", path.stem.lower())[0])  # type: ignore[index]
    names = tuple(name.strip() for name in options.classes.split("|")) if options.classes else known
    if options.classes is None and (names is None or len(names) < count):
        names = tuple(f"class {k}" for k in range(count))
    if names is None or len(names) < count or (wide and len(names) != count) or len(set(names)) < len(names):
        raise PetechiaError(f"{path} has {count} classes, but classes= names {len(names or ())}; name each once.")
    cells = len(labels) * len(names)
    check("array_cells", cells, f"{path} has {cells:,} labels, for every image and class", "check its labels")
    one_hot = labels if wide else (labels == np.arange(len(names))).astype(np.int8)
    task: Task = options.task or ("multi-label" if wide else "multi-class")
    if task == "multi-class" and (one_hot.sum(axis=1) != 1).any():
        row = int(np.flatnonzero(one_hot.sum(axis=1) != 1)[0])
        raise PetechiaError(f"{path}, image {row}, does not have exactly one class, as multi-class data must; leave out task=.")
    return names, task, one_hot.astype(np.int8)
