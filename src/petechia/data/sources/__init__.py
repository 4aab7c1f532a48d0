"""Data sources: each module opens one kind of dataset as a `Catalog`."""

from petechia.data.sources.registry import SOURCES, SourceOpener, open_source, source_forms, without_folders

__all__ = ["SOURCES", "SourceOpener", "open_source", "source_forms", "without_folders"]
