"""The explanation methods that the viewer offers: those that answer at once."""

from __future__ import annotations

from typing import TypedDict

from petechia.saliency.registry import METHODS


class OfferedMethod(TypedDict):
    """A method: its name in `petechia.saliency.METHODS`, and its label on the page."""

    name: str
    label: str


def offered_methods() -> list[OfferedMethod]:
    """The methods to choose from, in the order of the list on the page."""
    return [{"name": name, "label": METHODS[name].label} for name in METHODS if METHODS[name].interactive]
