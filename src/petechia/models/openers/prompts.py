"""Prompts as the classes of a zero-shot classifier, from a CSV or YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petechia.core.budget import check, read_file
from petechia.core.errors import PetechiaError, first_line, printable
from petechia.core.yaml_text import load_yaml
from petechia.data.formats.tables import read_table

COLUMNS = ("class", "prompt", "negative")
LONGEST = 2_000  # characters of a prompt; open_clip reads some hundred
NEEDED = "give each class a prompt, and each or none a negative one"


@dataclass(frozen=True)
class Prompts:
    """What a class is called, and how an image of it is described.

    Attributes:
        classes: names.
        positive: for each class, one or more descriptions of an image that shows it.
        negative: for each class, descriptions of an image that does not; empty if there are none at all.
    """

    classes: tuple[str, ...]
    positive: tuple[tuple[str, ...], ...]
    negative: tuple[tuple[str, ...], ...] = ()

    @staticmethod
    def read(path: Path) -> Prompts:
        """Read a CSV file with the columns class, prompt and, if wanted, negative, or a YAML file.

        Rows of one class are several prompts for it, whose embeddings are averaged. The YAML is CLASS: PROMPT, or CLASS:
        {prompt: …, negative: …}; a list of prompts may stand for each.

        Raises:
            PetechiaError: the file is neither, a class has no prompt, or some have negative prompts and some have not.
        """
        rows = _of_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else _of_table(path)
        positive: dict[str, list[str]] = {}
        negative: dict[str, list[str]] = {}
        for name, prompt, other in rows:
            if prompt:
                positive.setdefault(name, []).append(prompt)
            if other:
                negative.setdefault(name, []).append(other)
        if not positive or (negative and negative.keys() != positive.keys()):
            raise PetechiaError(f"{path} has no prompts, or negative ones for some classes only; {NEEDED}.")
        for name, prompts in (*positive.items(), *negative.items()):
            if not name.strip() or max(map(len, prompts)) > LONGEST:
                raise PetechiaError(f"{path} has a class without a name, or a prompt of more than {LONGEST:,} characters.")
        check("table_classes", len(positive), f"{path} has {len(positive):,} classes", "leave some out")
        classes = tuple(positive)
        pairs = tuple(tuple(negative[name]) for name in classes) if negative else ()
        if len(classes) == 1 and not pairs:
            raise PetechiaError(
                f"{path} has one class, {printable(classes[0])}, and nothing to compare it with; add a negative prompt."
            )
        return Prompts(classes, tuple(tuple(positive[name]) for name in classes), pairs)


def _of_table(path: Path) -> list[tuple[str, str, str]]:
    frame = read_table(path).frame
    if not {"class", "prompt"} <= set(frame.columns) <= set(COLUMNS):
        raise PetechiaError(f"{path} has the columns {printable(', '.join(frame.columns), 200)}, not {', '.join(COLUMNS)}.")
    columns = [frame[name].fill_null("").to_list() if name in frame.columns else [""] * len(frame) for name in COLUMNS]
    return list(zip(*columns, strict=True))


def _of_yaml(path: Path) -> list[tuple[str, str, str]]:
    content = read_file(path, "config_bytes", "check the path of the prompts")
    try:
        found = load_yaml(content.decode())
    except Exception as error:  # PyYAML raises many types
        raise PetechiaError(f"{path} is not YAML ({first_line(error)}); correct it.") from None
    if not isinstance(found, dict):
        raise PetechiaError(f"{path} has no classes; write CLASS: PROMPT, one a line.")
    rows: list[tuple[str, str, str]] = []
    for name, said in found.items():
        parts = said if isinstance(said, dict) else {"prompt": said}
        if not parts.keys() <= {"prompt", "negative"}:
            raise PetechiaError(f"{path} has other keys than prompt and negative for {printable(str(name))}; {NEEDED}.")
        rows += [(str(name), one, "") for one in _texts(parts.get("prompt"), path)]
        rows += [(str(name), "", one) for one in _texts(parts.get("negative"), path)]
    return rows


def _texts(said: Any, path: Path) -> list[str]:
    found = [] if said is None else said if isinstance(said, list) else [said]
    if not all(isinstance(one, str) for one in found):
        raise PetechiaError(f"{path} has a prompt that is no text; put it into quotation marks.")
    return found
