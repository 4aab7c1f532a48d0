"""What a command returns: a typed record that is saved as JSON, with other files beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PrivateAttr, ValidationError

from petechia.core.errors import PetechiaError
from petechia.core.files import building, refuse_existing
from petechia.core.settings import first_problem

LARGEST = 256 << 20  # bytes of a result that is read


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
    """A part of a result: frozen, validated, unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
    )


class Result(Record):
    """What a command found, with the fields that its JSON file has.

    `to_dict` gives what the file holds, `save` writes it, and what else belongs to it, into a new folder, and `load` reads the
    file again. In a notebook a result shows itself as a table.

    Attributes:
        schema_: version of the file's format, `schema` in the file.
    """

    file_name: ClassVar[str]  # of the JSON, such as "audit.json"

    schema_: int = Field(1, alias="schema")

    _attachments: dict[str, Callable[[], bytes]] = PrivateAttr(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file: plain values, undefined numbers as None."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """The JSON file."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def attach(self, name: str, content: Callable[[], bytes]) -> None:
        """Say what else `save` writes: a file's name, and what gives its content. It is made when it is saved."""
        self._attachments[name] = content

    @property
    def attachments(self) -> tuple[str, ...]:
        """Names of the files that `save` writes beside the JSON."""
        return tuple(self._attachments)

    def save(self, directory: str | Path) -> Path:
        """Write the result into a new folder, all of it or nothing.

        Returns:
            The folder.

        Raises:
            PetechiaError: it exists already.
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
        """Read the JSON file of an earlier result, or that in a folder.

        Raises:
            PetechiaError: it is not such a file.
        """
        file = Path(path)
        file = file / cls.file_name if file.is_dir() else file
        try:
            if file.stat().st_size > LARGEST:
                raise PetechiaError(f"{file} is larger than a {cls.file_name} is; check the path.")
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise PetechiaError(f"{file} cannot be read ({error.strerror}); check the path.") from None
        except ValidationError as error:
            raise PetechiaError(f"{file} is not a {cls.file_name} of this version ({first_problem(error)}).") from None

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._overview())

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._overview())
        return f"<table>{rows}</table>"

    def _overview(self) -> list[tuple[str, str]]:
        """Name and value of what matters most; a result says here what that is."""
        return [(name, str(value)) for name, value in self if isinstance(value, str | int | float)]
