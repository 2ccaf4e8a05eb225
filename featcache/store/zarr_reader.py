"""Arrays opened by zarr-python; the one module that imports it."""

from pathlib import Path
from typing import Any

from featcache.storage.base import Folder
from featcache.storage.open import open_folder


def open_zarr(folder: Folder | Path) -> Any:
    """The array in a folder as a read-only zarr.Array."""
    import zarr

    return zarr.open_array(store=open_folder(folder).zarr_store(), mode="r")
