"""The paper's metrics with controls and confidence intervals, and their summary over epochs and seeds."""

from petechia.measure.bootstrap import PatientBootstrap
from petechia.measure.count import Count
from petechia.measure.epoch import METRICS, THRESHOLDS, Measurement, Truth, measure
from petechia.measure.metrics import auroc, exceedance
from petechia.measure.mixtures import EPSILONS, Mixture, mixture
from petechia.measure.summary import summarize, summarize_mixtures

__all__ = [
    "EPSILONS",
    "METRICS",
    "THRESHOLDS",
    "Count",
    "Measurement",
    "Mixture",
    "PatientBootstrap",
    "Truth",
    "auroc",
    "exceedance",
    "measure",
    "mixture",
    "summarize",
    "summarize_mixtures",
]
