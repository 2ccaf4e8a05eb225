"""Unfinished run folders: hidden until a run is whole, and cleared away where their training was killed."""

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featcache.storage.durable import sync_file, sync_folder
from featcache.storage.outputs import named_output_errors
from featcache.storage.plain import entries, is_file, is_folder, read_small_json
from featcache.storage.processes import Process, fate, this_process
from featcache.trainer.errors import RunExists
from featcache.trainer.run_files import write_manifest
from featcache.trainer.run_search import is_run

_OWNER, _MAKING, _REPLACED = ".owner", ".making", ".replaced"
_OURS = re.compile(r"(config|manifest)\.json|adapters\.safetensors|[a-z_]+\.parquet").fullmatch
_BEGINNING_SECONDS = 60.0  # in which an owner's file that is empty may still be written


@contextmanager
def unfinished_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A hidden folder beside `out` that takes its name, durably, when the block ends without an error.

    A file beside it says which process fills it, so that whoever trains next can tell whether it was killed.

    Raises:
        RunExists: If something else has come to stand in `out` meanwhile.
    """
    with named_output_errors(out), _owned_folder(out) as folder:
        yield folder
        write_manifest(folder)
        for path in folder.iterdir():
            path.chmod(0o666 & ~_umask())  # safetensors makes a file that only its owner reads
            with path.open("rb") as file:
                sync_file(file.fileno())
        sync_folder(folder)
        _put_in_place(folder, out, overwrite=overwrite)
        sync_folder(out.parent)


@contextmanager
def _owned_folder(out: Path) -> Iterator[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    owner = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}{_OWNER}"
    folder = owner.with_suffix(_MAKING)
    try:
        owner.write_text(json.dumps(this_process().to_json()), encoding="utf-8")
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        owner.unlink(missing_ok=True)


def _put_in_place(folder: Path, out: Path, *, overwrite: bool) -> None:
    # a folder cannot replace a folder that holds files: step the old one aside, then drop it
    aside = folder.with_suffix(_REPLACED)
    if overwrite and is_run(out):
        with suppress(FileNotFoundError):  # another training has just stepped it aside
            os.rename(out, aside)
    try:
        os.rename(folder, out)  # fails if another process has put something there since we looked
    except OSError as error:
        if out.exists():
            raise RunExists(f"something else came to stand in {out} meanwhile\n  Choose another folder") from error
        if aside.exists():
            os.rename(aside, out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def clear_unfinished(out: Path) -> None:
    """Removes what killed trainings of a run left beside it; puts back a run that one of them had stepped aside.

    What a training that may still run made stays, and so does what is not ours.
    """
    for token, words in _attempts(out).items():
        if words is not None:
            continue
        owner, making, aside = (out.parent / f".{out.name}.{token}{end}" for end in (_OWNER, _MAKING, _REPLACED))
        if aside.is_dir() and not out.exists():
            os.rename(aside, out)
        for folder in (making, aside):
            shutil.rmtree(folder, ignore_errors=True)
        if not making.exists() and not aside.exists():
            owner.unlink(missing_ok=True)


def unfinished(out: Path) -> dict[str, str]:
    """What trainings of a run left or make beside it: name of the file or folder -> who makes it, in words."""
    attempts = _attempts(out)
    left = "its training was killed; the next featcache train of this run removes it"
    return {name: attempts[token] or left for name, token in _beside(out).items()}


def _beside(out: Path) -> dict[str, str]:
    """Name -> token of what lies beside a run under its name and ours; no links."""
    ends = "|".join(re.escape(end) for end in (_OWNER, _MAKING, _REPLACED))
    named = re.compile(rf"\.{re.escape(out.name)}\.([0-9a-z_]{{8}})(?:{ends})")
    found = ((entry, named.fullmatch(entry.name)) for entry in entries(out.parent))
    return {
        entry.name: match[1]
        for entry, match in found
        if match and (is_file(entry) if entry.name.endswith(_OWNER) else is_folder(entry))
    }


def _attempts(out: Path) -> dict[str, str | None]:
    """Token of each training -> why what it made stays; None where it was killed."""
    return {token: _why_it_stays(out, token) for token in _beside(out).values()}


def _why_it_stays(out: Path, token: str) -> str | None:
    owner = out.parent / f".{out.name}.{token}{_OWNER}"
    folders = [owner.with_suffix(end) for end in (_MAKING, _REPLACED)]
    foreign = [each.name for folder in folders for each in entries(folder) if not (is_file(each) and _OURS(each.name))]
    if foreign:
        return f"it holds {foreign[0]}, which is not ours"
    try:
        process = Process.from_json(read_small_json(owner))
    except FileNotFoundError:
        return "it does not say whose it is, as of featcache 0.1; delete it by hand if nobody trains it"
    except (OSError, ValueError, AttributeError):
        with suppress(FileNotFoundError):
            if time.time() - owner.stat().st_mtime < _BEGINNING_SECONDS:
                return "a training that begins"
        return None
    if fate(process) in ("ended", "restarted"):
        return None
    return f"process {process.number} on {process.host} makes it"
