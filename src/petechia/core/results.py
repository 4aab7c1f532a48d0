"""The result of a command: a typed record that is saved as JSON, with attached files beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PrivateAttr, ValidationError

from petechia.core.budget import read_file
from petechia.core.errors import PetechiaError
from petechia.core.files import building, refuse_existing
from petechia.core.settings import first_problem


def _nan_if_null(value: Any) -> Any:
    return math.nan if value is None else value


def _null_if_nan(value: float) -> float | None:
    return value if math.isfinite(value) else None


# A number that may be undefined: NaN in Python, null in files.
Number = Annotated[
    float,
    BeforeValidator(_nan_if_null, json_schema_input_type=float | None),
    PlainSerializer(_null_if_nan, return_type=float | None),
]


class Record(BaseModel):
    """A part of a result: frozen and validated; unknown keys raise an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
    )


class Result(Record):
    """The result of a command, with the same fields as its JSON file.

    `to_dict` returns the content of the file, `save` writes the file and its attachments into a new folder, and `load` reads
    the file. In a notebook, a result is displayed as a table.

    Attributes:
        schema_: version of the file format, `schema` in the file.
    """

    file_name: ClassVar[str]  # name of the JSON file, such as "audit.json"

    schema_: int = Field(1, alias="schema")

    _attachments: dict[str, Callable[[], bytes]] = PrivateAttr(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file as plain values, with undefined numbers as None."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """Return the text of the JSON file."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def attach(self, name: str, content: Callable[[], bytes]) -> None:
        """Add a file that `save` writes beside the JSON: its name, and a function that returns its content when called."""
        self._attachments[name] = content

    @property
    def attachments(self) -> tuple[str, ...]:
        """The names of the files that `save` writes beside the JSON."""
        return tuple(self._attachments)

    def save(self, directory: str | Path) -> Path:
        """Write the result into a new folder, completely or not at all.

        Returns:
            The folder.

        Raises:
            PetechiaError: the folder exists already.
        """
        folder = Path(directory)
        refuse_existing(folder)
        with building(folder) as temporary:
            (temporary / self.file_name).write_text(self.to_json(), encoding="utf-8")
            for name, content in self._attachments.items():
                (temporary / name).write_bytes(content())
        return folder

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a saved result.

        Args:
            path: the JSON file, or the folder that contains it.

        Raises:
            PetechiaError: the file cannot be read, is too large, or does not match this version of the format.
        """
        file = Path(path)
        file = file / cls.file_name if file.is_dir() else file
        try:
            return cls.model_validate_json(read_file(file, "result_bytes"))
        except OSError as error:
            raise PetechiaError(f"{file} cannot be read ({error.strerror}); check the path.") from None
        except ValidationError as error:
            raise PetechiaError(f"{file} is not a {cls.file_name} of this version ({first_problem(error)}).") from None

    def __eq__(self, other: object) -> bool:
        """Whether the files would be the same; what is attached does not count."""
        return type(self) is type(other) and isinstance(other, Result) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._overview())

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._overview())
        return f"<table>{rows}</table>"

    def _overview(self) -> list[tuple[str, str]]:
        """Return the names and values to display; subclasses override it to choose the most important ones."""
        return [(name, str(value)) for name, value in self if isinstance(value, str | int | float)]
