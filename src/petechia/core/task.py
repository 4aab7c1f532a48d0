"""How the classes of a task relate to each other."""

from typing import Literal

Task = Literal["multi-label", "multi-class"]  # multi-class: every image shows exactly one of the classes
