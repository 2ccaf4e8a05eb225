"""What lies in a folder of caches, runs and files, in a form that equals if and only if it is worth the same."""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# who wrote a file, and when: no two runs have the same
VOLATILE = {"writer", "created", "started", "written", "provenance", "seconds"}
# hidden names that are part of a cache; every other one is litter
KEPT_HIDDEN = {".featcache", ".verified", ".encoders", ".leases"}


def contents(folder: Path, only: str = "*") -> dict[str, str]:
    """Path -> hash of every file below a folder that is not hidden and fits the glob; JSON without `VOLATILE`."""
    files = {}
    for path in sorted(folder.rglob(only)):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            files[inside.as_posix()] = hashlib.sha256(_worth(path)).hexdigest()
    return files


def litter(folder: Path) -> list[str]:
    """Hidden names that a cleaned folder does not have, and leases: nobody works there any more."""
    hidden = [path for path in folder.rglob(".*") if path.name not in KEPT_HIDDEN]
    leases = [path for path in folder.rglob(".leases/**/*") if path.is_file()]
    arriving = list(folder.rglob("ARRIVING.json"))
    return sorted({path.relative_to(folder).as_posix() for path in [*hidden, *leases, *arriving]})


def committed(folder: Path) -> dict[str, str]:
    """Path -> hash of the chunks that have a record, and of everything in arrays that are complete."""
    files = contents(folder)

    def counts(path: str) -> bool:
        array, _, name = path.rpartition("/")
        record = f"{array}/commits/{name.split('.')[1]}.json" if name.startswith("c.") else ""
        return f"{array.removesuffix('/commits')}/COMPLETE.json" in files or record in files

    return {path: value for path, value in files.items() if counts(path)}


def complete_arrays(folder: Path) -> dict[str, dict[str, str]]:
    """Digest of each complete array, wherever it lies below a folder -> its chunks' names and hashes."""
    arrays: dict[str, dict[str, str]] = {}
    for path in folder.rglob("COMPLETE.json"):
        chunks = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.glob("c.*")}
        arrays[path.parent.name] = chunks
    return arrays


def differences(wanted: dict[str, str], there: dict[str, str]) -> list[str]:
    """What differs, a few words each."""
    missing = [f"{path} is missing" for path in wanted if path not in there]
    more = [f"{path} should not be there" for path in there if path not in wanted]
    other = [f"{path} differs" for path in wanted if path in there and there[path] != wanted[path]]
    return [*missing, *more, *other]


def _worth(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        return _without_volatile(path, content)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, zipfile.BadZipFile):
        return content  # damaged


def _without_volatile(path: Path, content: bytes) -> bytes:
    if path.name == "manifest.json":  # holds the hash of config.json, which holds a time
        value = json.loads(content)
        value["blake3"].pop("config.json", None)
        return json.dumps(value, sort_keys=True).encode()
    if path.name == "key.json":  # its hash is of its provenance, too
        value = json.loads(content)
        value.pop("blake3", None)
        return json.dumps(_lasting(value), sort_keys=True).encode()
    if path.suffix == ".json":
        return json.dumps(_lasting(json.loads(content)), sort_keys=True).encode()
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as file:
            return b"".join(name.encode() + file.read(name) for name in sorted(file.namelist()))
    if path.suffix == ".h5":
        return b"".join(_datasets(path))
    return content


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(inner) for name, inner in value.items() if name not in VOLATILE}
    return [_lasting(inner) for inner in value] if isinstance(value, list) else value


def _datasets(path: Path) -> Iterator[bytes]:
    import h5py

    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in sorted(names):
            dataset = file[name]
            if isinstance(dataset, h5py.Dataset):
                yield name.encode() + np.asarray(dataset[()]).astype(str).tobytes()
