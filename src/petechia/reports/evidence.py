"""Evidence packs: what a detector found, with all that led to it, in one archive that tells whether it was changed."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field, ValidationError

from petechia.core.archives import open_zip
from petechia.core.budget import CHUNK, check, check_unpacked
from petechia.core.errors import PetechiaError, printable, unreadable
from petechia.core.files import refuse_existing, refuse_links, write_bytes
from petechia.core.results import Record
from petechia.core.settings import first_problem
from petechia.core.version import __version__

MANIFEST = "evidence.json"
PACKAGES = ("torch", "timm", "numpy", "scipy", "pillow")
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same files make the same archive
ADVICE = "ask for the pack again"


class PackedFile(Record):
    """A file of a pack: its size in bytes, and its SHA-256."""

    size: int = Field(ge=0)
    sha256: str


class Manifest(Record):
    """What a pack states of itself. File: evidence.json in the archive.

    Attributes:
        petechia: version that made the pack.
        python: version of Python.
        platform: operating system and processor.
        packages: name → version of the packages that results depend on.
        command: the command line that gave the results; empty if it is not known.
        files: name → what is packed.
    """

    file_name: ClassVar[str] = MANIFEST

    schema_: int = Field(1, alias="schema")
    petechia: str
    python: str
    platform: str
    packages: dict[str, str]
    command: tuple[str, ...]
    files: dict[str, PackedFile]


class Verified(NamedTuple):
    """An intact pack: what it states, and the SHA-256 of the archive, by which it can be cited."""

    manifest: Manifest
    sha256: str


def write_evidence(
    folder: str | Path, path: str | Path, command: Sequence[str] = (), more: Mapping[str, bytes] | None = None
) -> Path:
    """Pack the files of a result's folder.

    Args:
        folder: what a result was saved to, such as the --out of an audit.
        path: of a new zip archive.
        command: the command line that gave the result.
        more: name in the archive → content of a further file, such as the calibration that was used.

    Returns:
        The path.

    Raises:
        PetechiaError: the archive exists already, the folder holds no file, or it holds a link.
    """
    pack, source = Path(path), Path(folder)
    refuse_existing(pack, "--evidence")
    refuse_links(source)
    files = {file.relative_to(source).as_posix(): file for file in source.rglob("*") if file.is_file()}
    if not files:
        raise PetechiaError(f"{source} holds no file to pack; give the folder of a result.")
    contents = dict(sorted({**{name: file.read_bytes() for name, file in files.items()}, **(more or {})}.items()))
    manifest = Manifest(
        petechia=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: version(name) for name in PACKAGES},
        command=tuple(command),
        files={name: PackedFile(size=len(one), sha256=hashlib.sha256(one).hexdigest()) for name, one in contents.items()},
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in ((MANIFEST, text), *contents.items()):
            packed.writestr(zipfile.ZipInfo(name, LONG_AGO), content, zipfile.ZIP_DEFLATED)
    write_bytes(pack, archive.getvalue())
    return pack


def verify_evidence(path: str | Path) -> Verified:
    """Check that a pack holds the files that it states, unchanged, and no others.

    This shows that nothing was lost or altered on the way. It does not show who made the pack: whoever changes a file can write
    a new manifest, so compare the SHA-256 of the archive with the one that its maker gave you.

    Args:
        path: of the archive, which may come from anybody. Nothing is unpacked to the disk.

    Raises:
        PetechiaError: it is no such pack, or a file was changed, added or removed.
    """
    pack = Path(path)
    try:
        with open_zip(pack, ADVICE) as archive:
            members = {one.filename: one for one in archive.infolist()}
            total = sum(one.file_size for one in members.values())
            check_unpacked(total, pack.stat().st_size, f"{pack} claims to unpack to")
            manifest = _manifest(pack, archive, members)
            for name in sorted({*manifest.files, *members} - {MANIFEST}):
                _compare(pack, archive, name, manifest.files.get(name), members.get(name))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise PetechiaError(f"{pack} is damaged or no zip archive ({printable(str(error), 100)}); {ADVICE}.") from None
    except OSError as error:
        raise unreadable(pack, error, ADVICE) from None
    with pack.open("rb") as file:
        return Verified(manifest, hashlib.file_digest(file, "sha256").hexdigest())


def _manifest(pack: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> Manifest:
    if MANIFEST not in members:
        raise PetechiaError(f"{pack} is no evidence pack, for it has no {MANIFEST}; give a file that --evidence wrote.")
    check(
        "result_bytes", members[MANIFEST].file_size, f"{MANIFEST} in {pack} has {members[MANIFEST].file_size:,} bytes", ADVICE
    )
    try:
        return Manifest.model_validate_json(archive.read(MANIFEST))
    except ValidationError as error:
        raise PetechiaError(f"{MANIFEST} in {pack} is not of this version ({first_problem(error)}).") from None


def _compare(
    pack: Path, archive: zipfile.ZipFile, name: str, stated: PackedFile | None, member: zipfile.ZipInfo | None
) -> None:
    if stated is None or member is None:
        what = "holds a file that it does not state" if stated is None else "lacks a file that it states"
        raise PetechiaError(f"{pack} {what}, {printable(name, 200)}; {ADVICE}.")
    found, size = hashlib.sha256(), 0
    with archive.open(member) as file:
        while part := file.read(CHUNK):
            found.update(part)
            size += len(part)
    if (size, found.hexdigest()) != (stated.size, stated.sha256):
        raise PetechiaError(f"{printable(name, 200)} in {pack} was changed after it was packed; {ADVICE}.")
