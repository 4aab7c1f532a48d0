"""The paper's metrics with their controls, intervals, and their summary over epochs and seeds."""

from petechia.measure.bootstrap import PatientBootstrap
from petechia.measure.epoch import METRICS, THRESHOLDS, Measurement, Truth, measure
from petechia.measure.metrics import auroc, exceedance
from petechia.measure.summary import summarize

__all__ = [
    "METRICS",
    "THRESHOLDS",
    "Measurement",
    "PatientBootstrap",
    "Truth",
    "auroc",
    "exceedance",
    "measure",
    "summarize",
]
