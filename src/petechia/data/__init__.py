"""Radiographs in; one uint8 array and one label matrix out."""

from petechia.data.catalog import Catalog, Reader
from petechia.data.dataset import Dataset, Selection
from petechia.data.preparation import prepare
from petechia.data.preprocess import Preprocess
from petechia.data.sources.registry import open_source

__all__ = ["Catalog", "Dataset", "Preprocess", "Reader", "Selection", "open_source", "prepare"]
