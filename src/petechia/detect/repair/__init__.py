"""Take a backdoor out of a model, with clean images."""

from petechia.detect.repair.clean import CleanSet, read_clean
from petechia.detect.repair.methods import Repairing, repair
from petechia.detect.repair.outcome import Outcome, measure
from petechia.detect.repair.stamp import Stamp, read_stamps

__all__ = ["CleanSet", "Outcome", "Repairing", "Stamp", "measure", "read_clean", "read_stamps", "repair"]
