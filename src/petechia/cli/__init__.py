"""The command line: a module a command, each of which parses, calls the Python API and prints."""

from petechia.cli.commands import app

__all__ = ["app"]
