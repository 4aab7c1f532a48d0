"""Parse the options of a data source, as in `folder:TABLE,labels=a|b,root=DIR`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TypeVar

from pydantic import ValidationError

from petechia.core.errors import PetechiaError
from petechia.core.settings import Settings

S = TypeVar("S", bound=Settings)


def split_options(source: str, text: str, model: type[S]) -> tuple[str, S]:
    """Split a text into a path and the options after it.

    Both may contain commas: a comma starts an option only if a known key and = follow, and after the longest existing path.

    Args:
        source: the whole source, for messages.
        text: the source without its kind.
        model: class of the options.

    Raises:
        PetechiaError: a key occurs twice, or a value is invalid.
    """
    commas = [match.span() for match in re.finditer(rf",\s*(?=(?:{'|'.join(model.model_fields)})=)", text)]
    exists = [number for number, (start, _) in enumerate(commas) if _exists(text[:start])]
    cuts = commas[exists[-1] if exists else 0 :] if not _exists(text) else []
    path, *parts = (text[end:start] for (_, end), (start, _) in pairwise([(0, 0), *cuts, (len(text), 0)]))
    given: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key in given:
            raise PetechiaError(f"{key!r} occurs twice in the data source {source!r}; give it once.")
        given[key] = value
    return path, validated(source, given, model)


def _exists(path: str) -> bool:
    """Whether there is such a path; `Path.exists` raises errors of the system where the text is too long for one."""
    return os.path.exists(os.path.expanduser(path))  # noqa: PTH110, PTH111


def validated(source: str, given: Mapping[str, str], model: type[S]) -> S:
    """Parse options from their texts.

    Args:
        source: the whole source, for messages.
        given: key → text of the value.
        model: class of the options.

    Raises:
        PetechiaError: a key is unknown, or a value is invalid.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        keys = ", ".join(model.model_fields)
        raise PetechiaError(
            f"{first['loc'][0]!r} in the data source {source!r}: {first['msg']}; its keys are {keys}."
        ) from None


def hint_at_option(path: str, model: type[Settings]) -> str:
    """Return a hint for a message about a path that does not exist: the unknown option that it contains, or ""."""
    found = re.search(r",\s*(\w+)=", path)
    if not found:
        return ""
    near = difflib.get_close_matches(found[1], model.model_fields, 1, 0.5)
    said = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(model.model_fields)}"
    return f" ({found[1]!r} is not an option; {said})"
