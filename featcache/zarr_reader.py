"""How is an array opened as Zarr? The one module that imports zarr-python."""

from pathlib import Path
from typing import Any


def open_zarr(path: Path) -> Any:
    """The array as a read-only zarr.Array.

    Args:
        path: Folder of the array.
    """
    import zarr

    return zarr.open_array(store=str(path), mode="r")
