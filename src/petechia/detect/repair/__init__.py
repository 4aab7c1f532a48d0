"""Remove a backdoor from a model, with clean images."""

from petechia.detect.repair.clean import CleanSet, read_clean
from petechia.detect.repair.known_change import KnownChange
from petechia.detect.repair.known_trigger import Known, KnownTrigger, parse_trigger, read_triggers, triggers_of
from petechia.detect.repair.methods import Repairing, repair
from petechia.detect.repair.outcome import RepairOutcome, measure
from petechia.detect.repair.result import RepairResult

__all__ = [
    "CleanSet",
    "Known",
    "KnownChange",
    "KnownTrigger",
    "RepairOutcome",
    "RepairResult",
    "Repairing",
    "measure",
    "parse_trigger",
    "read_clean",
    "read_triggers",
    "repair",
    "triggers_of",
]
