"""The published JSON Schemas are those of the results."""

import importlib.util
import json
from typing import Any

import pytest

from tests.docs.pages import ROOT


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("schemas", ROOT / "docs" / "schemas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


@pytest.mark.parametrize("name", SCRIPT.schemas())
def test_the_published_schema_is_up_to_date(name: str) -> None:
    published = (ROOT / "docs" / "schemas" / name).read_text(encoding="utf-8")
    assert json.loads(published) == json.loads(SCRIPT.schemas()[name]), "run: python docs/schemas.py"


def test_every_result_has_a_schema_and_is_on_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
    for name, model in SCRIPT.RESULTS.items():
        assert f"../schemas/{name}.schema.json" in page
        assert f"`{model.__module__.rpartition('.')[0]}" in page or f"`{model.__module__}.{model.__name__}`" in page
        assert "schema" in json.loads(SCRIPT.schemas()[f"{name}.schema.json"])["properties"]
    assert {path.name for path in (ROOT / "docs" / "schemas").iterdir()} == set(SCRIPT.schemas())
