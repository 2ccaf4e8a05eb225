"""Files that the user asked for, such as tables and figures: whole or not at all, with an error of their own."""

import io
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.errors import OutputFailed
from featcache.storage.durable import TEMPORARY, sync_file, sync_folder
from featcache.storage.plain import entries, is_file
from featcache.storage.processes import is_over, process_mark, this_process

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


@contextmanager
def unfinished_output(path: Path) -> Iterator[Path]:
    """A hidden name beside a file, to write it under; nothing is left there when the block ends.

    What killed writers of the same file left there is removed first. The name says whose it is.
    """
    name = f".{os.fsencode(path.name)[:150].decode(errors='ignore')}.{TEMPORARY.strip('.')}"  # a name has 255 bytes
    left = re.compile(re.escape(name) + r"([0-9a-f]{8}-[0-9a-f]{8}-\d+-[0-9a-f]{8})-[0-9a-f]{8}", re.ASCII)
    for entry in entries(path.parent):
        match = left.fullmatch(entry.name)
        if match and is_file(entry) and is_over(match[1]):
            Path(entry).unlink(missing_ok=True)
    temporary = path.with_name(f"{name}{process_mark(this_process())}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, content: bytes) -> None:
    """Writes a file, its folder made if need be, in place of what may stand there; errors as `named_output_errors`."""
    with named_output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_output(path) as temporary, temporary.open("xb") as file:
            file.write(content)
            file.flush()
            sync_file(file.fileno())
            temporary.replace(path)
        sync_folder(path.parent)


def parquet_bytes(frame: "pl.DataFrame") -> bytes:
    """A table as Parquet, in memory: polars says of a full disk that the file is malformed."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
