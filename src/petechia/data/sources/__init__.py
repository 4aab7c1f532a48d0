"""Data sources: each module opens one kind of dataset as a `Catalog`."""

from petechia.data.sources.registry import open_source, without_folders

__all__ = ["open_source", "without_folders"]
