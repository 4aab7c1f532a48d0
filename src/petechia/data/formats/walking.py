"""Walk a folder: which files are images that can be read, which are images that cannot, and which are neither."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from petechia.core.errors import PetechiaError
from petechia.data.formats.dicom import HEAD, is_dicom
from petechia.data.not_read import Files, NotRead, Reason

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")  # suffixes of image files
NIFTI = (".nii", ".nii.gz")

READABLE: Final = "readable"
Kind = Reason | Literal["readable"] | None

# What systems and programs leave in folders. It is skipped without a word.
DEBRIS = {
    *(".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", ".directory"),
    *(".gitignore", ".gitattributes", ".gitkeep", ".keep", ".lock", "dicomdir"),
}
DEBRIS_FOLDERS = {
    *("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"),
    *(".appledouble", ".apdisk", ".trashes", ".trash", ".spotlight-v100", ".fseventsd", ".documentrevisions-v100"),
    *(".temporaryitems", ".git", ".svn", ".hg", ".dvc", ".ipynb_checkpoints", "__pycache__", ".venv", ".tox", ".cache"),
    *(".thumbnails", ".picasaoriginals", ".idea", ".vscode"),
}
APPLE_DOUBLE = b"\0\5\x16\7"  # how the ._NAME files of macOS begin

BY_SUFFIX = {
    **dict.fromkeys(
        (".bmp", ".dib", ".gif", ".webp", ".pgm", ".ppm", ".pbm", ".pnm", ".pam", ".pfm", ".jp2", ".j2k", ".j2c", ".jpf"),
        Reason.FORMAT,
    ),
    **dict.fromkeys((".jpx", ".jpc", ".jls", ".jxl", ".jxr", ".heic", ".heif", ".avif", ".tga", ".exr", ".hdr"), Reason.FORMAT),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".czi", ".lif", ".psd", ".pcx"), Reason.FORMAT),
    **dict.fromkeys((".raw", ".xcf", ".fits", ".fit", ".ljpeg"), Reason.FORMAT),
    **dict.fromkeys((".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".mnc", ".img", ".rec"), Reason.VOLUME),
    **dict.fromkeys((".avi", ".mp4", ".mov", ".mkv", ".mpg", ".mpeg", ".wmv", ".m4v", ".webm"), Reason.VIDEO),
    **dict.fromkeys((".npy", ".npz", ".mat", ".h5", ".hdf5", ".tfrecord", ".tfrecords", ".lmdb", ".zarr"), Reason.ARRAY),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".rar", ".7z"), Reason.PACKED),
}
PACKERS = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".z")
# Suffixes of files that are no images; others are looked into.
NO_IMAGES = {
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md", ".rst", ".html"),
    *(".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".ppt", ".pptx", ".parquet", ".feather", ".arrow", ".db"),
    *(".sqlite", ".py", ".ipynb", ".r", ".m", ".sh", ".bat", ".exe", ".dll", ".so", ".log", ".pt", ".pth", ".pt2", ".onnx"),
    *(".safetensors", ".pkl", ".pickle", ".joblib", ".js", ".css", ".bib", ".tex", ".svg", ".inf", ".lnk", ".url", ".jar"),
    *(".sha256", ".md5", ".sr", ".ecg", ".edf", ".wav", ".mp3", ".partial", ".ttf", ".otf", ".woff"),
}
PIXELS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # PNG, JPEG, TIFF
BY_CONTENT = (
    (re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL), Reason.FORMAT),
    (re.compile(rb"GIF8[79]a"), Reason.FORMAT),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), Reason.FORMAT),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), Reason.VIDEO),
    (re.compile(rb"P[1-7]\s"), Reason.FORMAT),
    (re.compile(rb"\x00\x00\x00\x0cjP  \r\n"), Reason.FORMAT),
    (re.compile(rb"\xff\x4f\xff\x51"), Reason.FORMAT),
    (re.compile(rb"\x00\x00\x00\x0cJXL |\xff\x0a"), Reason.FORMAT),
    (re.compile(rb".{4}ftyp(heic|heix|mif1|msf1|avif)", re.DOTALL), Reason.FORMAT),
    (re.compile(rb".{4}ftyp", re.DOTALL), Reason.VIDEO),
    (re.compile(rb"NRRD000"), Reason.VOLUME),
    (re.compile(rb"ObjectType\s*=\s*Image"), Reason.VOLUME),
    (re.compile(rb"(\x5c\x01\0\0|\0\0\x01\x5c).{340}(n\+1|ni1)\0", re.DOTALL), Reason.VOLUME),
    (re.compile(rb"\x93NUMPY|\x89HDF\r\n"), Reason.ARRAY),
    (re.compile(rb"PK\x03\x04|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c"), Reason.PACKED),
)
MOST_FOLDERS = 20  # in a path of a table that was left out
MASK = re.compile(
    r"^(?P<of>.+?)[-_ ]+(masks?|segmentations?|seg|gt|ground[-_ ]?truth|annotations?)([-_ ]?\d+)?$", re.IGNORECASE
)
# The last word of a folder of masks, such as "lung masks".
MASK_FOLDER = re.compile(
    r".*(masks?|segmentations?|ground[-_ ]?truths?|annotations?)([-_ ]?\d+)?|(.*[-_ ])?(gts?|segs?)([-_ ]?\d+)?", re.IGNORECASE
)
IMAGES_FOLDER = re.compile(r"(^|[-_ /])(images?|imgs?|scans?|originals?|raw|cxr|x-?rays?|inputs?)([-_ /]|$)|^$", re.IGNORECASE)
MASK_FIRST = re.compile(r"^(masks?|segmentations?|seg|gt)[-_ ]+", re.IGNORECASE)  # in names of files in such a folder


def refuse_outside(root: Path, path: Path) -> None:
    """Reject a path that leads out of a folder through a link.

    Raises:
        PetechiaError: `path`, with all links resolved, is not below `root`.
    """
    if leads_out(root, path):
        raise PetechiaError(f"{path} is a link that leads out of {root} or nowhere; replace it by its target.")


def leads_out(root: Path, path: Path) -> bool:
    """Return whether a path leads out of a folder, or nowhere, through a link."""
    try:
        return not path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a circular link, a NUL character
        return True


def walk(root: Path, files: Files | None = None, outside: bool = False) -> Iterator[str]:
    """Yield the relative paths of all files below a folder, in order, without what systems leave there, pipes and devices.

    Links to folders are not followed, and links to files only below the folder.

    Args:
        root: the folder.
        files: gets what is left out: hidden images, links that lead out, and folders that may not be opened.
        outside: whether links to files anywhere are followed.

    Raises:
        PetechiaError: a file is a link that leads out of the folder, and `files` is None.
    """
    told = files is not None
    files = files or Files()
    waiting = [""]
    while waiting:  # a stack: folders can be nested more deeply than functions
        folder = waiting.pop()
        within: list[str] = []
        for entry in _entries(root, folder, files):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if not _is_unicode(entry.name):
                files.add(Reason.NAME, path)
            elif entry.name.casefold() in (DEBRIS_FOLDERS if _asked(entry.is_dir) else DEBRIS):
                continue
            elif entry.is_symlink() and not (outside and _asked(entry.is_file)) and _is_lost(root, path):
                if not told and not _asked(entry.is_dir):
                    refuse_outside(root, root / path)
                files.add(Reason.LINK, path)
            elif _asked(entry.is_dir):
                within += [] if entry.is_symlink() else [path]
            elif _asked(entry.is_file):  # opening a pipe would block forever
                if path.startswith(".") or "/." in path:
                    _hidden(root, path, files)
                else:
                    yield path
            elif entry.name.lower().endswith((*SUFFIXES, *NIFTI)):
                files.add(Reason.PIPE, path)
        waiting += reversed(within)


def _is_lost(root: Path, path: str) -> bool:
    return leads_out(root, root / path) or not os.path.exists(root / path)  # noqa: PTH110


def _entries(root: Path, folder: str, files: Files) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        files.add(Reason.UNREADABLE, folder or ".")
        return []


def _asked(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself
        return False


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_images(root: Path, files: Files, masks: bool = True, outside: bool = False) -> Iterator[str]:
    """Yield the relative paths of the files below a folder that can be images of a format that is read, in order.

    A file is known by its suffix, or, if that says nothing, by its content.

    Args:
        root: the folder.
        files: gets the other images.
        masks: whether to yield masks of other images too.
        outside: whether links to files anywhere are followed.
    """
    found = []
    for path in walk(root, files, outside):
        kind = kind_of(root, path)
        if kind == READABLE:
            found.append(path)
        elif kind:
            files.add(kind, path)
    drawn = set() if masks else masks_among(found)
    for path in found:
        if path in drawn:
            files.add(Reason.MASK, path)
        else:
            yield path


def kind_of(root: Path, path: str) -> Kind:
    """Return `READABLE` if a file can be an image of a format that is read, the reason if it is another, None if it is none."""
    name = path.rpartition("/")[2].casefold()
    suffix = os.path.splitext(name)[1]  # noqa: PTH122
    if suffix in SUFFIXES:
        return READABLE
    if suffix in PACKERS:
        inner = os.path.splitext(name[: -len(suffix)])[1]  # noqa: PTH122
        return Reason.PACKED if inner in (*SUFFIXES, "", ".tar") else BY_SUFFIX.get(inner)
    if suffix in NO_IMAGES:
        return None
    try:
        with open(root / path, "rb") as file:  # noqa: PTH123
            head = file.read(HEAD)
    except OSError:
        return Reason.UNREADABLE
    return kind_of_content(head, BY_SUFFIX.get(suffix))


def kind_of_content(head: bytes, otherwise: Reason | None = None) -> Kind:
    """Return the same for the beginning of a file; `otherwise` if that is not known."""
    if head.startswith(PIXELS) or is_dicom(head):
        return READABLE
    return next((reason for pattern, reason in BY_CONTENT if pattern.match(head)), otherwise)


def masks_among(paths: Collection[str]) -> set[str]:
    """Return the images that are masks of others: A_mask.png beside A.png, or masks/A.png beside A.png or images/A.png.

    The folder of masks may have folders within: masks/x/A.png is a mask of images/x/A.png.
    """
    stems: dict[str, set[str]] = {}  # name without suffix → folders
    for path in paths:
        folder, _, name = path.rpartition("/")
        stems.setdefault(_stem(name), set()).add(folder)
    found = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        stem = _stem(name)
        match = MASK.match(stem)
        if match and folder in stems.get(match["of"].rstrip(), ()):
            found.add(path)
        elif in_masks(path):
            names = {stem, MASK_FIRST.sub("", stem), match["of"] if match else stem}
            others = set().union(*(stems.get(one, ()) for one in names))
            images = [one for one in others if _is_beside(folder.split("/"), one.split("/") if one else [])]
            if len(images) == 1 or any(map(IMAGES_FOLDER.search, images)):  # beside several other folders, it is one of them
                found.add(path)
    return found


def in_masks(path: str) -> bool:
    """Return whether a folder in a path has the name of a folder of masks."""
    return any(MASK_FOLDER.fullmatch(folder) for folder in path.split("/")[:-1])


def _is_beside(masks: list[str], images: list[str]) -> bool:
    """Return whether two folders differ in a folder of masks alone, in whose place the other has none, or one of images."""
    return any(
        MASK_FOLDER.fullmatch(folder)
        and not any(map(MASK_FOLDER.fullmatch, images[k : k + 1]))
        and masks[:k] + masks[k + 1 :] in (images, images[:k] + images[k + 1 :])
        for k, folder in enumerate(masks)
    )


def beside(root: Path, read: NDArray[np.str_], left_out: NDArray[np.str_] | None = None) -> NotRead:
    """Return the images below a folder that a table does not list.

    Args:
        root: the folder.
        read: str [N], relative paths of the images that are read.
        left_out: str [M], names in the table of images that are left out on purpose, as in the table: with or without their
            folders and suffixes.
    """
    files = Files()
    known, others = set(read.tolist()), set()
    for name in [] if left_out is None else left_out.tolist():
        others |= {name, *_without_leading(name)}
    for path in walk(root, files):
        if path in known or (others and not others.isdisjoint(_names(path))):
            continue
        if kind := kind_of(root, path):
            files.add(Reason.UNLISTED if kind == READABLE else kind, path)
    return files.frozen


def _without_leading(name: str) -> Iterator[str]:
    """Yield a path without its first folders, as long as one is left."""
    while name.count("/") > 1:
        name = name.partition("/")[2]
        yield name


def _names(path: str) -> Iterator[str]:
    """Yield the ways in which a table can name a file: with all, some or none of its folders, with and without suffix."""
    parts = path.split("/")
    for first in range(max(0, len(parts) - MOST_FOLDERS), len(parts)):
        name = "/".join(parts[first:])
        yield name
        yield _stem(name)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _hidden(root: Path, path: str, files: Files) -> None:
    """Note a hidden file if it is an image, whatever its name: training code may read it."""
    try:
        with open(root / path, "rb") as file:  # noqa: PTH123
            head = file.read(HEAD)
    except OSError:
        files.add(Reason.UNREADABLE, path)
        return
    if not head.startswith(APPLE_DOUBLE) and kind_of_content(head):
        files.add(Reason.HIDDEN, path)
