"""Find the image files that a table names, and reject files outside the folder."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError, listing, printable
from petechia.data.formats.spelling import Near, accept_near, composed, near_paths
from petechia.data.formats.walking import SUFFIXES, refuse_outside, walk
from petechia.data.not_read import Files

Missing = Literal["error", "skip"]
FEW = 8  # up to this many files per folder are looked up one by one
ENOUGH = 1000  # missing images for which near names are looked up
VOLUME = re.compile(r"(.+)\.nii(?:\.gz)?", re.IGNORECASE)
DEPTH = 3  # maximum number of leading folders in a table's paths that may lie above the given folder


def locate(root: Path, names: NDArray[np.str_], near: Near = "refuse") -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Find the files of some images.

    A name is a path relative to `root`, a path relative to a folder above `root`, or a file name, with or without its suffix,
    that occurs once below `root`. Composed and decomposed letters are the same (macOS decomposes them).

    Args:
        root: folder of the images; no file outside it is returned.
        names: str [N], with slashes; none is absolute or contains "..".
        near: "accept" also takes files whose names differ in case, suffix or leading zeros.

    Returns:
        Paths relative to `root`, str [N], and whether each file exists, bool [N].

    Raises:
        PetechiaError: a link leads out of `root`, or a name matches several files, or several names one file.
    """
    listed = names.tolist()
    tree = _Tree(root)
    paths, here = listed, tree.has(listed)
    for leading in range(1, DEPTH + 1):
        if here.any():
            break
        shorter = ["/".join(name.split("/")[leading:]) for name in listed]
        if len(set(shorter)) < len(shorter):  # train/1.png and test/1.png are not one file
            break
        paths, here = shorter, tree.has(shorter)
    if not here.all():
        index = _Index(root)
        found = [path if there else index.find(name) for name, path, there in zip(listed, paths, here.tolist(), strict=True)]
        if near == "accept" and None in found:
            absent = [name for name, path in zip(listed, found, strict=True) if path is None]
            accepted = accept_near(index.without(found), absent, root)
            found = [path or accepted.get(name) for name, path in zip(listed, found, strict=True)]
        here = np.array([path is not None for path in found])
        paths = [path or name for path, name in zip(found, listed, strict=True)]
    _refuse_same([(path, name) for path, name, there in zip(paths, listed, here.tolist(), strict=True) if there], root)
    return np.array(paths, np.str_), here


def _refuse_same(found: Iterable[tuple[str, str]], root: Path) -> None:
    named: dict[str, str] = {}
    for path, name in found:
        if named.setdefault(path, name) != name:
            raise PetechiaError(
                f"{printable(named[path])!r} and {printable(name)!r} are both {printable(path)!r} in {root}; name each image "
                f"in one row of the table."
            )


def refuse_missing(
    root: Path,
    table: Path,
    names: NDArray[np.str_],
    here: NDArray[np.bool_],
    missing: Missing,
    advice: str = "give root=FOLDER",
    accept: str = "add near=accept to the source",
    where: str = "",
) -> None:
    """Raise an error if images are missing that a table lists; it names files with near names, if there are any.

    Args:
        root: folder of the images.
        table: path of the table.
        names: str [N], names of the images.
        here: bool [N], whether each image exists.
        missing: "skip" allows some images to be missing.
        advice: what to do if the folder may be the wrong one.
        accept: how to take files with near names.
        where: where the images are, if not in a folder that the user knows.

    Raises:
        PetechiaError: some images are missing and `missing` is "error", or all images are missing.
    """
    if here.all() or (here.any() and missing == "skip"):
        return
    absent, present = names[~here].tolist(), set(names[here].tolist())
    offers = near_paths((path for path in walk(root, Files()) if path not in present), absent[:ENOUGH])
    if not here.any():
        said, else_ = f"{root} has none of the {len(here):,} images that {table} lists", advice
        named = f", such as {printable(absent[0])!r}"
    else:
        said = f"{len(absent):,} of the {len(names):,} images that {table} lists are not in {where or root}"
        named, else_ = f": {listing(absent)}", "add them, or leave them out with --missing skip"
    if not offers:
        raise PetechiaError(f"{said}{named}; {else_}.")
    name, (path, *_) = next(iter(offers.items()))
    count = f"{'at least ' * (len(absent) > ENOUGH)}{len(offers):,}"
    raise PetechiaError(
        f"{said}, but for {count} of them a file with a near name is there, such as {printable(path)!r} for "
        f"{printable(name)!r}; {accept}, or correct the table."
    )


class _Index:
    """An index of the files below a folder, by name with and without suffix; letters are composed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = list(walk(root))
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            name = composed(path.rpartition("/")[2])
            stem, dot, suffix = name.rpartition(".")
            self.by_name[name].append(path)
            if stem and (dot + suffix).lower() in SUFFIXES:
                self.by_name[stem].append(path)
            elif volume := VOLUME.fullmatch(name):
                self.by_name[volume[1]].append(path)

    def without(self, taken: Iterable[str | None]) -> list[str]:
        known = set(taken)
        return [path for path in self.paths if path not in known]

    def find(self, given: str) -> str | None:
        name = composed(given)
        found = self.by_name.get(name.rpartition("/")[2], [])
        if "/" in name:  # the folders must match as well
            found = [path for path in found if composed(path) == name or composed(path).startswith(f"{name}.")]
        if len(found) > 1:
            raise PetechiaError(f"{given!r} is both {found[0]} and {found[1]} in {self.root}; give the full path in the table.")
        return found[0] if found else None


class _Tree:
    """The folders below a root, each checked once; a folder or requested file that is a link out of the root is rejected."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, bool] = {"": True}

    def has(self, paths: list[str]) -> NDArray[np.bool_]:
        """Return which paths are files."""
        here = np.zeros(len(paths), bool)
        by_folder = defaultdict(list)
        for row, path in enumerate(paths):
            folder, _, name = path.rpartition("/")
            by_folder[folder].append((row, name))
        for folder, members in by_folder.items():
            if self._enter(folder):
                files = self._scan(folder) if len(members) > FEW else self._look(folder, [name for _, name in members])
                for row, name in members:
                    here[row] = name in files and self._sound(folder, name, files[name])
        return here

    def _enter(self, folder: str) -> bool:
        """Return whether a path is a folder."""
        if folder not in self.known:
            self.known[folder] = False
            if self._enter(folder.rpartition("/")[0]) and os.path.isdir(f"{self.root}/{folder}"):  # noqa: PTH112
                if os.path.islink(f"{self.root}/{folder}"):  # noqa: PTH114
                    refuse_outside(self.root, self.root / folder)
                self.known[folder] = True
        return self.known[folder]

    def _scan(self, folder: str) -> dict[str, bool]:
        """Return file name → whether it is a link, for all files of a folder."""
        with os.scandir(f"{self.root}/{folder}") as entries:
            return {entry.name: entry.is_symlink() for entry in entries if entry.is_file()}

    def _look(self, folder: str, names: list[str]) -> dict[str, bool]:
        """Return file name → whether it is a link, for the given names that are files."""
        found = {}
        for name in names:
            path = f"{self.root}/{folder}/{name}"
            if name and os.path.isfile(path):  # noqa: PTH113
                found[name] = os.path.islink(path)  # noqa: PTH114
        return found

    def _sound(self, folder: str, name: str, link: bool) -> bool:
        if link:
            refuse_outside(self.root, self.root / folder / name)
        return True
