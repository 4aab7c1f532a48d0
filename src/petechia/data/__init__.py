"""Radiographs in; one uint8 array and one label matrix out."""

from typing import TYPE_CHECKING

from petechia.core.registry import exports

if TYPE_CHECKING:
    from petechia.data.catalog import Catalog, Reader
    from petechia.data.dataset import Dataset, Selection
    from petechia.data.preparation import prepare
    from petechia.data.preprocess import Preprocess
    from petechia.data.sources.registry import open_source

__all__ = ["Catalog", "Dataset", "Preprocess", "Reader", "Selection", "open_source", "prepare"]

# Imported when they are used: the command line's help needs `petechia.data.sources` alone, and must not wait for polars.
__getattr__ = exports(
    __name__,
    {
        **{"Catalog": "catalog", "Reader": "catalog", "Dataset": "dataset", "Selection": "dataset"},
        **{"Preprocess": "preprocess", "prepare": "preparation", "open_source": "sources.registry"},
    },
)
