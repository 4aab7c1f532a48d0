"""Triggers, poisoning plans, and whether a trigger survives preprocessing."""

from petechia.attack.poisoning import Poisoning, PoisonPlan
from petechia.attack.trigger import Patch, Trigger
from petechia.attack.twins import Survival, TriggeredSelection, Twins, probe_survival, triggered_twins

__all__ = [
    "Patch",
    "PoisonPlan",
    "Poisoning",
    "Survival",
    "Trigger",
    "TriggeredSelection",
    "Twins",
    "probe_survival",
    "triggered_twins",
]
