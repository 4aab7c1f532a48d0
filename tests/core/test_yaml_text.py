from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from petechia.core.yaml_text import load_yaml, to_yaml


@pytest.mark.parametrize(
    "text",
    [
        "59:59",
        "190:20:30",
        "1_000",
        "yes",
        "no",
        "on",
        "Off",
        "y",
        "N",
        "2026-01-01",
        "2026-01-01 10:00:00",
        "0b11",
        "1_0.5",
        "=",
    ],
)
def test_words_are_what_they_look_like(text: str) -> None:
    assert load_yaml(text) == text
    assert yaml.safe_load(to_yaml(text)) == load_yaml(to_yaml(text)) == text  # version 0.1 reads what is written, too


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0o17", 15), ("017", 17), ("0x1F", 31), ("-5", -5), ("+5", 5), ("1e5", 1e5), ("1e-3", 1e-3), (".5", 0.5), ("1.", 1.0),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None), ("'no'", "no"), ("a: &x {b: 1}\nc: {<<: *x}",
        {"a": {"b": 1}, "c": {"b": 1}}), ("[1, a]", [1, "a"]),
    ],
)  # fmt: skip
def test_numbers_and_the_like_are_those_of_version_1_2(text: str, value: Any) -> None:
    found = load_yaml(text)
    assert found == value
    assert type(found) is type(value)
    assert math.isinf(load_yaml("-.inf"))


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="the key 'a' is given twice"):
        load_yaml("a: 1\nb: 2\na: 3")


LIKE_NUMBERS = st.from_regex(r"[-+0-9_:.eox]{1,6}")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.from_regex(r"[-+0-9_:.eox]{1,6}"),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_what_is_written_is_read_back_by_this_version_and_by_0_1(value: Any) -> None:
    text = to_yaml(value)
    assert load_yaml(text) == value
    assert yaml.safe_load(text) == value
