"""Conformance suites: what every trigger, data source, model, explanation method and detector must do."""
