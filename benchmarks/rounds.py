"""Peers timed side by side, ratios of medians, and the workload that the benchmarks of the store share."""

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from featcache.cache import Cache
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey
from featcache.store.layout import Layout, chunk_rows
from featcache.store.records import crc_of, flat

D, BLOCK, BATCH = 768, 1_024, 256
Runs = dict[str, Callable[[], object]]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Workload:
    """What every group of measurements works on.

    Args:
        folder: Temporary folder on the file system to be measured.
        values: [n, D] float16.
        rounds: Times that everything is measured.
        cache: Holds the values as an array.
    """

    folder: Path
    values: np.ndarray
    rounds: int
    cache: Cache

    @property
    def key(self) -> ArrayKey:
        """A key that no data set or encoder stands behind."""
        rows = {"modality": "image", "decoding": {}, "root": "0" * 64, "n": len(self.values)}
        binds = {"format": 1, "rows": rows, "encoder": {}, "layer": "last.mean", "dtype": "float16", "d": D}
        return ArrayKey("workload", "images", "encoder", "last.mean", binds, {"default_layer": "last.mean"})

    @property
    def layout(self) -> Layout:
        """How an extraction would cut the array."""
        return Layout(len(self.values), chunk_rows(len(self.values), D * 2), BATCH, "row", 1)

    @property
    def array(self) -> FeatureArray:
        """The array in the cache."""
        return self.cache.array(self.key.path)


# -- timing and telling -----------------------------------------------------------------------------------------------


def processor() -> str:
    """Name of the processor, as the system tells it."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")


def seconds(run: Callable[[], object]) -> float:
    started = perf_counter()
    run()
    return perf_counter() - started


def interleave(runs: Runs, rounds: int, *, warm: bool = True) -> Times:
    """Seconds of every run in every round."""
    if warm:
        for run in runs.values():
            run()
    times: Times = {what: [] for what in runs}
    for number in range(rounds):
        for what in list(runs) if number % 2 == 0 else reversed(runs):
            times[what].append(seconds(runs[what]))
    return times


def tell(
    what: str,
    times: Times,
    ours: str,
    peer: str,
    *,
    speed: float | None = None,
    cost: float | None = None,
    why: Callable[[], str] = lambda: "",
) -> None:
    """One line; a goal is the least `speed` relative to the peer's, or the greatest `cost` relative to the peer's."""
    ratios = [a / b for a, b in zip(times[ours], times[peer], strict=True)]
    if cost is None:
        ratios = [1 / ratio for ratio in ratios]
    ratio, mine, theirs = (statistics.median(values) for values in (ratios, times[ours], times[peer]))
    kind = "of its speed" if cost is None else "times its cost"
    line = f"  {what:34} {mine * 1e3:8.1f} ms  {peer:26} {theirs * 1e3:8.1f} ms  {ratio:5.2f} {kind}"
    line += f" ({min(ratios):.2f} to {max(ratios):.2f})"
    if speed is None and cost is None:
        print(line)
        return
    reached = ratio >= speed if speed is not None else ratio <= (cost or 0)
    goal = f">= {speed}" if speed is not None else f"<= {cost}"
    verdict(line, goal, reached, why)


def verdict(line: str, goal: str, reached: bool, why: Callable[[], str]) -> None:
    print(f"{line}  goal {goal}: {'reached' if reached else 'MISSED'}")
    if not reached and (reason := why()):
        print(f"      why: {reason}")


# -- peers and reasons ------------------------------------------------------------------------------------------------


def raw_files(workload: Workload) -> tuple[Path, Path]:
    """One file of the same bytes, and the same with NumPy's header for memory maps."""
    raw, npy = workload.folder / "raw.bin", workload.folder / "whole.npy"
    if not raw.exists():
        workload.values.tofile(raw)
        np.save(npy, workload.values)
        os.sync()
    return raw, npy


def hashing(workload: Workload) -> str:
    chunk = flat(workload.values[: workload.layout.chunk_rows])
    each = statistics.median(seconds(lambda: crc_of(chunk)) for _ in range(20))
    return f"CRC-32C of all chunks alone takes {each * workload.layout.chunks * 1e3:.0f} ms here"
