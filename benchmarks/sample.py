"""Sampled queries against a gallery on disk: rate, memory, and the products alone as the limit.

Two made-up spaces of N rows x 768 (32 latent directions that both share, noise) are written as a cache, block by block;
then Q queries are searched in both, exactly. The limit is what float32 products of queries and gallery take alone, of
one block, scaled. Memory is the peak of a process of its own (mapped files left out) beyond what it holds before the
search: ids and groups.

    python benchmarks/sample.py [--rows 1000000] [--queries 10000]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter

import numpy as np
from rounds import processor

from featcache.cache import Cache
from featcache.data.views import Dataset, Overlay, View
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.layout import Layout, chunk_rows
from featcache.store.rows import write_rows
from featcache.studies.alignment.sampled import SampleSettings, galleries, sampled_scores

D, BLOCK = 768, 8192


def write(folder: Path, n: int) -> None:
    """A cache of the two spaces."""
    ids = tuple(f"row{number:09}" for number in range(n))
    views = {
        name: View(name, "image", ids, ids, lambda row: ids[row].encode(), bytes) for name in ("images", "captions")
    }
    overlay = Overlay(ids, ("",) * n, {})
    dataset = Dataset("made-up", views, overlay, "none", "made up")
    cache, layout = Cache(folder), Layout(n, chunk_rows(n, 2 * D), 256, "row", 1)
    for side, view in enumerate(views.values()):
        write_rows(cache.folder / dataset.name / view.name, view, overlay)
        rows = {"modality": "image", "decoding": {}, "root": view.root, "n": n}
        binds = {"format": FORMAT, "rows": rows, "encoder": {"made": "up"}, "layer": "last.mean"}
        key = ArrayKey(dataset.name, view.name, "made", "last.mean", binds | {"dtype": "float16", "d": D},
                       {"default_layer": "last.mean"})  # fmt: skip
        array = cache.array(key.path)
        plan = array.create(key, layout)
        turn = np.random.default_rng(side).standard_normal((32, D), np.float32) / 4
        for chunk in range(layout.chunks):
            start, stop = chunk * layout.chunk_rows, min((chunk + 1) * layout.chunk_rows, n)
            latent = np.random.default_rng([7, chunk]).standard_normal((stop - start, 32), np.float32)
            noise = np.random.default_rng([side, chunk]).standard_normal((stop - start, D), np.float32)
            array.commit(plan, chunk, (latent @ turn + noise).astype(np.float16), writer="benchmark")
        array.finish(plan)


def search(folder: Path, queries: int) -> None:
    """Prints seconds, peak bytes beyond those before, score, interval and what searched."""
    pair = galleries(Cache(folder), "made-up", ["images/made", "captions/made"], "first")
    before, peaks, ended = own_bytes(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peaks.append(own_bytes() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    started = perf_counter()
    scores = sampled_scores(pair, SampleSettings(queries, block=BLOCK, pairing="first"))
    took = perf_counter() - started
    ended.set()
    watching.join()
    row = scores.row(pair, 10)
    print(took, max(peaks), row.value, row.ci_low, row.ci_high, scores.backend, sep="\t")


def own_bytes() -> int:
    """Memory of this process that no file stands behind: chunks that are mapped can be dropped at any time."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def products(queries: int) -> float:
    """Seconds a gallery row that float32 products of the queries with a block take, the least of three."""
    x = np.random.default_rng(0).standard_normal((queries, D), np.float32)
    y = np.random.default_rng(1).standard_normal((BLOCK, D), np.float32)
    out, times = np.empty((queries, BLOCK), np.float32), list[float]()
    for _ in range(3):
        started = perf_counter()
        np.matmul(x, y.T, out=out)
        times.append(perf_counter() - started)
    return min(times) / BLOCK


def main() -> None:
    """Writes the cache, searches at several sizes, and prints what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        search(given.folder, given.queries)
        return
    print(f"{processor()}, load {os.getloadavg()[0]:.1f}: {given.queries:,} queries, d = {D}, k = 10, two galleries")
    for n in (given.rows // 4, given.rows):
        with tempfile.TemporaryDirectory() as place:
            started = perf_counter()
            write(Path(place), n)
            print(f"  {n:>9,} rows written in {perf_counter() - started:.0f} s")
            command = [sys.executable, __file__, "--folder", place, "--queries", str(given.queries)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().split("\t")
            took, memory, value, low, high = map(float, said[:5])
            limit = 2 * n * products(given.queries)
            print(
                f"  {n:>9,} rows searched in {took:7.1f} s, {limit / took:.2f} of the speed of float32 products alone; "
                f"{memory / 2**20:,.0f} MiB; mutual k-NN {value:.4f} [{low:.4f}, {high:.4f}] by {said[5]}"
            )


if __name__ == "__main__":
    main()
