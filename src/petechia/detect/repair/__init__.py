"""Take a backdoor out of a model, with clean images."""

from petechia.detect.repair.clean import CleanSet, read_clean
from petechia.detect.repair.known_trigger import Stamp, read_stamps
from petechia.detect.repair.methods import Repairing, repair
from petechia.detect.repair.outcome import RepairOutcome, measure

__all__ = ["CleanSet", "RepairOutcome", "Repairing", "Stamp", "measure", "read_clean", "read_stamps", "repair"]
