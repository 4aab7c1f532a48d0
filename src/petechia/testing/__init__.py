"""Conformance suites: what every trigger, data source, model, explanation method and detector must do.

They are plain functions that raise AssertionError with a sentence; any test runner will do. See docs/extending.md.
"""

from petechia.testing.detectors import check_calibration, check_detector, check_findings
from petechia.testing.explanations import check_explanation
from petechia.testing.models import check_classifier, check_opener
from petechia.testing.sources import check_catalog, check_source
from petechia.testing.triggers import check_trigger

__all__ = [
    "check_calibration",
    "check_catalog",
    "check_classifier",
    "check_detector",
    "check_explanation",
    "check_findings",
    "check_opener",
    "check_source",
    "check_trigger",
]
