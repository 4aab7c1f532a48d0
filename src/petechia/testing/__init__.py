"""Conformance suites: what every trigger, data source, model, explanation method and detector must do.

They are plain functions that raise AssertionError with a sentence; any test runner will do.
"""

from petechia.testing.triggers import check_trigger

__all__ = ["check_trigger"]
