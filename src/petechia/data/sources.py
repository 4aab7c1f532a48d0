"""From the name of a source, as it stands in a configuration, to its catalog."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from petechia.data.catalog import Catalog
from petechia.data.nih import Missing, open_nih
from petechia.data.phantom import PhantomOptions, open_phantom
from petechia.errors import PetechiaError

FORMS = "phantom, phantom:images=N,size=N,seed=N or nih:FOLDER"


def open_source(source: str, missing: Missing = "error") -> Catalog:
    """Open a source: `phantom`, `phantom:images=2400,size=64,seed=0` or `nih:FOLDER`.

    Raises:
        PetechiaError: not such a name, or what it names cannot be read.
    """
    kind, _, rest = source.partition(":")
    if kind == "phantom":
        return open_phantom(_phantom_options(source, rest))
    if kind == "nih" and rest:
        folder = Path(rest).expanduser()
        if not folder.is_dir():
            raise PetechiaError(f"The data source {source!r} names {folder}, which is not a folder; correct the path.")
        return open_nih(folder, missing)
    raise PetechiaError(f"{source!r} is not a data source; use {FORMS}.")


def _phantom_options(source: str, text: str) -> PhantomOptions:
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise PetechiaError(f"{part!r} in the data source {source!r} is not KEY=VALUE; use {FORMS}.")
        given[key.strip()] = value.strip()
    try:
        return PhantomOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise PetechiaError(
            f"{first['loc'][0]!r} in the data source {source!r}: {first['msg']}; "
            f"its keys are {', '.join(PhantomOptions.model_fields)}."
        ) from None
