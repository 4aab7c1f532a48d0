"""Named things of one kind: those that Petechia has, and those that installed packages add through an entry point."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from petechia.core.errors import PetechiaError, first_line, printable

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things of one kind.

    A package adds one with an entry point, in its pyproject.toml:

        [project.entry-points."petechia.triggers"]
        ring = "my_package.ring:Ring"

    It is imported when the registry is first looked at. See docs/extending.md.

    Args:
        kind: of the things, for messages: "trigger".
        group: of entry points: "petechia.triggers".
        check: returns the loaded object as the registry keeps it; raises TypeError or ValueError where it does not fit.

    Example:
        >>> registry: Registry[type] = Registry("number", "petechia.example")
        >>> @registry.register("one")
        ... class One: ...
        >>> list(registry)
        ['one']
        >>> registry["on"]
        Traceback (most recent call last):
        ...
        petechia.core.errors.PetechiaError: There is no number 'on'; did you mean 'one'?
    """

    def __init__(self, kind: str, group: str, check: Callable[[object], T] | None = None) -> None:
        self.kind = kind
        self.group = group
        self._check = check
        self._known: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that adds what it decorates under a name."""

        def add(item: T) -> T:
            self.add(name, item)
            return item

        return add

    def add(self, name: str, item: T, origin: str = "petechia") -> None:
        """Add a thing.

        Raises:
            PetechiaError: the name is taken.
        """
        if name in self._known and self._known[name] is not item:
            raise PetechiaError(
                f"The {self.kind} {name!r} of {origin} has the name of one of {self._origins[name]}; "
                f"rename it, or remove one of the packages."
            )
        self._known[name] = item
        self._origins[name] = origin

    def origin(self, name: str) -> str:
        """The package that a thing comes from."""
        self._load()
        return self._origins[name]

    def __getitem__(self, name: str) -> T:
        """Look a thing up.

        Raises:
            PetechiaError: there is none of that name; a near name is offered.
        """
        self._load()
        if name not in self._known:
            near = difflib.get_close_matches(name, self._known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._known)}."
            raise PetechiaError(f"There is no {self.kind} {printable(name)!r}; {hint}")
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._known)

    def __len__(self) -> int:
        self._load()
        return len(self._known)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before: a plugin may look at the registry while it is imported
        for entry in sorted(entry_points(group=self.group), key=lambda one: one.name):
            self.add(entry.name, self._item(entry), _package(entry))

    def _item(self, entry: EntryPoint) -> T:
        try:
            found = entry.load()
            item: T = self._check(found) if self._check else found
        except Exception as error:  # whatever the code of a plugin does
            raise PetechiaError(
                f"The {self.kind} {entry.name!r} of {_package(entry)} cannot be loaded ({first_line(error)}); "
                f"update or remove the package."
            ) from error
        return item


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module
