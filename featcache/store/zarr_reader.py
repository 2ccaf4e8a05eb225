"""Arrays opened by zarr-python; the one module that imports it."""

from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import Damaged
from featcache.storage.base import Folder
from featcache.storage.open import open_folder
from featcache.store.records import Complete

# what zarr-python and its codecs raise at metadata or chunks that make no sense
_NO_SENSE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def open_zarr(folder: Folder | Path, complete: Complete | None = None) -> Any:
    """The array in a folder as a read-only zarr.Array.

    Args:
        folder: The array's folder.
        complete: The records that it must agree with before a chunk of it is decoded.

    Raises:
        Damaged: If zarr.json cannot be understood, or says another shape, chunk or type than the records.
    """
    import zarr

    folder = open_folder(folder)
    try:
        array: Any = zarr.open_array(store=folder.zarr_store(), mode="r")
        stated = array.shape, array.chunks, np.dtype(array.dtype)
    except _NO_SENSE as error:
        raise Damaged(f"{folder}/zarr.json was changed: {error}. Run: featcache verify") from error
    if complete is not None:
        layout = complete.layout
        expected = (layout.n, complete.d), (layout.chunk_rows, complete.d), np.dtype(complete.dtype)
        if stated[0] != expected[0] or stated[2] != expected[2]:
            raise Damaged(
                f"{folder}/zarr.json was changed: {stated[2]} {list(stated[0])}, recorded {expected[2]} "
                f"{list(expected[0])}. Run: featcache verify"
            )
    return array


def read_zarr(array: Any, start: int, stop: int, where: str) -> np.ndarray:
    """Rows start to stop of an array from `open_zarr`; Damaged if they cannot be decoded."""
    try:
        return np.asarray(array[start:stop])
    except _NO_SENSE as error:
        raise Damaged(f"{where} cannot be decoded: {error}. Run: featcache verify") from error
