"""Named things of one kind: those that Petechia has, and those that installed packages add through an entry point."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar, cast

from petechia.core.errors import PetechiaError, first_line, printable

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things of one kind.

    A package adds one with an entry point, in its pyproject.toml:

        [project.entry-points."petechia.triggers"]
        ring = "my_package.ring:Ring"

    Its name is known at once, from the package's metadata; its code is imported when it is first looked up. So a package that
    is broken disturbs only those who ask for what it adds. See docs/extending.md.

    Args:
        kind: of the things, for messages: "trigger".
        group: of entry points: "petechia.triggers".
        check: gets the name and the loaded object, and returns it as the registry keeps it; raises TypeError or ValueError
            where it does not fit.

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

    def __init__(self, kind: str, group: str, check: Callable[[str, object], T] | None = None) -> None:
        self.kind = kind
        self.group = group
        self._check = check
        self._origins: dict[str, str] = {}  # every name → its package, in the order of the registry
        self._loaded: dict[str, T] = {}
        self._entries: dict[str, EntryPoint] = {}  # of other packages, until they are loaded
        self._clashes: dict[str, PetechiaError] = {}
        self._discovered = False

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
        if name in self._origins and self._loaded.get(name) is not item:
            raise self._clash(name, origin)
        self._loaded[name] = item
        self._origins[name] = origin

    @contextmanager
    def temporarily(self, items: Mapping[str, object], origin: str = "a test") -> Iterator[None]:
        """Add things within a `with` block, as if a package did: for tests of what is not installed.

        Raises:
            PetechiaError: a name is taken.
            TypeError, ValueError: a thing does not fit.
        """
        self._discover()
        for name, item in items.items():
            self.add(name, self._check(name, item) if self._check else cast("T", item), origin)
        try:
            yield
        finally:
            for name in items:
                del self._loaded[name], self._origins[name]

    def origin(self, name: str) -> str:
        """The package that a thing comes from.

        Raises:
            PetechiaError: there is none of that name.
        """
        self._discover()
        if name not in self._origins:
            raise self._unknown(name)
        return self._origins[name]

    def if_loaded(self, name: str) -> T | None:
        """The thing, if no other package has to be imported for it; else None."""
        return self._loaded.get(name)

    def __getitem__(self, name: str) -> T:
        """Look a thing up; the package that adds it is imported.

        Raises:
            PetechiaError: there is none of that name (a near name is offered), two packages give it, or it cannot be loaded.
        """
        self._discover()
        if name in self._clashes:
            raise self._clashes[name]
        if name not in self._origins:
            raise self._unknown(name)
        if name not in self._loaded:
            self._loaded[name] = self._load(self._entries[name])
        return self._loaded[name]

    def get(self, name: str, default: Any = None, /) -> Any:
        """Look a thing up; the default where there is none of that name.

        Raises:
            PetechiaError: two packages give it, or it cannot be loaded.
        """
        if name not in self:
            return default
        return self[name]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._origins

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(self._origins)

    def __len__(self) -> int:
        self._discover()
        return len(self._origins)

    def _discover(self) -> None:
        """Learn the names that other packages add; nothing is imported."""
        if self._discovered:
            return
        self._discovered = True
        for entry in sorted(_all_entry_points().select(group=self.group), key=lambda one: (one.name, _package(one))):
            if entry.name in self._origins:
                self._clashes[entry.name] = self._clash(entry.name, _package(entry))
            else:
                self._origins[entry.name] = _package(entry)
                self._entries[entry.name] = entry

    def _load(self, entry: EntryPoint) -> T:
        try:
            found = entry.load()
            item: T = self._check(entry.name, found) if self._check else found
        except Exception as error:  # whatever the code of a plugin does
            raise PetechiaError(
                f"The {self.kind} {entry.name!r} of {_package(entry)} cannot be loaded ({first_line(error)}); "
                f"update or remove the package."
            ) from error
        return item

    def _clash(self, name: str, origin: str) -> PetechiaError:
        return PetechiaError(
            f"The {self.kind} {name!r} of {origin} has the name of one of {self._origins[name]}; "
            f"rename it, or remove one of the packages."
        )

    def _unknown(self, name: str) -> PetechiaError:
        near = difflib.get_close_matches(name, self._origins, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._origins)}."
        return PetechiaError(f"There is no {self.kind} {printable(name)!r}; {hint}")


def deferred(name: str) -> Callable[..., Any]:
    """A function of a module that is imported when the function is called: `--help` must not wait for torch.

    Args:
        name: "module:function".
    """

    def call(*arguments: Any, **options: Any) -> Any:
        return resolve_name(name)(*arguments, **options)

    return call


def exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are imported when they are first used.

    Args:
        package: its `__name__`.
        homes: name → the module below the package that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return resolve_name(f"{package}.{homes[name]}:{name}")

    return get


@cache  # reading the metadata of all installed packages takes tens of milliseconds
def _all_entry_points() -> Any:  # EntryPoints; before Python 3.12 another class that has `select` too
    return entry_points()


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module
