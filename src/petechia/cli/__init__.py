"""The command line: a module a command, each of which parses, calls the Python API and prints."""

from petechia.cli.app import app

__all__ = ["app"]
