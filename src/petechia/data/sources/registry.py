"""From the name of a source, as it stands in a configuration, to its catalog."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from petechia.core.errors import PetechiaError
from petechia.core.settings import FORMS
from petechia.core.task import Task
from petechia.data.catalog import Catalog
from petechia.data.formats.locate import Missing
from petechia.data.sources.dicom import open_dicom
from petechia.data.sources.folder import open_folder
from petechia.data.sources.medmnist import open_medmnist
from petechia.data.sources.nih import open_nih
from petechia.data.sources.options import validated
from petechia.data.sources.phantom import PhantomOptions, open_phantom
from petechia.data.sources.phantom.findings import FINDINGS
from petechia.data.sources.xrv import open_xrv


class _Phantom(PhantomOptions):
    """What can be chosen: how it is drawn, and how it is labelled. The drawing knows nothing of the labels.

    Attributes:
        findings: how many of them are labelled, the first ones; 1 makes a binary task.
        task: "multi-class" leaves out the images with several of them.
    """

    findings: int = Field(len(FINDINGS), ge=1, le=len(FINDINGS))
    task: Task = "multi-label"


def open_source(source: str, missing: Missing = "error") -> Catalog:
    """Open a source; docs/data.md says what each takes.

    `phantom`, `phantom:images=2400,size=64,seed=0`, `nih:FOLDER`, `folder:TABLE[,KEY=VALUE…]`, `medmnist:FILE.npz`,
    `dicom:FOLDER[,KEY=VALUE…]` or `xrv:NAME:FOLDER[,KEY=VALUE…]`.

    `phantom:findings=1` is a binary task, `phantom:task=multi-class` one whose classes exclude each other.

    Raises:
        PetechiaError: not such a name, or what it names cannot be read.
    """
    kind, _, rest = source.partition(":")
    if kind == "phantom":
        options = _phantom_options(source, rest)
        return open_phantom(options).with_classes(options.findings, options.task)
    if kind == "nih" and rest:
        folder = Path(rest).expanduser()
        if not folder.is_dir():
            raise PetechiaError(f"The data source {source!r} names {folder}, which is not a folder; correct the path.")
        return open_nih(folder, missing)
    if kind in READERS and rest:
        return READERS[kind](source, rest, missing)
    raise PetechiaError(f"{source!r} is not a data source; use {FORMS}.")


READERS = {"folder": open_folder, "medmnist": open_medmnist, "dicom": open_dicom, "xrv": open_xrv}


def without_folders(source: str) -> str:
    """The same source without the folders in its paths, to give away."""
    return re.sub(r"[^:=]*/", "", source)


def _phantom_options(source: str, text: str) -> _Phantom:
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise PetechiaError(f"{part!r} in the data source {source!r} is not KEY=VALUE; use {FORMS}.")
        given[key.strip()] = value.strip()
    return validated(source, given, _Phantom)
