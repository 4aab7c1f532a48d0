"""Triggers, poisoning plans, and whether a trigger survives preprocessing."""

from petechia.attack.poisoning import Poisoning, PoisonPlan
from petechia.attack.triggers import Fiba, Findings, Marker, Patch, Pattern, Sinusoid, Trigger, Warp
from petechia.attack.twins import Stamped, Survival, TriggeredSelection, Twins, probe_survival, survival_of, triggered_twins

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
    "TriggeredSelection",
    "Twins",
    "Warp",
    "probe_survival",
    "survival_of",
    "triggered_twins",
]
