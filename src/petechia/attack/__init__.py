"""Triggers, poisoning plans, and the survival of triggers in preprocessing."""

from petechia.attack.poisoning import Poisoning, PoisonPlan
from petechia.attack.triggered import (
    Stamped,
    Survival,
    TriggeredInputs,
    TriggeredSelection,
    make_triggered_inputs,
    probe_survival,
    survival_of,
)
from petechia.attack.triggers import Fiba, Findings, Marker, Patch, Pattern, Sinusoid, Trigger, Warp

__all__ = [
    "Fiba",
    "Findings",
    "Marker",
    "Patch",
    "Pattern",
    "PoisonPlan",
    "Poisoning",
    "Sinusoid",
    "Stamped",
    "Survival",
    "Trigger",
    "TriggeredInputs",
    "TriggeredSelection",
    "Warp",
    "make_triggered_inputs",
    "probe_survival",
    "survival_of",
]
