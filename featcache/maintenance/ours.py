"""What in a cache's folder is featcache's own: by its exact name, its place and its content, never through a link."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from featcache.errors import FeatcacheError
from featcache.storage.base import ASIDE_FILE, DOOMED_FOLDER, HEX, KEPT, KEPT_FILE, LOCK_FOLDER, TEMPORARY_FILE
from featcache.storage.local import LocalFolder
from featcache.storage.plain import entries, is_file, is_folder, read_small_json
from featcache.store.current import CURRENT, read_current
from featcache.store.leases import CLAIMS
from featcache.store.records import record_name

_ROOT, _DATASET, _VIEW, _LAYER, _ARRAY, _COMMITS = 0, 1, 2, 4, 5, 6  # levels below the cache's folder
_WRITTEN = (_ROOT, _DATASET, _VIEW, _ARRAY, _COMMITS)

# name -> what it is, and the levels at which writers make it
_FILES = (
    (TEMPORARY_FILE, "temporary file", _WRITTEN),
    (ASIDE_FILE, "set aside as damaged", (_ARRAY, _COMMITS)),
    (rf"\.featcache-probe-{HEX}", "probe of a doctor that died", (_ROOT,)),
)
_FOLDERS = (
    (LOCK_FOLDER, "lock of a writer that died", _WRITTEN),
    (DOOMED_FOLDER, "removal that was interrupted", (_ROOT, _LAYER)),
    (rf"\.repair-{HEX}", "repair that was interrupted", (_ROOT,)),
)
_NOTE = r"\.tmp-\d+-[0-9a-f]{16}"  # store/checked.py: each process has a name of its own
_TABLE = re.compile(rf"rows-{HEX}\.(parquet|json)|overlay-{HEX}\.parquet")
_OURS = re.compile(
    rf"[a-zA-Z]+\.json|c\.\d+\.0|\d+\.json|{_TABLE.pattern}|{HEX}|clock-{HEX}|[0-9a-f]{{16}}|\.featcache"
    rf"|{TEMPORARY_FILE}|{_NOTE}|{ASIDE_FILE}|{KEPT_FILE}",
    re.ASCII,
)


def hidden_leftovers(root: Path) -> Iterator[tuple[Path, str]]:
    """(path, what it is) of every temporary file, lock, file set aside and folder under removal or repair."""
    yield from _level(root, _ROOT)
    for below in ("cards", "pins", "joined"):
        yield from _named(root / ".encoders" / below, _ARRAY)
    for entry in entries(root / ".verified"):
        if is_file(entry) and re.fullmatch(_NOTE, entry.name):
            yield Path(entry), "temporary file"


def _level(folder: Path, level: int) -> Iterator[tuple[Path, str]]:
    yield from _named(folder, level)
    for entry in entries(folder):
        hidden = entry.name.startswith(".") or not is_folder(entry)
        is_array, is_commits = bool(re.fullmatch(HEX, entry.name)), entry.name == "commits"
        if hidden or (level == _LAYER and not is_array) or (level == _ARRAY and not is_commits) or level == _COMMITS:
            continue
        if is_array and level == _LAYER and _is_empty(Path(entry)):
            yield Path(entry), "folder of an array that was not begun"
        yield from _level(Path(entry), level + 1)


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, or folders that hold nothing."""
    return all(is_folder(entry) and _is_empty(Path(entry)) for entry in entries(folder))


def _named(folder: Path, level: int) -> Iterator[tuple[Path, str]]:
    for entry in entries(folder):
        if level == _ARRAY and is_file(entry) and _is_kept_in_vain(Path(entry)):
            yield Path(entry), "rows of an interrupted extraction, committed since"
        names = _FILES if is_file(entry) else _FOLDERS if is_folder(entry) else ()
        for pattern, what, levels in names:
            if level in levels and re.fullmatch(pattern, entry.name, re.ASCII):
                yield Path(entry), what


def _is_kept_in_vain(path: Path) -> bool:
    """Whether a file is a side file of ours, whose chunk was committed since; else the next extraction can use it."""
    chunk = path.name.removeprefix(KEPT)
    if not re.fullmatch(KEPT_FILE, path.name) or not (path.parent / record_name(int(chunk))).is_file():
        return False
    begins = f'{{"chunk":{chunk},"digest":"{path.parent.name}",'.encode()  # its header, as store/side_file.py writes it
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(begins)) == begins
    return False


def claims(leases: Path) -> Iterator[tuple[Path, str]]:
    """(file, name of the lease that it names) of every claim of a chunk; "" where it names none."""
    for job in entries(leases / CLAIMS):
        for entry in entries(Path(job)) if re.fullmatch(HEX, job.name) else ():
            if is_file(entry) and re.fullmatch(r"\d+", entry.name, re.ASCII):
                with suppress(OSError):
                    yield Path(entry), _lease_of(Path(entry))


def _lease_of(claim: Path) -> str:
    try:
        value = read_small_json(claim)
    except ValueError:
        return ""
    return str(value.get("lease", "")) if isinstance(value, dict) else ""


def tables(folder: Path) -> list[Path]:
    """Row tables, pointers, overlays and records of current rows that lie in the folder of a view or data set."""
    return [Path(entry) for entry in entries(folder) if is_file(entry) and _is_table(Path(entry))]


def _is_table(path: Path) -> bool:
    """Whether a file has the name and the form of a table of ours."""
    if path.name == CURRENT:
        try:
            return read_current(LocalFolder(path.parent)) is not None
        except FeatcacheError:
            return False
    if not _TABLE.fullmatch(path.name):
        return False
    if path.suffix == ".json":
        try:
            value = read_small_json(path)
        except (OSError, ValueError):
            return False
        overlay = value.get("overlay") if isinstance(value, dict) else None
        return isinstance(overlay, str) and bool(re.fullmatch(r"[0-9a-f]{32,64}", overlay))
    import polars as pl

    try:
        columns = list(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return False
    if path.name.startswith("rows-"):
        return columns == ["id", "group", "source"]
    return columns[:2] == ["group", "split"] and all(name.startswith("label.") for name in columns[2:])


def foreign_in(folder: Path) -> str | None:
    """A file below a folder that is not ours by its name, or a link; None if there is none.

    The cards of encoders are ours whatever they are called.
    """
    for entry in entries(folder):
        below = f"{entry.name}/"
        if is_folder(entry):
            inner = None if entry.name == ".encoders" else foreign_in(Path(entry))
            if inner is not None:
                return below + inner
        elif not is_file(entry) or not _OURS.fullmatch(entry.name):
            return entry.name
    return None


def is_through_link(root: Path, path: Path) -> bool:
    """Whether a folder on the way from a cache's folder to a path, or the path itself, is a link."""
    steps = path.relative_to(root).parts
    return any(os.path.islink(root.joinpath(*steps[: count + 1])) for count in range(len(steps)))
