"""Files that the user asked for, such as tables and figures: whole or not at all, with an error of their own."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.errors import OutputFailed
from featcache.storage.durable import replace

if TYPE_CHECKING:
    import polars as pl


@contextmanager
def named_output_errors(path: Path) -> Iterator[None]:
    """Turns the system's errors of writing into one that names the file and says what to do.

    Args:
        path: What is being written: a file or a folder.

    Raises:
        OutputFailed: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error.strerror or str(error)
        raise OutputFailed(f"cannot write {path}: {why}\n  Free space there, or name another place") from error


def write_output(path: Path, content: bytes) -> None:
    """Writes a file, its folder made if need be, in place of what may stand there; errors as `named_output_errors`."""
    with named_output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content)


def parquet_bytes(frame: "pl.DataFrame") -> bytes:
    """A table as Parquet, in memory: polars says of a full disk that the file is malformed."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
