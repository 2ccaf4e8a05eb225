"""HDF5 files, opened by h5py; the one module that imports it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from featcache.data.errors import DataInvalid
from featcache.errors import LibraryMissing
from featcache.interchange.formats.files import check_stored, check_texts, named_damage, plain_size

_LARGEST_CHUNK = 2**30  # bytes, unpacked: HDF5 reads whole chunks
_LEAST_REFUSED = 64 * 2**20  # bytes of a chunk that is larger than the whole data set


def import_h5py() -> Any:
    """The module h5py, or a UsageError that says how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise LibraryMissing("HDF5 files need h5py. Run: pip install 'featcache[share]'") from error
    return h5py


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """A file opened for reading.

    Raises:
        UsageError: If h5py is not installed.
        DataInvalid: If it is no HDF5 file, or anything that is read of it while it is open is damaged.
    """
    h5py = import_h5py()
    plain_size(path)
    with named_damage(path.name, "cannot be read as HDF5"), h5py.File(path, "r") as opened:
        yield opened


def own_dataset(opened: Any, name: str, path: Path) -> Any:
    """A data set of an open file whose bytes lie in that file, all of them.

    Args:
        opened: From `open_hdf5`.
        name: Of the data set, at the top of the file.
        path: The file, for messages.

    Raises:
        KeyError: If there is nothing of that name.
        DataInvalid: If it is no data set, would read other files of this machine (a link, external storage, or a
            virtual data set), or claims more than is stored of it.
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
    _check_storage(dataset, f"{path.name}/{name}", plain_size(path))
    return dataset


def _check_storage(dataset: Any, where: str, file_size: int) -> None:
    """A fill value stands for what is not stored: terabytes, in a file of a kilobyte."""
    shape = dataset.shape
    if shape is None:
        raise DataInvalid(f"{where} holds no array")
    claimed, stored = math.prod(shape) * dataset.dtype.itemsize, min(dataset.id.get_storage_size(), file_size)
    if dataset.chunks is None:
        check_stored(claimed, stored, where)
        return
    chunks = math.prod(-(-length // width) for length, width in zip(shape, dataset.chunks, strict=True))
    there = dataset.id.get_num_chunks()
    if there < chunks:
        raise DataInvalid(
            f"{where} has {there:,} of its {chunks:,} chunks; a fill value would stand for the others. "
            "Have it written again with every value"
        )
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if size > _LARGEST_CHUNK or size > max(_LEAST_REFUSED, claimed):  # more than the data set itself would unpack to
        raise DataInvalid(f"{where} has chunks of {size:,} bytes. Have it written with chunks of some megabytes")
    check_stored(claimed, stored, where, packed=dataset.id.get_create_plist().get_nfilters() > 0)


def read_texts(opened: Any, names: Sequence[str], path: Path) -> dict[str, Any]:
    """Texts of data sets at the top of a file: an array of them, or one.

    Args:
        opened: From `open_hdf5`.
        names: Of data sets of variable-length text, stored contiguously as `featcache export` does.
        path: The file.

    Raises:
        KeyError: If there is nothing of one of the names.
        DataInvalid: As `own_dataset`, or if one holds something else.
        BeyondLimit: If they take more memory than the limit of tables.
    """
    datasets = {name: own_dataset(opened, name, path) for name in names}
    check_texts(sum(_text_bytes(dataset, f"{path.name}/{name}", path) for name, dataset in datasets.items()), path.name)
    return {name: dataset.asstr()[()] for name, dataset in datasets.items()}


def _text_bytes(dataset: Any, where: str, path: Path) -> int:
    """Bytes of all texts: many may be one on the heap, which h5py would copy for each."""
    h5py = import_h5py()
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is None or kind.length is not None or dataset.chunks is not None or dataset.ndim > 1:
        raise DataInvalid(f"{where} holds something else than one text a row, written as featcache export does")
    if not dataset.size:
        return 0
    # one descriptor a text: its length, and where it lies
    kind = np.dtype([("length", "<u4"), ("place", f"V{dataset.file.id.get_create_plist().get_sizes()[0] + 4}")])
    offset = dataset.id.get_offset()
    if offset is None:
        raise DataInvalid(f"{where} lies in the header of the data set, where featcache export writes none")
    descriptors = np.memmap(path, kind, "r", offset, (dataset.size,))
    return int(descriptors["length"].sum(dtype=np.uint64)) + 100 * dataset.size
