"""Triggers: what is stamped on an image, one small module a kind. `Trigger` is any of them, told apart by `kind`."""

from petechia.attack.triggers.base import BaseTrigger, Brush
from petechia.attack.triggers.fiba import Fiba
from petechia.attack.triggers.findings import Findings
from petechia.attack.triggers.marker import Marker
from petechia.attack.triggers.patch import Patch
from petechia.attack.triggers.pattern import Pattern
from petechia.attack.triggers.registry import TRIGGERS, Trigger
from petechia.attack.triggers.sinusoid import Sinusoid
from petechia.attack.triggers.warp import Warp

__all__ = [
    "TRIGGERS",
    "BaseTrigger",
    "Brush",
    "Fiba",
    "Findings",
    "Marker",
    "Patch",
    "Pattern",
    "Sinusoid",
    "Trigger",
    "Warp",
]
