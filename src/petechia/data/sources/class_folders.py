"""The `folder:` source without a table: a folder of images for each class, below folders of the splits or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petechia.core.budget import check
from petechia.core.errors import PetechiaError, listing, printable
from petechia.core.progress import Progress
from petechia.data.catalog import Catalog, Written, split_by_patient
from petechia.data.export import write_images
from petechia.data.formats.grouping import (
    IN_PATH,
    in_paths,
    in_several,
    is_grouping,
    note_on_dicom,
    note_on_use,
    notes_on_straddling,
)
from petechia.data.formats.images import Decoding, FileReader
from petechia.data.formats.labelling import SPLIT_NAMES, TEST_SHARE
from petechia.data.formats.spelling import class_key, composed
from petechia.data.formats.walking import MASK_FOLDER, find_images, in_masks
from petechia.data.not_read import Files, Reason

TABLES = (".csv", ".tsv", ".parquet", ".csv.gz")
EXAMPLE = "such as NORMAL/a.png or train/NORMAL/a.png"
# Words that the name of a folder of a split may have beside that of the split, as in "training_set" and "Test Images 2".
BESIDE_SPLITS = {"", "set", "sets", "dataset", "data", "image", "images", "img", "imgs", "folder", "seg", "stage"}
WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[\W\d_]+")  # what is between two words
JOINED = re.compile(r"(set|dataset|data|images?|imgs?)$")
# Last words of folders that hold some of the images, such as "fold1" and "images_002", and are no classes.
SEVERAL, MANY = 2, 10  # folders
IMAGES = {"images", "image", "imgs", "img"}  # folders that are no class
PARTS = {
    *(
        "fold",
        "folds",
        "kfold",
        "cv",
        "split",
        "partition",
        "subset",
        "part",
        "batch",
        "chunk",
        "shard",
        "data",
        "set",
        "folder",
    ),
    *IMAGES,
    *("labels", "original", "originals"),
}


class _Layout(NamedTuple):
    """Where the classes are.

    Attributes:
        above: folders above those of the splits or classes, which hold nothing else.
        splits: whether there are folders of the splits above those of the classes.
    """

    above: tuple[str, ...]
    splits: bool

    @property
    def depth(self) -> int:
        """The place of the class among the folders of a path."""
        return len(self.above) + self.splits


def open_class_folders(root: Path, colour: bool = False, window: int = 1, grouped: bool = True) -> Catalog:
    """Open a folder whose images are in a folder for each class: CLASS/IMAGE or SPLIT/CLASS/IMAGE.

    Classes are the names of the folders, sorted. Images can lie deeper. Masks of images, as in BUSI, are left out.

    Args:
        root: the folder.
        colour: whether to keep colours.
        window: window of DICOM files, see `read_dicom`.
        grouped: whether ids of patients in the paths count, such as person12 in person12_bacteria_3.jpeg.

    Raises:
        PetechiaError: there are no folders of classes, or it is not clear which they are.
    """
    files = Files()
    found = list(find_images(root, files, masks=False))
    layout = _layout_of(root, found)
    paths = []
    for path in found:
        if path.count("/") > layout.depth:
            paths.append(path)
        else:
            files.add(Reason.NO_CLASS, path)
    names = [path.split("/")[layout.depth] for path in paths]
    _refuse_splits_below(root, paths, layout.depth)
    classes = _classes(root, names)
    ids = np.array(paths, np.str_)
    said = np.array([split_of(path.split("/")[layout.depth - 1]) for path in paths] if layout.splits else [])
    patients, split, notes = _split(ids, in_paths(ids, layout.depth) if grouped else ids, said)
    return Catalog(
        name=root.resolve().name,
        classes=classes,
        ids=ids,
        patients=patients,
        split=split,
        labels=_one_hot(names, classes),
        reader=FileReader(root, ids, Decoding(colour, window)),
        task="multi-class",
        colour=colour,
        layout=_write if layout.splits else None,
        relabelled=partial(relabelled, classes, layout.depth),
        not_read=files.frozen,
        notes=(
            *notes,
            *_notes_on_folders(paths, layout.depth),
            *_notes_on_same_folders(root, paths, layout.depth),
            *note_on_dicom(ids, patients, grouped),
        ),
    )


def split_of(folder: str) -> str | None:
    """Return the split that the name of a folder means, as that of "training_set" and "Test Images" do, or None."""
    words = {SPLIT_NAMES.get(word, word) for word in _words(folder)} - BESIDE_SPLITS
    return words.pop() if len(words) == 1 and words <= set(SPLIT_NAMES.values()) else None


def _words(folder: str) -> list[str]:
    words = [word.casefold() for word in WORDS.split(composed(folder))]
    return [shorter if (shorter := JOINED.sub("", word)) in SPLIT_NAMES else word for word in words]  # trainset


def _refuse_splits_below(root: Path, paths: list[str], depth: int) -> None:
    """Reject folders of splits below those of the classes: their images would be split anew.

    Raises:
        PetechiaError: there is one.
    """
    below = next((path for path in paths if any(map(split_of, path.split("/")[depth + 1 : -1]))), None)
    if below is not None:
        raise PetechiaError(
            f"{root} has a folder of a split below one of a class, in {printable(below)!r}; move the images to "
            f"SPLIT/CLASS/IMAGE, such as train/NORMAL/a.png."
        )


def _notes_on_folders(paths: list[str], depth: int) -> tuple[str, ...]:
    """Return a note if images that are no known masks are in folders of masks below those of the classes."""
    masks = [path for path in paths if in_masks("/".join(path.split("/")[depth + 1 :]))]
    if not masks:
        return ()
    return (
        f"{len(masks):,} images are in folders of masks, such as {printable(masks[0])!r}, but count as images of their class, "
        f"because no image has their name; remove them if they are masks.",
    )


def _one_hot(names: list[str], classes: tuple[str, ...]) -> NDArray[np.int8]:
    places = {name: k for k, name in enumerate(classes)}
    labels = np.zeros((len(names), len(classes)), np.int8)
    labels[np.arange(len(names)), [places[name] for name in names]] = 1
    return labels


def relabelled(classes: Sequence[str], depth: int, ids: NDArray[np.str_], labels: NDArray[np.int8]) -> NDArray[np.str_]:
    """Return the paths of images, str [N], in the folders of their labels, int8 [N, K]; distinct paths stay distinct.

    Args:
        classes: names of the K classes.
        depth: place of the class among the folders of a path.
        ids: str [N], paths in folders of other classes.
        labels: one-hot.
    """
    taken = set(ids.tolist())
    moved = []
    for path, label in zip(ids.tolist(), labels.argmax(axis=1).tolist(), strict=True):
        parts = path.split("/")
        if parts[depth] != classes[label]:
            parts[depth] = classes[label]
            path = _free("/".join(parts), taken)  # noqa: PLW2901
            taken.add(path)
        moved.append(path)
    return np.array(moved, np.str_)


def _free(path: str, taken: set[str]) -> str:
    stem, dot, suffix = path.rpartition(".")
    number, free = 2, path
    while free in taken:
        free, number = f"{stem}_{number}{dot}{suffix}", number + 1
    return free


def _write(folder: Path, catalog: Catalog, written: Written, progress: Progress) -> None:
    write_images(folder, catalog.reader, written, lambda _, name: name, progress)


def _layout_of(root: Path, paths: list[str]) -> _Layout:
    """Return where the classes are.

    Raises:
        PetechiaError: there are none, or splits lie beside other folders.
    """
    if not paths:
        raise PetechiaError(f"{root} has no image; give a table of images, or a folder with a folder of images for each class.")
    above: list[str] = []
    while True:
        folders = {path.split("/")[len(above)] for path in paths if path.count("/") > len(above)}
        if not folders:
            raise PetechiaError(
                f"{root} has {len(paths):,} images but no folders of classes, {EXAMPLE}; give a table of the "
                f"images{_table_in(root)}."
            )
        splits = {name for name in folders if split_of(name)}
        if splits and splits != folders:
            here, others = root / "/".join(above), listing(sorted(folders - splits))
            raise PetechiaError(
                f"{here} has the folders {listing(sorted(splits))} beside {others}, so it is not clear which are classes; give "
                f"a folder that holds folders of splits alone, or of classes alone."
            )
        _refuse_copies(root / "/".join(above), paths, len(above), folders)
        if splits or len(folders) > 1 or any(path.count("/") <= len(above) + 1 for path in paths):
            return _Layout(tuple(above), bool(splits))
        above.extend(folders)


def _within(paths: list[str], depth: int) -> dict[str, set[str]]:
    """Folder at a depth → the folders in it; folders that hold images only have none."""
    found: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")
        if len(parts) > depth + 1:
            found.setdefault(parts[depth], set()).update(parts[depth + 1 : -1][:1])
    return found


def _unnumbered(name: str) -> str:
    """The words of a folder's name, without numbers."""
    return re.sub(r"[\W\d_]+", " ", name).strip().casefold()


def _refuse_copies(here: Path, paths: list[str], depth: int, folders: set[str]) -> None:
    """Reject a folder that holds folders named as those beside it, as a copy of the dataset does.

    Raises:
        PetechiaError: there is one.
    """
    for name, found in sorted(_within(paths, depth).items()):
        same = sorted(found & (folders - {name}))
        if len(same) > 1:
            raise PetechiaError(
                f"{here} has the folders {listing(same)}, and so has {printable(name)!r} in it; remove the copy, or give "
                f"one of the two folders."
            )


def _notes_on_same_folders(root: Path, paths: list[str], depth: int) -> tuple[str, ...]:
    """Return a note if all folders of classes hold the same folders, which may be the classes.

    Raises:
        PetechiaError: those that count as the classes are many, and numbered.
    """
    within = _within(paths, depth)
    inner = sorted(set().union(*within.values()))
    names = set(map(_unnumbered, inner))
    shared = [name for name in inner if sum(name in one for one in within.values()) > 1]
    if min(len(inner), len(within)) < SEVERAL or names <= PARTS or len(shared) < len(inner):
        return ()
    if len(within) >= MANY and all(any(map(str.isdigit, name)) for name in within):
        raise PetechiaError(
            f"{root} has {len(within):,} numbered folders, such as {printable(min(within))!r}, which each hold folders named "
            f"alike, {listing(inner)}; if these are the classes, move the images to CLASS/IMAGE, or give a table."
        )
    return (
        f"The folders {listing(sorted(within))} count as the classes, but hold folders named alike, {listing(inner)}; if these "
        f"are the classes, move the images to CLASS/IMAGE, such as {printable(inner[0])}/a.png.",
    )


def _classes(root: Path, names: list[str]) -> tuple[str, ...]:
    classes = sorted(set(names))
    if len(classes) < 2:
        one = f"of one class alone, {printable(classes[0])!r}" if classes else "but none in a folder of a class"
        raise PetechiaError(
            f"{root} has images {one}; give a folder with a folder of images for each class, {EXAMPLE}, or a "
            f"table{_table_in(root)}."
        )
    check("table_classes", len(classes), f"{root} has {len(classes):,} folders", "give a table")
    spelled: dict[str, str] = {}
    for name in classes:
        if (other := spelled.setdefault(class_key(name), name)) != name:
            raise PetechiaError(
                f"{root} has folders that differ in case, spaces or the coding of accents alone, {other!a} and "
                f"{name!a}; rename one of them."
            )
    _refuse_parts(root, classes)
    if sum(bool(IN_PATH.match(f"{name}/")) for name in classes) > len(classes) / 2:
        raise PetechiaError(
            f"{root} has folders that look like patients, such as {printable(classes[0])!r}, not like classes; give a "
            f"table{_table_in(root)}."
        )
    return tuple(classes)


def _refuse_parts(root: Path, classes: Sequence[str]) -> None:
    """Reject folders that are parts of a dataset.

    Raises:
        PetechiaError: all are folds, batches, images and masks and the like, or their names contain those of splits.
    """
    if len({SPLIT_NAMES[word] for name in classes for word in _words(name) if word in SPLIT_NAMES}) > 1:
        raise PetechiaError(
            f"{root} has folders that name splits where those of classes are expected, {listing(classes)}; move the images to "
            f"SPLIT/CLASS/IMAGE, such as train/NORMAL/a.png."
        )
    plain = set(map(_unnumbered, classes))
    numbered = len(plain) == 1 and not PARTS.isdisjoint(min(plain).split()[-1:])
    if numbered or (plain & PARTS and all(name in PARTS or MASK_FOLDER.fullmatch(name) for name in plain)):
        raise PetechiaError(
            f"{root} has the folders {listing(classes)}, which look like parts of a dataset, not like classes; give a folder "
            f"with a folder of images for each class, {EXAMPLE}, or a table{_table_in(root)}."
        )
    if plain & IMAGES and not plain <= IMAGES:
        raise PetechiaError(
            f"{root} has the folders {listing(classes)}, of which {listing(sorted(plain & IMAGES))} is no class; move its "
            f"images to folders of their classes, or out of {root}."
        )


def _split(
    ids: NDArray[np.str_], groups: NDArray[np.str_], said: NDArray[np.str_]
) -> tuple[NDArray[np.str_], NDArray[np.str_], tuple[str, ...]]:
    """Return patients and split, str [N], and notes.

    Args:
        ids: str [N], paths.
        groups: str [N], ids of patients in the paths.
        said: str [N], split by the folders; empty without such folders.
    """
    used = (note_on_use(groups),) if is_grouping(groups, sure=True) else ()
    if not len(said) or set(said.tolist()) == {"train"}:
        return groups, split_by_patient(groups, TEST_SHARE), used
    several = in_several(groups, said)
    patients, notes = (ids, notes_on_straddling(groups, said)) if several else (groups, used)
    if "test" in said or "train" not in said:
        return patients, said, notes
    split = np.where(said == "train", split_by_patient(patients, TEST_SHARE), said)
    return (
        patients,
        split,
        (*notes, f"There is no folder of test images; {TEST_SHARE:.0%} of the training images are the test set."),
    )


def _table_in(root: Path) -> str:
    """Return a hint at the table that lies in a folder, or ""."""
    tables = sorted(path.name for path in root.iterdir() if path.name.lower().endswith(TABLES))
    return f", for example folder:{root / printable(tables[0])}" if tables else ""
