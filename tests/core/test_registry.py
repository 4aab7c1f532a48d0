"""Registries, with packages that are really installed: a folder on the path with the metadata that pip writes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from petechia.core.errors import PetechiaError, alternatives
from petechia.core.registry import Registry, _all_entry_points, deferred, exports

GROUP = "petechia.numbers"
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package of one module with entry points, as in install("pkg", "ONE = 1", one="pkg:ONE")."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(package: str, code: str, **entries: str) -> Path:
        (tmp_path / f"{package}.py").write_text(code)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        _all_entry_points.cache_clear()
        return tmp_path

    yield make
    _all_entry_points.cache_clear()


def registry(check: Callable[[str, object], object] | None = None) -> Registry[object]:
    found: Registry[object] = Registry("number", GROUP, check)
    found.add("zero", 0)
    return found


def test_what_is_added_is_found_and_what_is_not_is_explained() -> None:
    numbers = registry()
    assert numbers.register("one")(1) == 1
    assert dict(numbers) == {"zero": 0, "one": 1}
    assert (len(numbers), "one" in numbers, "two" in numbers, numbers.origin("one")) == (2, True, False, "petechia")
    assert (numbers.get("one"), numbers.get("two"), numbers.get("two", 2)) == (1, None, 2)
    with pytest.raises(PetechiaError, match="There is no number 'zer'; did you mean 'zero'"):
        numbers["zer"]
    with pytest.raises(PetechiaError, match=r"There is no number 'x\ufffdy'; there are zero, one\."):
        numbers["x\x1by"]
    with pytest.raises(PetechiaError, match="There is no number 'ninety'"):
        numbers.origin("ninety")
    numbers.add("one", 1)  # again
    with pytest.raises(PetechiaError, match="The number 'one' of mine has the name of one of petechia; rename it"):
        numbers.add("one", 11, "mine")


def test_a_package_adds_one_and_is_imported_when_it_is_asked_for(install: Install) -> None:
    marker = install("pkg_a", "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\nTWO = 2", two="pkg_a:TWO")
    numbers = registry()
    assert list(numbers) == ["zero", "two"]
    assert (numbers.origin("two"), numbers.if_loaded("two"), numbers.if_loaded("zero")) == ("pkg_a", None, 0)
    assert not (marker / "pkg_a.ran").exists()
    assert numbers["two"] == numbers.if_loaded("two") == 2
    assert (marker / "pkg_a.ran").exists()


def test_a_broken_package_disturbs_only_those_who_ask_for_it(install: Install) -> None:
    install("pkg_b", "raise RuntimeError('no licence\\nmore')", bad="pkg_b:BAD")
    install("pkg_c", "GOOD = 3", good="pkg_c:GOOD", gone="pkg_c:GONE")
    numbers = registry()
    assert (numbers["zero"], numbers["good"]) == (0, 3)
    for _ in range(2):  # it says so every time
        with pytest.raises(PetechiaError, match=r"The number 'bad' of pkg_b cannot be loaded \(no licence\); update or remove"):
            numbers["bad"]
    with pytest.raises(PetechiaError, match="The number 'gone' of pkg_c cannot be loaded"):
        numbers["gone"]


def test_two_packages_cannot_have_the_same_name(install: Install) -> None:
    install("pkg_d", "X = 1", zero="pkg_d:X", twin="pkg_d:X", fine="pkg_d:X")
    install("pkg_e", "X = 2", twin="pkg_e:X")
    numbers = registry()
    assert list(numbers) == ["zero", "fine", "twin"]
    assert numbers["fine"] == 1
    with pytest.raises(PetechiaError, match="The number 'zero' of pkg_d has the name of one of petechia; rename it, or remove"):
        numbers["zero"]  # ours is not replaced in silence
    with pytest.raises(PetechiaError, match="The number 'twin' of pkg_e has the name of one of pkg_d"):
        numbers["twin"]


def test_what_does_not_fit_is_refused(install: Install) -> None:
    install("pkg_f", "X = 'text'\nY = 7", text="pkg_f:X", seven="pkg_f:Y")

    def check(name: str, found: object) -> object:
        if not isinstance(found, int):
            raise TypeError(f"{name} is no number")
        return found + 100

    numbers = registry(check)
    assert numbers["seven"] == 107
    with pytest.raises(PetechiaError, match=r"The number 'text' of pkg_f cannot be loaded \(text is no number\)"):
        numbers["text"]


def test_things_can_be_added_for_a_while() -> None:
    def check(name: str, found: object) -> object:
        if found is None:
            raise TypeError(f"{name} is nothing")
        return found

    numbers = registry(check)
    with numbers.temporarily({"six": 6}):
        assert (numbers["six"], numbers.origin("six")) == (6, "a test")
    assert list(numbers) == ["zero"]
    with pytest.raises(PetechiaError, match="has the name of one of petechia"), numbers.temporarily({"zero": 5}):
        pass
    with pytest.raises(TypeError, match="six is nothing"), numbers.temporarily({"six": None}):
        pass
    assert dict(numbers) == {"zero": 0}


def test_functions_and_exports_are_imported_when_they_are_used(install: Install) -> None:
    root = install("pkg_g", "def twice(x, *, plus=0):\n    return 2 * x + plus")
    twice = deferred("pkg_g:twice")
    assert twice(4, plus=1) == 9
    (root / "pkg_h").mkdir()
    (root / "pkg_h" / "__init__.py").write_text("")
    (root / "pkg_h" / "home.py").write_text("thing = 5")
    get = exports("pkg_h", {"thing": "home"})
    assert get("thing") == 5
    with pytest.raises(AttributeError, match="module 'pkg_h' has no attribute 'other'"):
        get("other")


def test_names_to_choose_from() -> None:
    assert [alternatives(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
