"""Malformed records, tables and imports at each door: a named error, or accepted and right; the rest stays usable."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from blake3 import blake3
from hypothesis import strategies as st

from featcache.trainer.run_files import PICTURES, TABLES
from tests.attack import grammar
from tests.attack.attacks import Attack, Ground, Problem, badly_ended, last_line
from tests.attack.readers import OF_RUNS, OF_UNFINISHED, Reader, loaded, oracle, wrong
from tests.attack.site import DATASET, import_words

CASES = 0.8  # of each door's own number


@dataclass(frozen=True)
class Door:
    """A file that is read, and what is put in its place.

    Args:
        name: Of the record or format.
        target: Glob below a copy of the site; the first file that fits.
        cases: How many are drawn.
        change: Draws a malformed content, or what `make` makes one of.
        make: Makes the content of file and draw, in a child.
        seal: Makes the checksums that bind the file fit it, as whoever forges a share would.
        reads: "array", "view" or "cache" for what of a cache it can spoil; "part", "run" or "import".
    """

    name: str
    target: str
    cases: int
    change: Callable[[bytes], st.SearchStrategy[Any]]
    reads: str
    make: Callable[[bytes, Any], bytes] = lambda content, drawn: drawn
    seal: Callable[[Path], None] = lambda path: None


# -- checksums that a forger makes anew -------------------------------------------------------------------------------


def _seal_reused(path: Path) -> None:
    from featcache.store.digest import canonical

    value = json.loads(path.read_bytes())
    rest = {name: part for name, part in value.items() if name != "blake3"}
    path.write_text(json.dumps(rest | {"blake3": blake3(canonical(rest)).hexdigest(length=16)}))


def _seal_complete(path: Path) -> None:
    from featcache.store.digest import canonical

    value = json.loads(path.read_bytes())
    bound = [[record[name] for name in ("chunk", "rows", "bytes", "blake3")] for record in value["records"]]
    path.write_text(json.dumps(value | {"root": blake3(canonical(bound)).hexdigest(length=16)}))


def _seal_key(path: Path) -> None:
    """The folder and COMPLETE.json take the digest that the changed key has."""
    from featcache.store.digest import canonical

    value = json.loads(path.read_bytes())
    digest = blake3(canonical(value["binds"])).hexdigest(length=16)
    path.write_text(json.dumps(value | {"digest": digest}))
    complete = path.with_name("COMPLETE.json")
    complete.write_text(json.dumps(json.loads(complete.read_bytes()) | {"digest": digest}))
    path.parent.rename(path.parent.with_name(digest))


def _seal_run(path: Path) -> None:
    manifest = path.with_name("manifest.json")
    value = json.loads(manifest.read_bytes())
    value["blake3"][path.name] = blake3(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(value))


# -- doors ------------------------------------------------------------------------------------------------------------

_ARRAY = "cache/tiny/captions/gpt2/last.mean/*"
_JSON, _TABLE = grammar.mangled_json, grammar.mangled_table
_RUN_TABLES = (*TABLES, "leaks", *PICTURES)


def _npy_member(content: bytes) -> st.SearchStrategy[bytes]:
    return grammar.mangled_npy(content) if len(content) > 128 else grammar.mangled_bytes(content)


def _npz(content: bytes) -> st.SearchStrategy[bytes]:
    return grammar.mangled_zip(content, member=_npy_member)


def _pt(content: bytes) -> st.SearchStrategy[bytes]:
    return grammar.mangled_zip(content, member=grammar.mangled_bytes)


DOORS = (
    Door("key", f"{_ARRAY}/key.json", 180, _JSON, "array"),
    Door("key-sealed", f"{_ARRAY}/key.json", 120, _JSON, "array", seal=_seal_key),
    Door("plan", f"{_ARRAY}/plan.json", 140, _JSON, "array"),
    Door("zarr", f"{_ARRAY}/zarr.json", 100, _JSON, "array"),
    Door("complete", f"{_ARRAY}/COMPLETE.json", 120, _JSON, "array"),
    Door("complete-sealed", f"{_ARRAY}/COMPLETE.json", 120, _JSON, "array", seal=_seal_complete),
    Door("record", f"{_ARRAY}/commits/1.json", 80, _JSON, "array"),
    Door("reused", f"{_ARRAY}/REUSED.json", 60, _JSON, "array"),
    Door("reused-sealed", f"{_ARRAY}/REUSED.json", 80, _JSON, "array", seal=_seal_reused),
    Door("rows", "cache/tiny/captions/rows-*.parquet", 80, _TABLE, "view", grammar.change_table),
    Door("overlay", "cache/tiny/overlay-*.parquet", 60, _TABLE, "cache", grammar.change_table),
    Door("pointer", "cache/tiny/captions/rows-*.json", 80, _JSON, "view"),
    Door("current", "cache/tiny/captions/current.json", 120, _JSON, "view"),
    Door("mark", "cache/.featcache", 60, _JSON, "cache"),
    Door("encoder-card", "cache/.encoders/cards/*.json", 60, _JSON, "cache"),
    Door("memory", "cache/.verified/*", 40, lambda content: grammar.mangled_bytes(content), "cache"),
    Door("lease", "cache/.leases/*", 80, _JSON, "cache"),
    Door("arriving", "part/tiny/captions/gpt2/last.mean/*/ARRIVING.json", 40, _JSON, "part"),
    Door("partial", "part/tiny/captions/gpt2/last.mean/*/PARTIAL.json", 60, _JSON, "part"),
    Door("unfinished-record", "part/tiny/images/dinov2-small/last.cls/*/commits/0.json", 60, _JSON, "part"),
    Door("unfinished-plan", "part/tiny/images/dinov2-small/last.cls/*/plan.json", 60, _JSON, "part"),
    Door("side-file", "part/tiny/images/dinov2-small/last.cls/*/.kept-*", 30, grammar.mangled_bytes, "part"),
    Door("run-config", "runs/a/config.json", 40, _JSON, "run"),
    Door("run-config-sealed", "runs/a/config.json", 120, _JSON, "run", seal=_seal_run),
    Door("run-manifest", "runs/a/manifest.json", 60, _JSON, "run"),
    Door("run-weights", "runs/a/adapters.safetensors", 50, grammar.mangled_safetensors, "run", seal=_seal_run),
    *(
        Door(f"run-{name}", f"runs/a/{name}.parquet", 16, _TABLE, "run", grammar.change_table, _seal_run)
        for name in _RUN_TABLES
    ),
    Door("import-npy", "files/theirs.npy", 140, grammar.mangled_npy, "import"),
    Door("import-pt", "files/theirs.pt", 60, _pt, "import"),
    Door("import-ids", "files/ids.txt", 60, grammar.mangled_ids, "import"),
    Door("import-npz", "files/gpt2.npz", 70, _npz, "import"),
    Door("import-h5", "files/gpt2.h5", 60, grammar.mangled_h5, "import", grammar.change_h5),
    Door("import-parquet", "files/gpt2.parquet", 60, _TABLE, "import", grammar.change_table),
    Door("import-safetensors", "files/gpt2.safetensors", 60, grammar.mangled_safetensors, "import"),
)


def attacks(seed: int, share: float = CASES) -> list[Attack]:
    """Every door with its cases, or a share of them."""
    return [
        Attack(f"malformed/{door.name}/{number}", partial(_attack, door, seed, number))
        for door in DOORS
        for number in range(max(1, round(door.cases * share)))
    ]


@cache
def _cases(ground: Ground, door: Door, seed: int) -> list[Any]:
    return grammar.examples(door.change(_content(_target(door, ground.site.copy))), door.cases, seed)


def _target(door: Door, copy: Path) -> Path:
    """The file at the door, which need not be there: nobody works in the site, and no transfer is under way."""
    found = sorted(copy.glob(door.target))
    if found:
        return found[-1] if door.name == "rows" else found[0]
    folder, _, name = door.target.rpartition("/")
    return next(copy.glob(folder)) / ("0" * 32 if name == "*" else name)


def _content(path: Path) -> bytes:
    """What lies there; of a lease or a transfer, what would."""
    if path.exists():
        return path.read_bytes()
    lease = {
        "host": "lab",
        "process": 4,
        "namespace": "pid:[9]",
        "what": "push",
        "began": 1.0,
        "boot": "",
        "started": "",
    }
    return json.dumps({"root": "0" * 32} if path.name == "ARRIVING.json" else lease).encode()


def _attack(door: Door, seed: int, number: int, ground: Ground, random: Random) -> Iterable[Problem]:
    drawn = _cases(ground, door, seed)[number]
    with ground.copy() as copy:
        target = _target(door, copy)

        def put() -> None:
            target.write_bytes(door.make(_content(target), drawn))
            with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, OverflowError):
                door.seal(target)

        (done,) = ground.run(put)
        if done.exit:
            raise RuntimeError(f"the case cannot be made: {last_line(done)}")
        check = {"import": _imported, "run": _read_runs, "part": _read_unfinished}.get(door.reads, _read_cache)
        for problem in check(door, ground, copy, number):
            yield Problem(problem.harm, f"{problem.what} [case {_short(drawn)}]")


def _short(drawn: Any) -> str:
    text = repr(drawn)
    return text if len(text) < 200 else f"{text[:200]}…"


# -- what is checked --------------------------------------------------------------------------------------------------


@cache
def _right(ground: Ground) -> dict[str, str]:
    with ground.copy() as copy:
        return ground.run(partial(loaded, copy / "cache"))[0].value


def _read_cache(door: Door, ground: Ground, copy: Path, number: int) -> Iterator[Problem]:
    """Commands over the whole cache, and on arrays that have nothing to do with the bad record."""
    place = ["--cache", f"{copy / 'cache'}"]
    usable = [["ls", "--json", *place], ["gc", *place], ["rm", "tiny", "dinov2-small/last.patch-mean", "--yes", *place]]
    if door.name != "overlay":  # splits and labels of every view: they cannot follow an array
        usable += [["mv", "tiny/images/theirs", "tiny/images/ours", *place]]
    others = [["verify", "--deep", *place], ["show", DATASET, "gpt2", "--json", *place], ["du", *place]]
    others += [["pull", f"{copy / 'cache'}", "--cache", f"{copy / 'new'}"]] if number % 3 == 0 else []
    others += [ground.site.extract(copy, "gpt2")] if door.name == "encoder-card" else []
    load, *ended = ground.run(partial(loaded, copy / "cache"), *usable, *others)
    for each in (load, *ended):
        yield from badly_ended(each)
    if door.name != "mark":  # a newer mark closes the whole cache
        for each in ended[: len(usable)]:
            if each.exit and not each.hung:
                yield Problem("lost", f"one bad {door.name} keeps from {each.what}: {last_line(each)}")
    if load.value is not None:
        yield from _loads(door, load.value, _right(ground))


def _loads(door: Door, there: dict[str, str], right: dict[str, str]) -> Iterator[Problem]:
    spoiled = {"array": "gpt2", "view": "captions", "cache": "captions"}[door.reads]
    for name, value in right.items():
        answer = there.get(name, "not listed")
        spoilable = spoiled in name or name.split()[-1].startswith(("gpt2", "linear"))
        if answer != value and not (spoilable or door.name in ("mark", "overlay")):
            yield Problem("lost", f"{name} has nothing to do with the bad {door.name}, but: {answer[:200]}")
    for name, value in there.items():
        if not _is_error(value) and value not in (right.get(name, value), *(right.values() if "@" in name else ())):
            yield Problem("silent", f"{name} has other values than before")


def _is_error(value: str) -> bool:
    return ": " in value


def _read_runs(door: Door, ground: Ground, copy: Path, number: int) -> Iterator[Problem]:
    yield from _by(ground, copy, [reader for reader in OF_RUNS if not reader.slow or number % 8 == 0], door)


def _read_unfinished(door: Door, ground: Ground, copy: Path, number: int) -> Iterator[Problem]:
    yield from _by(ground, copy, list(OF_UNFINISHED), door)


def _by(ground: Ground, copy: Path, readers: list[Reader], door: Door) -> Iterator[Problem]:
    ended = ground.run(*(reader.task(ground.site, copy) for reader in readers))
    sealed_table = door.reads == "run" and door.seal is not Door.seal
    for reader, each in zip(readers, ended, strict=True):
        yield from badly_ended(each)
        # whoever can write a run's manifest can write other numbers: what is accepted is then right by definition
        if not sealed_table:
            yield from wrong(reader, each, copy, oracle(ground, reader))


def _imported(door: Door, ground: Ground, copy: Path, number: int) -> Iterator[Problem]:
    """Rejected by name, or taken in with the rows that another library reads in the file."""
    file = "theirs.npy" if door.name == "import-ids" else door.target.rpartition("/")[2]
    before = partial(loaded, copy / "cache")
    words = import_words(copy, file, "mine") if file.startswith("theirs") else _export_words(copy, file)
    first, ended, second = ground.run(before, words, before)
    yield from badly_ended(ended)
    kept = {name: value for name, value in (second.value or {}).items() if name in (first.value or {})}
    if kept != first.value:
        yield Problem("lost", f"after {ended.what}, other arrays load otherwise")
    if not ended.exit:
        (compared,) = ground.run(partial(accepted, copy, copy / "files" / file))
        if compared.exit:
            yield Problem("silent", f"{file} is accepted, though another library cannot read it: {last_line(compared)}")
        elif compared.value:
            yield Problem("silent", f"{file} is accepted: {compared.value}")


def _export_words(copy: Path, file: str) -> list[str]:
    words = ["import", f"{copy / 'files' / file}", "--dataset", "tiny", "--encoder", "mine", "--layer", "last.mean"]
    return [*words, "--cache", f"{copy / 'cache'}"]


def accepted(copy: Path, file: Path) -> str:
    """What is wrong with imported values, against another reader of the file; "" if nothing."""
    from featcache.cache import Cache

    values = np.asarray(Cache(copy / "cache").load("tiny", "mine").values, np.float32)
    theirs = np.asarray(_THEIR_READERS[file.suffix](file), np.float32)
    theirs = theirs[~np.isnan(theirs).all(axis=1)]
    if values.shape != theirs.shape:
        return f"{values.shape} rows and columns instead of {theirs.shape}"
    return (
        ""
        if np.array_equal(_sorted(values), _sorted(theirs))
        else "values differ from those that another library reads"
    )


def _sorted(values: np.ndarray) -> np.ndarray:
    return values[np.lexsort(values.T)]


def _read_h5(path: Path) -> np.ndarray:
    import h5py

    with h5py.File(path) as file:
        return np.asarray(file["values"])


def _read_parquet(path: Path) -> np.ndarray:
    import polars as pl

    return pl.read_parquet(path)["values"].to_numpy()


def _read_pt(path: Path) -> np.ndarray:
    import torch

    return torch.load(path, weights_only=True).numpy()


def _read_safetensors(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["values"]


_THEIR_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".npz": lambda path: np.load(path, allow_pickle=False)["values"],
    ".h5": _read_h5,
    ".parquet": _read_parquet,
    ".pt": _read_pt,
    ".safetensors": _read_safetensors,
}
