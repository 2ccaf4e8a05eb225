"""How is an array opened as Zarr? The one module that imports zarr-python."""

from pathlib import Path
from typing import Any

from featcache.storage.base import Folder
from featcache.storage.open import open_folder


def open_zarr(folder: Folder | Path) -> Any:
    """The array as a read-only zarr.Array.

    Args:
        folder: Folder of the array.
    """
    import zarr

    return zarr.open_array(store=open_folder(folder).zarr_store(), mode="r")
