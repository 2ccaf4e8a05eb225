"""How near does the store come to raw files? Ratios against peers measured in the same run, interleaved, medians.

Every round runs all the peers of a group, every other round in reverse order; a ratio is the median over the rounds of
the ratios within a round, with the least and the greatest of them. Files are read from a warm page cache, into fresh
memory.

    python benchmarks/store.py [--rows 155070] [--rounds 7] [--only read block ...] [--folder DIR]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rounds import BATCH, BLOCK, Bench, D, Runs, Times, hashing, interleave, raw_files, seconds, tell, verdict
from store_peers import measure_extraction, measure_memory, measure_others, measure_s3

from featcache.cache import Cache
from featcache.derived.writer import write_array
from featcache.storage.durable import sync_folder
from featcache.store.array import FeatureArray
from featcache.store.records import chunk_name, flat

SHARD = 8_192


# -- reading ----------------------------------------------------------------------------------------------------------


def opening(bench: Bench) -> str:
    def run() -> None:
        for chunk in range(bench.layout.chunks):
            os.close(os.open(bench.array.path / chunk_name(chunk), os.O_RDONLY))

    return f"{bench.layout.chunks} files to open instead of one take {seconds(run) * 1e3:.1f} ms here"


def measure_read(bench: Bench) -> None:
    """The whole array."""
    raw, _ = raw_files(bench)
    reader, peer = bench.cache.reader(bench.array), "np.fromfile"
    runs: Runs = {
        peer: lambda: np.fromfile(raw, np.float16).reshape(-1, D),
        "plain": lambda: reader.read(verify=False),
        "checked": lambda: reader.read(),
        "np.fromfile, astype": lambda: np.fromfile(raw, np.float16).reshape(-1, D).astype(np.float32),
        "float32": lambda: reader.read(dtype="float32"),
    }
    times = interleave(runs, bench.rounds)
    tell("full read", times, "plain", peer, speed=0.9, why=lambda: opening(bench))
    tell("full read, CRC checked", times, "checked", peer, speed=0.7, why=lambda: hashing(bench))
    tell("full read to float32, checked", times, "float32", "np.fromfile, astype")


def measure_block(bench: Bench) -> None:
    """Blocks of 1,024 rows in random order, each row once."""
    _, npy = raw_files(bench)
    bench.cache.reader(bench.array).read()  # every byte checked and remembered, as after a pull
    starts = np.arange(0, len(bench.values), BLOCK)
    np.random.default_rng(0).shuffle(starts)
    spans = [(start, min(start + BLOCK, len(bench.values))) for start in starts.tolist()]

    def mapped(values: np.ndarray) -> None:
        for start, stop in spans:
            np.array(values[start:stop])

    def ours(reader: Any) -> None:
        for start, stop in spans:
            reader.block(start, stop)

    peer, first = "memory map", "memory map, opened anew"
    values, reader = np.load(npy, mmap_mode="r"), bench.cache.reader(bench.array)
    runs: Runs = {
        peer: lambda: mapped(values),
        "open": lambda: ours(reader),
        first: lambda: mapped(np.load(npy, mmap_mode="r")),
        "anew": lambda: ours(bench.cache.reader(bench.array)),
        "unchecked before": lambda: ours(bench.array.open()),
    }
    times = interleave(runs, bench.rounds)
    each = 1e6 / len(spans)

    def why() -> str:
        mine, theirs = (statistics.median(times[what]) * each for what in ("open", peer))
        return f"{mine:.0f} against {theirs:.0f} us a block, which lies in two chunk files: two look-ups and two copies"

    tell(f"{len(spans)} blocks of {BLOCK} rows", times, "open", peer, speed=0.75, why=why)
    tell("the same, opened anew", times, "anew", first)
    tell("the same, each chunk checked first", times, "unchecked before", first)


def measure_random(bench: Bench) -> None:
    """1,024 random rows at a time."""
    _, npy = raw_files(bench)
    bench.cache.reader(bench.array).read()
    draws = [np.random.default_rng(seed).integers(0, len(bench.values), BLOCK) for seed in range(10)]
    values, reader = np.load(npy, mmap_mode="r"), bench.cache.reader(bench.array)
    peer = "memory map"
    runs: Runs = {
        peer: lambda: [values[rows] for rows in draws],
        "ours": lambda: [reader.take(rows) for rows in draws],
    }
    times = interleave(runs, bench.rounds)

    def why() -> str:
        each = statistics.median(times["ours"]) / len(draws) / bench.layout.chunks * 1e6
        return f"{BLOCK} rows touch all of {bench.layout.chunks} chunk files, {each:.1f} us for each"

    tell(f"10 x {BLOCK} random rows", times, "ours", peer, cost=5, why=why)


# -- opening, size ----------------------------------------------------------------------------------------------------

OPENING = """
import json, statistics, sys
from time import perf_counter
from pathlib import Path
from featcache.cache import Cache
from featcache.errors import Damaged
from featcache.store.array import FeatureArray
folder, path, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def first_row():
    return FeatureArray(folder / path).open().read(0, 1)
def by_name():
    cache = Cache(folder)
    return cache.reader(cache.find("bench", "encoder")).read(0, 1)
found = {"zarr": False}
for name, run in {"open": first_row, "find": by_name}.items():
    run()
    times = []
    for _ in range(rounds):
        started = perf_counter()
        run()
        times.append(perf_counter() - started)
    found[name] = statistics.median(times)
found["zarr"] = "zarr" in sys.modules
record = folder / path / "COMPLETE.json"
whole = record.read_bytes()
place = whole.index(b'"blake3":"') + 12
record.write_bytes(whole[:place] + (b"0" if whole[place:place + 1] != b"0" else b"1") + whole[place + 1:])
try:
    first_row()
    found["refused"] = False
except Damaged:
    found["refused"] = True
finally:
    record.write_bytes(whole)
print(json.dumps(found))
"""


def measure_open(bench: Bench) -> None:
    """From a path to the first row, in a process that did it before."""
    command = [sys.executable, "-c", OPENING, str(bench.folder / "cache"), bench.key.path, str(4 * bench.rounds)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    zarr, flipped = "IMPORTED" if found["zarr"] else "not imported", "refused" if found["refused"] else "ACCEPTED"
    said = f"zarr {zarr}, a flipped record {flipped}"
    line = f"  {'open to first row, checked':34} {found['open'] * 1e3:8.1f} ms  {said}"
    good = found["open"] <= 5e-3 and found["refused"] and not found["zarr"]
    verdict(line, "<= 5 ms", good, lambda: f"{bench.layout.chunks} records are parsed and hashed; {hashing(bench)}")
    print(f"  {'the same, found by name':34} {found['find'] * 1e3:8.1f} ms")


def measure_size(bench: Bench) -> None:
    """What is stored beside the values."""
    files = [path.stat() for path in bench.array.path.rglob("*") if path.is_file()]
    lengths = sum(file.st_size for file in files) / bench.values.nbytes - 1
    blocks = sum(file.st_blocks * 512 for file in files) / bench.values.nbytes - 1
    padding = bench.layout.chunks * bench.layout.chunk_rows / len(bench.values) - 1
    for what, share, why in (
        (f"bytes of {len(files)} files", lengths, f"padding of the last chunk alone is {padding:.3%}"),
        ("the disk's blocks they take", blocks, "each record takes a block, and so may a chunk's last four bytes"),
    ):
        verdict(f"  {what:34} {share:8.3%} beside the values", "<= 0.5 %", share <= 0.005, partial(str, why))


# -- writing ----------------------------------------------------------------------------------------------------------


def fill(bench: Bench, folder: Path) -> None:
    """Writes the array as imports and derived arrays are: 256-row batches into chunks, eight commits at once."""
    write_array(Cache(folder), bench.key, lambda start, stop: batched(bench.values[start:stop]))


def fill_one_by_one(bench: Bench, folder: Path) -> None:
    """Likewise, each chunk durable before the next is begun."""
    array = FeatureArray(folder / bench.key.path)
    plan = array.create(bench.key, bench.layout)
    for chunk in range(plan.chunks):
        start, stop = plan.span(chunk)
        array.commit(plan, chunk, batched(bench.values[start:stop]), writer="bench")
    array.finish(plan)


def batched(rows: np.ndarray) -> np.ndarray:
    """A buffer filled batch by batch, as features come out of an encoder."""
    buffer = np.full(rows.shape, np.nan, rows.dtype)
    for low in range(0, len(rows), BATCH):
        buffer[low : low + BATCH] = rows[low : low + BATCH]
    return buffer


def save_shards(values: np.ndarray, folder: Path, rows: int) -> None:
    """NumPy files of so many rows, each durable with its name."""
    for start in range(0, len(values), rows):
        with (folder / f"{start}.npy").open("wb") as file:
            np.save(file, batched(values[start : start + rows]))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(folder)


def measure_write(bench: Bench) -> None:
    """Durable writing of the whole array."""

    def into_new_folder(write: Callable[[Path], object]) -> Callable[[], float]:
        def run() -> float:
            os.sync()  # what others left to be written is not ours
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                return seconds(lambda: write(Path(folder)))

        return run

    one_a_chunk = f".npy of {bench.layout.chunk_rows} rows + fsync"
    peer = f".npy of {SHARD} rows + fsync"
    runs = {
        peer: into_new_folder(lambda folder: save_shards(bench.values, folder, SHARD)),
        "ours": into_new_folder(lambda folder: fill(bench, folder)),
        "ours, one chunk at a time": into_new_folder(lambda folder: fill_one_by_one(bench, folder)),
        one_a_chunk: into_new_folder(lambda folder: save_shards(bench.values, folder, bench.layout.chunk_rows)),
    }
    times: Times = {what: [] for what in runs}
    for number in range(bench.rounds):
        for what in list(runs) if number % 2 == 0 else reversed(runs):
            times[what].append(runs[what]())
    tell("durable write", times, "ours", peer, cost=1.5, why=lambda: why_writing(bench, times["ours"]))
    tell("the same", times, "ours", one_a_chunk, cost=None)
    tell("the same", times, "ours, one chunk at a time", peer, cost=None)


def why_writing(bench: Bench, times: list[float]) -> str:
    from blake3 import blake3

    chunk = flat(bench.values[: bench.layout.chunk_rows])
    hashed = bench.layout.chunks * statistics.median(seconds(lambda: blake3(chunk).digest()) for _ in range(20))
    syncs = []
    for number in range(20):
        with (bench.folder / f"sync-{number}").open("wb") as file:
            file.write(bytes(chunk))
            file.flush()
            syncs.append(seconds(lambda file=file: os.fsync(file.fileno())))
    share = statistics.median(syncs) * 1e3
    return (
        f"{bench.layout.chunks} chunks, each four syncs (file, folder, record, folder) where a shard has two; one "
        f"file's takes {share:.1f} ms here; blake3 {hashed * 1e3:.0f} ms of {statistics.median(times) * 1e3:.0f}; "
        f"{hashing(bench)}"
    )


# -- the whole run ----------------------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[Bench], None]] = {
    "read": measure_read,
    "block": measure_block,
    "random": measure_random,
    "open": measure_open,
    "size": measure_size,
    "write": measure_write,
    "others": measure_others,
    "s3": measure_s3,
    "extraction": measure_extraction,
    "memory": measure_memory,
}


def file_system(folder: Path) -> str:
    """Kind of file system that a folder lies on."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown file system"
    above = [(len(place), kind) for place, kind in mounts if folder.is_relative_to(place)]
    return max(above)[1] if above else "unknown file system"


def random_values(rows: int) -> np.ndarray:
    values, random = np.empty((rows, D), np.float16), np.random.default_rng(0)
    for low in range(0, rows, SHARD):
        values[low : low + SHARD] = random.standard_normal(values[low : low + SHARD].shape, np.float32)
    return values


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=155_070)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=given.folder.resolve()))
    started = perf_counter()
    try:
        values = random_values(given.rows)
        bench = Bench(folder, values, given.rounds, Cache(folder / "cache"))
        print(
            f"{given.rows:,} x {D} float16 ({values.nbytes / 1e6:.0f} MB) in {bench.layout.chunks} chunks on "
            f"{file_system(folder)}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.rounds} rounds"
        )
        fill(bench, bench.folder / "cache")
        for name in given.only:
            print(f"{name}: {(MEASURES[name].__doc__ or '').splitlines()[0]}")
            MEASURES[name](bench)
    finally:
        shutil.rmtree(folder)
    print(f"{perf_counter() - started:.0f} s in all, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
