"""The viewer: look at a run or a model and read images with it, in the browser."""

from petechia.viewer.server import serve

__all__ = ["serve"]
