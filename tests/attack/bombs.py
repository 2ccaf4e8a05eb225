"""Bombs under a memory limit: files that unpack to, declare or are far too much, and things that are no files."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from tests.attack.attacks import Attack, Ground, Problem, badly_ended, last_line
from tests.attack.children import Ended, Limits
from tests.attack.readers import loaded, run_answers
from tests.attack.site import import_words

MEMORY, MORE = 2 * 2**30, 600 * 2**20  # address space that a command may take; memory that it may really use
SECONDS = 20.0
ARRAY = "cache/tiny/captions/gpt2/last.mean/*"


@dataclass(frozen=True)
class Bomb:
    """A bomb.

    Args:
        name: What it is.
        target: Glob of the file that it takes the place of, below a copy of the site.
        put: Puts it there.
        reads: "cache", "run" or "import".
    """

    name: str
    target: str
    put: Callable[[Path], None]
    reads: str = "cache"


# -- what is put in a file's place ------------------------------------------------------------------------------------


def _sparse(path: Path) -> None:
    """200 GB of nothing behind the content."""
    with path.open("r+b") as file:
        file.truncate(200 * 2**30)


def _instead(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return put


_pipe = _instead(os.mkfifo)
_endless = _instead(lambda path: path.symlink_to("/dev/zero"))
_folder = _instead(lambda path: path.mkdir())
_itself = _instead(lambda path: path.symlink_to(path.name))


def _json_with(**changes: object) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        value = json.loads(path.read_bytes())
        path.write_text(json.dumps({**value, **changes}))

    return put


def _plan_everywhere(path: Path) -> None:
    """10**12 rows in plan.json, COMPLETE.json and key.json."""
    for name in ("plan.json", "COMPLETE.json", "key.json"):
        value = json.loads((path.parent / name).read_bytes())
        for holder in (value, value.get("plan", {}), value.get("binds", {}).get("rows", {})):
            if "n" in holder:
                holder["n"] = 10**12
        (path.parent / name).write_text(json.dumps(value))


def _wide(path: Path) -> None:
    """10**9 columns in key.json and COMPLETE.json."""
    for name in ("COMPLETE.json", "key.json"):
        value = json.loads((path.parent / name).read_bytes())
        (value["binds"] if "binds" in value else value)["d"] = 10**9
        (path.parent / name).write_text(json.dumps(value))


def _table(path: Path) -> None:
    """A table of few bytes that unpacks to gigabytes, with the columns of the one that it replaces."""
    import polars as pl

    first, *names = pl.read_parquet(path).columns
    frame = pl.DataFrame({first: ["x" * 2**20] * 1500, **{name: ["x"] * 1500 for name in names}})
    frame.write_parquet(path, compression="zstd", statistics=False)


def _json_of(size: int) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        value = path.read_bytes().rstrip()
        path.write_bytes(value[:-1] + b', "more": [' + b"[]," * (size // 3) + b"1]}")

    return put


def _npy_header(shape: str, descr: str = "'<f4'") -> Callable[[Path], None]:
    def put(path: Path) -> None:
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(1000))

    return put


def _npz(path: Path) -> None:
    """4 GB of zeros in a few megabytes."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**25, 32)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, content in members.items():
            if name != "values.npy":
                file.writestr(name, content)
        with file.open("values.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(256):
                member.write(bytes(2**24))


def _stride_zero(path: Path) -> None:
    """A tensor of one number that says it has 10**10."""
    import torch

    torch.save(torch.zeros(1).expand(10**8, 100), path)


def _h5(fill: Callable[..., None]) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        import h5py

        with h5py.File(path, "r+") as file:
            del file["values"]
            fill(file)

    return put


def _h5_no_data(file: object) -> None:
    file.create_dataset("values", (10**9, 32), "f4", chunks=(10**4, 32), fillvalue=1.0)  # type: ignore[attr-defined]


def _h5_packed(file: object) -> None:
    made = file.create_dataset(  # type: ignore[attr-defined]
        "values", (2**25, 32), "f4", chunks=(2**22, 32), compression="gzip", compression_opts=9
    )
    made[: 2**22] = 0


def _safetensors(path: Path) -> None:
    header = json.dumps({"values": {"dtype": "F32", "shape": [10**9, 1000], "data_offsets": [0, 4 * 10**12]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def _header_size(path: Path) -> None:
    path.write_bytes((10**14).to_bytes(8, "little") + b"{}")


_RECORDS = ("key.json", "plan.json", "COMPLETE.json", "zarr.json", "REUSED.json", "commits/1.json", "c.1.0")
_VIEW = ("captions/current.json", "captions/rows-*.json", "captions/rows-*.parquet", "overlay-*.parquet")
_RUN = ("config.json", "manifest.json", "adapters.safetensors", "metrics.parquet")
_IMPORTS = ("theirs.npy", "theirs.pt", "ids.txt", "gpt2.npz", "gpt2.h5", "gpt2.parquet", "gpt2.safetensors")
_PLACES = (
    *((f"{ARRAY}/{name}", "cache") for name in _RECORDS),
    *((f"cache/tiny/{name}", "cache") for name in _VIEW),
    *((f"cache/{name}", "cache") for name in (".featcache", ".encoders/cards/*.json", ".verified/*")),
    *((f"runs/a/{name}", "run") for name in _RUN),
    *((f"files/{name}", "import") for name in _IMPORTS),
)
_KINDS = {"pipe": _pipe, "endless": _endless, "sparse": _sparse, "folder": _folder, "link-to-itself": _itself}


def _what(target: str) -> str:
    """A short name of the file that a glob finds."""
    folder, _, name = target.rpartition("/")
    return {"*": "memory", "*.json": "encoder-card"}.get(name, f"{'run-' if folder == 'runs/a' else ''}{name}")


BOMBS = (
    *(Bomb(f"{kind}-{_what(target)}", target, put, reads) for kind, put in _KINDS.items() for target, reads in _PLACES),
    Bomb("plan-of-10-to-the-12", f"{ARRAY}/plan.json", _plan_everywhere),
    Bomb("rows-of-10-to-the-9-columns", f"{ARRAY}/plan.json", _wide),
    Bomb("chunks-of-one-row", f"{ARRAY}/plan.json", _json_with(n=10**12, chunk_rows=1)),
    Bomb("batch-of-10-to-the-18", f"{ARRAY}/plan.json", _json_with(batch_size=10**18)),
    Bomb("big-record", f"{ARRAY}/commits/1.json", _json_of(150_000_000)),
    Bomb("big-key", f"{ARRAY}/key.json", _json_of(150_000_000)),
    Bomb("big-complete", f"{ARRAY}/COMPLETE.json", _json_of(150_000_000)),
    Bomb("big-current", "cache/tiny/captions/current.json", _json_of(150_000_000)),
    Bomb("big-config", "runs/a/config.json", _json_of(150_000_000), "run"),
    Bomb("unpacking-rows", "cache/tiny/captions/rows-*.parquet", _table),
    Bomb("unpacking-overlay", "cache/tiny/overlay-*.parquet", _table),
    Bomb("unpacking-metrics", "runs/a/metrics.parquet", _table, "run"),
    Bomb("unpacking-export", "files/gpt2.parquet", _table, "import"),
    Bomb("npz-of-4-gigabytes", "files/gpt2.npz", _npz, "import"),
    Bomb("npy-of-terabytes", "files/theirs.npy", _npy_header(f"({10**12}, 6)"), "import"),
    Bomb("npy-of-no-columns", "files/theirs.npy", _npy_header(f"({10**12}, 0)"), "import"),
    Bomb("npy-of-wide-items", "files/theirs.npy", _npy_header("(40, 6)", f"'|V{10**9}'"), "import"),
    Bomb("npy-of-nested-header", "files/theirs.npy", _npy_header("(" * 9000), "import"),
    Bomb("pt-of-stride-zero", "files/theirs.pt", _stride_zero, "import"),
    Bomb("h5-without-data", "files/gpt2.h5", _h5(_h5_no_data), "import"),
    Bomb("h5-packed", "files/gpt2.h5", _h5(_h5_packed), "import"),
    Bomb("safetensors-of-terabytes", "files/gpt2.safetensors", _safetensors, "import"),
    Bomb("safetensors-header-size", "files/gpt2.safetensors", _header_size, "import"),
    Bomb("weights-header-size", "runs/a/adapters.safetensors", _header_size, "run"),
)


def attacks() -> list[Attack]:
    """Every bomb."""
    return [Attack(f"bombs/{bomb.name}/0", partial(_attack, bomb)) for bomb in BOMBS]


def _attack(bomb: Bomb, ground: Ground, random: Random) -> Iterable[Problem]:
    with ground.copy() as copy:
        target = sorted(copy.glob(bomb.target))[0]
        (put,) = ground.run(partial(bomb.put, target))
        if put.exit:
            raise RuntimeError(f"the bomb cannot be made: {last_line(put)}")
        for ended in ground.run(*_readers(bomb, copy), limits=Limits(SECONDS, MEMORY)):
            yield from _exploded(ended)
            yield from badly_ended(ended)
        _defuse(copy)


def _readers(bomb: Bomb, copy: Path) -> Iterator:
    cache = ["--cache", f"{copy / 'cache'}"]
    if bomb.reads == "import":
        file = bomb.target.rpartition("/")[2]
        file = "theirs.npy" if file == "ids.txt" else file
        words = import_words(copy, file, "mine")
        yield words if file.startswith("theirs") else [word for word in words if word not in ("--modality", "image")]
    elif bomb.reads == "run":
        yield partial(run_answers, copy / "runs" / "a")
        yield from (["verify", f"{copy / 'runs/a'}"], ["embed", f"{copy / 'runs/a'}", *cache])
        yield ["report", f"{copy / 'runs/a'}", "--out", f"{copy / 'page'}"]
    else:
        yield partial(loaded, copy / "cache")
        for words in (["verify", "--deep"], ["ls", "--json"], ["gc"], ["du"], ["show", "folder:tiny", "gpt2"]):
            yield [*words, *cache]
        yield ["pull", f"{copy / 'cache'}", "--cache", f"{copy / 'new'}"]
        yield ["mv", "tiny/images/theirs", "tiny/images/ours", *cache]


def _exploded(ended: Ended) -> Iterator[Problem]:
    if ended.memory > MORE or "MemoryError" in ended.err:
        yield Problem("hung or huge", f"{ended.what} took {ended.memory / 2**20:.0f} MB: {last_line(ended)}")


def _defuse(copy: Path) -> None:
    """Makes the folder one that can be deleted quickly."""
    for path in copy.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 2**32:
            path.unlink()
