"""From the name of a source, as it stands in a configuration, to its catalog."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from petechia.data.catalog import Catalog, Task
from petechia.data.nih import Missing, open_nih
from petechia.data.phantom import PhantomOptions, open_phantom
from petechia.data.phantom.findings import FINDINGS
from petechia.errors import PetechiaError

FORMS = "phantom, phantom:images=N,size=N,seed=N,findings=N,task=multi-class or nih:FOLDER"


class _Phantom(PhantomOptions):
    """What can be chosen: how it is drawn, and how it is labelled. The drawing knows nothing of the labels.

    Attributes:
        findings: how many of them are labelled, the first ones; 1 makes a binary task.
        task: "multi-class" leaves out the images with several of them.
    """

    findings: int = Field(len(FINDINGS), ge=1, le=len(FINDINGS))
    task: Task = "multi-label"


def open_source(source: str, missing: Missing = "error") -> Catalog:
    """Open a source: `phantom`, `phantom:images=2400,size=64,seed=0` or `nih:FOLDER`.

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
    raise PetechiaError(f"{source!r} is not a data source; use {FORMS}.")


def _phantom_options(source: str, text: str) -> _Phantom:
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise PetechiaError(f"{part!r} in the data source {source!r} is not KEY=VALUE; use {FORMS}.")
        given[key.strip()] = value.strip()
    try:
        return _Phantom.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise PetechiaError(
            f"{first['loc'][0]!r} in the data source {source!r}: {first['msg']}; "
            f"its keys are {', '.join(_Phantom.model_fields)}."
        ) from None
