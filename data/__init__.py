"""Data sets as ordered views with ids, groups, splits and labels. Names are imported when first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.data.datasets import DATASETS, DatasetEntry
    from featcache.data.errors import DataError, DataInvalid, DataMissing, UnknownDataset
    from featcache.data.open import open_dataset
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

_MODULES = {
    "datasets": ("DATASETS", "DatasetEntry"),
    "errors": ("DataError", "DataInvalid", "DataMissing", "UnknownDataset"),
    "open": ("open_dataset",),
    "views": ("Dataset", "Overlay", "View"),
}
_HOMES = {name: f"featcache.data.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
