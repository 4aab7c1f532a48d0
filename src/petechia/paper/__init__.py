"""Reproduction of the whole paper: its tables, figures and claims, on any data."""

from petechia.paper.page import Reproduction
from petechia.paper.parts import PARTS, Part
from petechia.paper.reproduction import reproduce

__all__ = ["PARTS", "Part", "Reproduction", "reproduce"]
