"""Files of an import: opened only where they are plain, believed only as far as they hold what they claim."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featcache.data.errors import DataError, DataInvalid
from featcache.errors import FeatcacheError
from featcache.limits import check_limit

_MOST_RATIO = 1000  # bytes that one stored byte may unpack to; deflate reaches 1,032 with zeros alone, features 10
_ADVICE = "\n  Get the file again, or have it written again"


def plain_size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        DataInvalid: If it is a folder, a pipe or a device, itself or through a link: nothing of it is opened.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataInvalid(f"{path.name} cannot be read: {os.strerror(error.errno or 0)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataInvalid(f"{path.name} is a folder, a pipe or a device; it was not opened. Name a file")
    return status.st_size


@contextmanager
def named_damage(where: str, what: str) -> Iterator[None]:
    """Makes whatever a library raises over a file an error that names it; errors of ours pass as they are.

    Libraries that parse raise nearly anything on a file that is cut or made up (SyntaxError, KeyError, MemoryError, a
    panic of polars, which is no Exception), so nothing is listed here.

    Args:
        where: The file, or the part of it.
        what: What is wrong with it then, as in "cannot be read as HDF5".

    Raises:
        DataInvalid: If anything in the block fails.
    """
    try:
        yield
    except (DataError, FeatcacheError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataInvalid(f"{where} {what}: {_reason(error)}{_ADVICE}") from error


def _reason(error: BaseException) -> str:
    """The first line of what a library says."""
    if isinstance(error, KeyError) and len(str(error).split()) == 1:
        return f"it lacks {error}"
    if isinstance(error, MemoryError):
        return "it claims more than fits into memory"
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__


def check_stored(claimed: int, stored: int, where: str, *, packed: bool = False) -> None:
    """Refuses a matrix or a column that claims more bytes than are stored of it.

    Args:
        claimed: Bytes that it has in memory.
        stored: Bytes of it in the file.
        where: What errors call it.
        packed: It is stored compressed.

    Raises:
        DataInvalid: If so few stored bytes cannot hold it.
    """
    if claimed > stored * (_MOST_RATIO if packed else 1):
        raise DataInvalid(
            f"{where} claims {claimed:,} bytes, and the file holds {stored:,} of them: the rest would be made up. "
            "Have it written again with every value"
        )


def check_texts(size: int, where: str) -> None:
    """Refuses ids, groups and labels that take more memory than the limit; BeyondLimit says how to raise it."""
    check_limit("table", size, where)
