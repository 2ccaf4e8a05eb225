"""The store against raw files: ratios against peers measured in the same run, interleaved, medians.

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
from rounds import BATCH, BLOCK, D, Runs, Times, Workload, hashing, interleave, raw_files, seconds, tell, verdict
from store_peers import measure_extraction, measure_memory, measure_others, measure_s3

from featcache.cache import Cache
from featcache.derived.writer import write_array
from featcache.storage.durable import sync_folder
from featcache.store.array import FeatureArray
from featcache.store.records import chunk_name, flat

SHARD = 8_192


# -- reading ----------------------------------------------------------------------------------------------------------


def opening(workload: Workload) -> str:
    def run() -> None:
        for chunk in range(workload.layout.chunks):
            os.close(os.open(workload.array.path / chunk_name(chunk), os.O_RDONLY))

    return f"{workload.layout.chunks} files to open instead of one take {seconds(run) * 1e3:.1f} ms here"


def measure_read(workload: Workload) -> None:
    """The whole array."""
    raw, _ = raw_files(workload)
    reader, peer = workload.cache.reader(workload.array), "np.fromfile"
    runs: Runs = {
        peer: lambda: np.fromfile(raw, np.float16).reshape(-1, D),
        "plain": lambda: reader.read(verify=False),
        "checked": lambda: reader.read(),
        "np.fromfile, astype": lambda: np.fromfile(raw, np.float16).reshape(-1, D).astype(np.float32),
        "float32": lambda: reader.read(dtype="float32"),
    }
    times = interleave(runs, workload.rounds)
    tell("full read", times, "plain", peer, speed=0.9, why=lambda: opening(workload))
    tell("full read, CRC checked", times, "checked", peer, speed=0.7, why=lambda: hashing(workload))
    tell("full read to float32, checked", times, "float32", "np.fromfile, astype")


def measure_block(workload: Workload) -> None:
    """Blocks of 1,024 rows in random order, each row once."""
    _, npy = raw_files(workload)
    workload.cache.reader(workload.array).read()  # every byte checked and remembered, as after a pull
    starts = np.arange(0, len(workload.values), BLOCK)
    np.random.default_rng(0).shuffle(starts)
    spans = [(start, min(start + BLOCK, len(workload.values))) for start in starts.tolist()]

    def mapped(values: np.ndarray) -> None:
        for start, stop in spans:
            np.array(values[start:stop])

    def ours(reader: Any) -> None:
        for start, stop in spans:
            reader.block(start, stop)

    peer, first = "memory map", "memory map, opened anew"
    values, reader = np.load(npy, mmap_mode="r"), workload.cache.reader(workload.array)
    runs: Runs = {
        peer: lambda: mapped(values),
        "open": lambda: ours(reader),
        first: lambda: mapped(np.load(npy, mmap_mode="r")),
        "anew": lambda: ours(workload.cache.reader(workload.array)),
        "unchecked before": lambda: ours(workload.array.open()),
    }
    times = interleave(runs, workload.rounds)
    each = 1e6 / len(spans)

    def why() -> str:
        mine, theirs = (statistics.median(times[what]) * each for what in ("open", peer))
        return f"{mine:.0f} against {theirs:.0f} us a block, which lies in two chunk files: two look-ups and two copies"

    tell(f"{len(spans)} blocks of {BLOCK} rows", times, "open", peer, speed=0.75, why=why)
    tell("the same, opened anew", times, "anew", first)
    tell("the same, each chunk checked first", times, "unchecked before", first)


def measure_random(workload: Workload) -> None:
    """1,024 random rows at a time."""
    _, npy = raw_files(workload)
    workload.cache.reader(workload.array).read()
    draws = [np.random.default_rng(seed).integers(0, len(workload.values), BLOCK) for seed in range(10)]
    values, reader = np.load(npy, mmap_mode="r"), workload.cache.reader(workload.array)
    peer = "memory map"
    runs: Runs = {
        peer: lambda: [values[rows] for rows in draws],
        "ours": lambda: [reader.take(rows) for rows in draws],
    }
    times = interleave(runs, workload.rounds)

    def why() -> str:
        each = statistics.median(times["ours"]) / len(draws) / workload.layout.chunks * 1e6
        return f"{BLOCK} rows touch all of {workload.layout.chunks} chunk files, {each:.1f} us for each"

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
    return cache.reader(cache.find("workload", "encoder")).read(0, 1)
result = {"zarr": False}
for name, run in {"open": first_row, "find": by_name}.items():
    run()
    times = []
    for _ in range(rounds):
        started = perf_counter()
        run()
        times.append(perf_counter() - started)
    result[name] = statistics.median(times)
result["zarr"] = "zarr" in sys.modules
record = folder / path / "COMPLETE.json"
whole = record.read_bytes()
place = whole.index(b'"blake3":"') + 12
record.write_bytes(whole[:place] + (b"0" if whole[place:place + 1] != b"0" else b"1") + whole[place + 1:])
try:
    first_row()
    result["refused"] = False
except Damaged:
    result["refused"] = True
finally:
    record.write_bytes(whole)
print(json.dumps(result))
"""


def measure_open(workload: Workload) -> None:
    """From a path to the first row, in a process that did it before."""
    command = [
        sys.executable,
        "-c",
        OPENING,
        str(workload.folder / "cache"),
        workload.key.path,
        str(4 * workload.rounds),
    ]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    zarr, flipped = "IMPORTED" if result["zarr"] else "not imported", "refused" if result["refused"] else "ACCEPTED"
    said = f"zarr {zarr}, a flipped record {flipped}"
    line = f"  {'open to first row, checked':34} {result['open'] * 1e3:8.1f} ms  {said}"
    good = result["open"] <= 5e-3 and result["refused"] and not result["zarr"]
    verdict(
        line, "<= 5 ms", good, lambda: f"{workload.layout.chunks} records are parsed and hashed; {hashing(workload)}"
    )
    print(f"  {'the same, looked up by name':34} {result['find'] * 1e3:8.1f} ms")


def measure_size(workload: Workload) -> None:
    """What is stored beside the values."""
    files = [path.stat() for path in workload.array.path.rglob("*") if path.is_file()]
    lengths = sum(file.st_size for file in files) / workload.values.nbytes - 1
    blocks = sum(file.st_blocks * 512 for file in files) / workload.values.nbytes - 1
    padding = workload.layout.chunks * workload.layout.chunk_rows / len(workload.values) - 1
    for what, share, why in (
        (f"bytes of {len(files)} files", lengths, f"padding of the last chunk alone is {padding:.3%}"),
        ("the disk's blocks they take", blocks, "each record takes a block, and so may a chunk's last four bytes"),
    ):
        verdict(f"  {what:34} {share:8.3%} beside the values", "<= 0.5 %", share <= 0.005, partial(str, why))


# -- writing ----------------------------------------------------------------------------------------------------------


def fill(workload: Workload, folder: Path) -> None:
    """Writes the array as imports and derived arrays are: 256-row batches into chunks, eight commits at once."""
    write_array(Cache(folder), workload.key, lambda start, stop: batched(workload.values[start:stop]))


def fill_one_by_one(workload: Workload, folder: Path) -> None:
    """Likewise, each chunk durable before the next is begun."""
    array = FeatureArray(folder / workload.key.path)
    plan = array.create(workload.key, workload.layout)
    for chunk in range(plan.chunks):
        start, stop = plan.span(chunk)
        array.commit(plan, chunk, batched(workload.values[start:stop]), writer="workload")
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


def measure_write(workload: Workload) -> None:
    """Durable writing of the whole array."""

    def into_new_folder(write: Callable[[Path], object]) -> Callable[[], float]:
        def run() -> float:
            os.sync()  # what others left to be written is not ours
            with tempfile.TemporaryDirectory(dir=workload.folder) as folder:
                return seconds(lambda: write(Path(folder)))

        return run

    one_a_chunk = f".npy of {workload.layout.chunk_rows} rows + fsync"
    peer = f".npy of {SHARD} rows + fsync"
    runs = {
        peer: into_new_folder(lambda folder: save_shards(workload.values, folder, SHARD)),
        "ours": into_new_folder(lambda folder: fill(workload, folder)),
        "ours, one chunk at a time": into_new_folder(lambda folder: fill_one_by_one(workload, folder)),
        one_a_chunk: into_new_folder(lambda folder: save_shards(workload.values, folder, workload.layout.chunk_rows)),
    }
    times: Times = {what: [] for what in runs}
    for number in range(workload.rounds):
        for what in list(runs) if number % 2 == 0 else reversed(runs):
            times[what].append(runs[what]())
    tell("durable write", times, "ours", peer, cost=1.5, why=lambda: why_writing(workload, times["ours"]))
    tell("the same", times, "ours", one_a_chunk, cost=None)
    tell("the same", times, "ours, one chunk at a time", peer, cost=None)


def why_writing(workload: Workload, times: list[float]) -> str:
    from blake3 import blake3

    chunk = flat(workload.values[: workload.layout.chunk_rows])
    hashed = workload.layout.chunks * statistics.median(seconds(lambda: blake3(chunk).digest()) for _ in range(20))
    syncs = []
    for number in range(20):
        with (workload.folder / f"sync-{number}").open("wb") as file:
            file.write(bytes(chunk))
            file.flush()
            syncs.append(seconds(lambda file=file: os.fsync(file.fileno())))
    share = statistics.median(syncs) * 1e3
    return (
        f"{workload.layout.chunks} chunks, each four syncs (file, folder, record, folder) where a shard has two; one "
        f"file's takes {share:.1f} ms here; blake3 {hashed * 1e3:.0f} ms of {statistics.median(times) * 1e3:.0f}; "
        f"{hashing(workload)}"
    )


# -- the whole run ----------------------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[Workload], None]] = {
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
    folder = Path(tempfile.mkdtemp(prefix="workload-store-", dir=given.folder.resolve()))
    started = perf_counter()
    try:
        values = random_values(given.rows)
        workload = Workload(folder, values, given.rounds, Cache(folder / "cache"))
        print(
            f"{given.rows:,} x {D} float16 ({values.nbytes / 1e6:.0f} MB) in {workload.layout.chunks} chunks on "
            f"{file_system(folder)}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.rounds} rounds"
        )
        fill(workload, workload.folder / "cache")
        for name in given.only:
            print(f"{name}: {(MEASURES[name].__doc__ or '').splitlines()[0]}")
            MEASURES[name](workload)
    finally:
        shutil.rmtree(folder)
    print(f"{perf_counter() - started:.0f} s in all, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
