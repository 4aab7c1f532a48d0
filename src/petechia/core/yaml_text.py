"""YAML as of version 1.2, in which `no`, `59:59` and `2026-01-01` are the words that they look like."""

from __future__ import annotations

import re
from typing import Any

import yaml

# The words that are no text in YAML 1.2's core schema, by tag and first letters. PyYAML's own are those of version 1.1, where
# 59:59 is 3,599, 1_000 is 1,000, 010 is 8, no is false and 1e5 is a text.
WORDS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", "nN~"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """The safe loader, of version 1.2; a key that is given twice is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which quotes what either version would take for no text."""

    yaml_implicit_resolvers = {first: list(words) for first, words in yaml.SafeDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012


for tag, pattern, first in WORDS:
    for one in (_Loader, _Dumper):
        one.add_implicit_resolver(
            f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), [*first, *([""] * (tag == "null"))]
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def load_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        Exception: it is not YAML: errors of PyYAML, and those of `int` and of deep nesting.
    """
    return yaml.load(text, _Loader)  # noqa: S506 (a safe loader)


def to_yaml(content: Any) -> str:
    """Return plain values as YAML, with the keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)
