"""The viewer: a run or a model, for a person who reads images."""

from petechia.viewer.server import serve

__all__ = ["serve"]
