"""Petechia mounts, measures, explains and catches backdoor attacks on medical-imaging classifiers."""

__version__ = "0.1.0"
