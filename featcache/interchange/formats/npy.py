"""NumPy arrays in a file: the header is checked against what the file holds before anything is mapped or read."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from featcache.interchange.formats.files import check_stored, named_damage, plain_size

_UNREADABLE = "cannot be read as .npy (objects are never unpickled)"
_LONGEST_HEADER = 65_536
_LENGTH_BYTES = {1: 2, 2: 4}  # by major version; version 3 is for names of fields, and rows have none


@dataclass(frozen=True)
class NpyHeader:
    """What a .npy says of its array, checked."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int  # bytes before the values

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def map_npy(path: Path) -> np.ndarray:
    """The array of a .npy, mapped for reading; objects are never unpickled.

    Raises:
        DataInvalid: If it is no .npy, or holds less than it claims.
    """
    size = plain_size(path)
    with named_damage(path.name, _UNREADABLE):
        with path.open("rb") as file:
            header = read_header(file, size, path.name)
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, "F" if header.fortran else "C")


def read_header(file: BinaryIO | Any, size: int, where: str) -> NpyHeader:
    """Reads and checks the header at the beginning of a file or of a member of an archive.

    Args:
        file: At its beginning.
        size: Bytes that it holds.
        where: What errors call it.

    Raises:
        DataInvalid: If the header is none, or claims more than the file holds.
    """
    with named_damage(where, _UNREADABLE):
        head = file.read(8)
        width = _LENGTH_BYTES.get(head[6]) if len(head) == 8 and head[:6] == b"\x93NUMPY" else None
        if width is None:
            raise ValueError("it does not begin as one of version 1 or 2 does")
        length = file.read(width)
        count = int.from_bytes(length, "little")
        if count > _LONGEST_HEADER:
            raise ValueError(f"its header claims {count:,} bytes")
        content = head + length + file.read(count)
        buffer = io.BytesIO(content)
        version = np.lib.format.read_magic(buffer)
        read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(buffer)
        if dtype.hasobject:
            raise ValueError("it holds objects")
        if dtype.itemsize == 0 or any(type(length) is not int or length < 0 for length in shape):
            raise ValueError(f"shape {list(shape)} of {dtype} is none")
        header = NpyHeader(tuple(shape), dtype, fortran, len(content))
    if header.bytes > size - header.offset:
        check_stored(header.bytes, max(0, size - header.offset), where)
    return header
