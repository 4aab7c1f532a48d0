"""The kinds of data sources, ours and those of other packages: from the name of a source to its catalog.

Nothing heavy is imported here, so that the command line's help can say how sources are written.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from petechia.core.errors import PetechiaError, alternatives, printable, without_credentials
from petechia.core.registry import Registry, deferred

if TYPE_CHECKING:
    from petechia.data.catalog import Catalog
    from petechia.data.formats.locate import Missing


@dataclass(frozen=True)
class SourceOpener:
    """Opens the sources of one kind, which are written KIND:TEXT.

    Attributes:
        form: how such a source is written, for help and messages: "nih:FOLDER".
        help: what it is, in one line.
        open: gets the whole source (for messages), TEXT and what to do about images that are listed and missing ("error" or
            "skip"); returns the catalog; raises PetechiaError where it cannot. `petechia.data.sources.options` reads options.
        bare: whether KIND alone is a source too.
    """

    form: str
    help: str
    open: Callable[[str, str, Missing], Catalog]
    bare: bool = False


def _fitting(name: str, found: object) -> SourceOpener:
    if not isinstance(found, SourceOpener):
        raise TypeError(f"{found!r} is not a petechia.data.sources.SourceOpener")
    if not re.fullmatch(rf"{re.escape(name)}(:.*)?", found.form):
        raise ValueError(f"its form is {found.form!r}; it must begin with {name + ':'!r}")
    return found


SOURCES: Registry[SourceOpener] = Registry("data source", "petechia.sources", _fitting)
_HERE = "petechia.data.sources"
for _opener in (
    SourceOpener(
        "phantom, phantom:images=N,size=N,seed=N",
        "Drawn chest radiographs, which Petechia brings along",
        deferred(f"{_HERE}.phantom.source:open_phantom_source"),
        bare=True,
    ),
    SourceOpener("nih:FOLDER", "NIH ChestX-ray14", deferred(f"{_HERE}.nih:open_nih_source")),
    SourceOpener(
        "folder:TABLE, folder:FOLDER",
        "Image files with a table of labels, or in a folder for each class",
        deferred(f"{_HERE}.folder:open_folder"),
    ),
    SourceOpener("medmnist:FILE", "A file of MedMNIST", deferred(f"{_HERE}.medmnist:open_medmnist")),
    SourceOpener("dicom:FOLDER", "A folder or DICOMDIR of DICOM images and volumes", deferred(f"{_HERE}.dicom:open_dicom")),
    SourceOpener("nifti:FOLDER", "A folder of NIfTI volumes, slice by slice", deferred(f"{_HERE}.nifti:open_nifti")),
    SourceOpener("dicomweb:URL", "Images of a PACS, by DICOMweb", deferred(f"{_HERE}.dicomweb:open_dicomweb")),
    SourceOpener("xrv:NAME:FOLDER", "A dataset of torchxrayvision", deferred(f"{_HERE}.xrv:open_xrv")),
):
    SOURCES.add(re.split("[:,]", _opener.form)[0], _opener)


def source_forms() -> str:
    """How sources are written, for help and messages. Nothing is imported for it, so a plugin's may be "KIND:…"."""
    known = ((kind, SOURCES.if_loaded(kind)) for kind in SOURCES)
    return alternatives([opener.form if opener else f"{kind}:…" for kind, opener in known])


def open_source(source: str, missing: Missing = "error") -> Catalog:
    """Open a source; docs/data.md says what each takes.

    `phantom`, `phantom:images=2400,size=64,seed=0`, `nih:FOLDER`, `folder:TABLE[,KEY=VALUE…]`, `medmnist:FILE.npz`,
    `dicom:FOLDER[,KEY=VALUE…]`, `nifti:FOLDER[,KEY=VALUE…]`, `dicomweb:URL[,KEY=VALUE…]`,
    `xrv:NAME:FOLDER[,KEY=VALUE…]`, or what another package adds.

    `phantom:findings=1` is a binary task, `phantom:task=multi-class` one whose classes exclude each other.

    Raises:
        PetechiaError: not such a name, or what it names cannot be read.
    """
    kind, _, text = source.partition(":")
    if kind in SOURCES:
        opener = SOURCES[kind]
        if text or opener.bare:
            try:
                return opener.open(source, text, missing)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                raise PetechiaError(f"The data source {printable(source, 200)!r} names a path that is too long.") from None
    raise PetechiaError(f"{without_credentials(source)!r} is not a data source; use {source_forms()}.")


def named_source(names: Sequence[str]) -> str | None:
    """Return the data source that a command gets in the place of images; None if it gets names of files or folders.

    Args:
        names: what it gets.

    Raises:
        PetechiaError: there is a source, and something else beside it.
    """
    found = [name for name in names if ":" in name and not os.path.exists(name)]  # noqa: PTH110 (a URL is no path)
    if len(names) == 1:
        return found[0] if found else None
    for name in found:
        if name.partition(":")[0] in SOURCES:
            raise PetechiaError(f"{printable(name, 200)!r} is a data source, which is given alone; leave out the others.")
    return None


def without_folders(source: str) -> str:
    """The same source, or path, without the folders in its paths and the server in its address, to give away."""
    return re.sub(r"https?://[^,/]*(?:[^,]*/)?|[^:=]*/", "", re.sub(r"/+(?=,|$)", "", source))
