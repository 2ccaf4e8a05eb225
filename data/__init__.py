"""What is measured? Data sets as ordered views with ids, groups, splits and labels."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.data.catalogue import DATASETS, DatasetEntry
    from featcache.data.errors import DataError, DataInvalid, DataMissing, UnknownDataset
    from featcache.data.registry import open_dataset
    from featcache.data.views import Dataset, Overlay, View

__all__ = [
    "DATASETS",
    "DataError",
    "DataInvalid",
    "DataMissing",
    "Dataset",
    "DatasetEntry",
    "Overlay",
    "UnknownDataset",
    "View",
    "open_dataset",
]

_HOME = {name: "featcache.data.registry" for name in ("DATASETS", "DatasetEntry", "open_dataset")}
_HOME |= {name: "featcache.data.errors" for name in ("DataError", "DataInvalid", "DataMissing", "UnknownDataset")}
_HOME |= {name: "featcache.data.views" for name in ("Dataset", "Overlay", "View")}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import data` costs next to nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
