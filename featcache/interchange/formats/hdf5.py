"""HDF5 files, opened by h5py; the one module that imports it."""

from pathlib import Path
from typing import Any

from featcache.data.errors import DataInvalid
from featcache.errors import LibraryMissing


def import_h5py() -> Any:
    """The module h5py, or a UsageError that says how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise LibraryMissing("HDF5 files need h5py. Run: pip install 'featcache[share]'") from error
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


def own_dataset(opened: Any, name: str, path: Path) -> Any:
    """A data set of an open file whose bytes lie in that file.

    Args:
        opened: From `open_hdf5`.
        name: Of the data set, at the top of the file.
        path: The file, for messages.

    Raises:
        KeyError: If there is nothing of that name.
        DataInvalid: If it is no data set, or would read other files of this machine: a link, external storage, or a
            virtual data set.
    """
    h5py = import_h5py()
    link = opened.get(name, getlink=True)
    if link is None:
        raise KeyError(name)
    elsewhere = "a link" if not isinstance(link, h5py.HardLink) else None
    dataset = None if elsewhere else opened[name]
    if dataset is not None and not isinstance(dataset, h5py.Dataset):
        raise DataInvalid(f"{path.name}/{name} is no data set")
    if dataset is not None and dataset.external:
        elsewhere = "external storage"
    if dataset is not None and dataset.is_virtual:
        elsewhere = "a virtual data set"
    if elsewhere is not None:
        raise DataInvalid(
            f"{path.name}/{name} is {elsewhere}, which can read any file of this machine; it was not followed\n"
            "  Ask whoever made it for a file that holds its own values (h5repack writes one)"
        )
    return dataset
