"""HDF5 files, opened by h5py; the one module that imports it."""

from pathlib import Path
from typing import Any

from featcache.data.errors import DataInvalid
from featcache.errors import UsageError


def import_h5py() -> Any:
    """The module h5py, or a UsageError that says how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise UsageError("HDF5 files need h5py. Run: pip install 'featcache[share]'") from error
    return h5py


def open_hdf5(path: Path) -> Any:
    """A file opened for reading; a context manager.

    Raises:
        UsageError: If h5py is not installed.
        DataInvalid: If it is no HDF5 file.
    """
    h5py = import_h5py()
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataInvalid(f"{path.name} cannot be read as HDF5: {error}") from error
