"""The viewer: a run or a model, for a person who reads images."""

from petechia.serve.server import serve

__all__ = ["serve"]
