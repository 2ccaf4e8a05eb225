"""Metrics against peers and limits: ratios measured in the same run, interleaved, medians.

Every round runs all the peers of a group, every other round in reverse order; a ratio is the median over the rounds of
the ratios within a round, with the least and the greatest of them. Peers get their input as they want it (unit rows for
faiss), at no cost. Features are made up: 32 latent directions, noise, and an offset that all rows share, as encoders'
features have it. Compiling, once per machine, is not timed.

    python benchmarks/alignment.py [--device cuda] [--rounds 5] [--only graph isotropic captions mutual grid cka growth]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from rounds import interleave, processor, seconds, tell

from featcache.metrics import cka, mutual_knn, neighbors
from featcache.metrics.knn import bfloat16
from featcache.metrics.sweeps.grid import layer_grid

sys.path.insert(0, str(Path(__file__).parents[1]))  # the published algorithms are the tests' oracles
from tests.metric_oracles import best_dense_debiased_cka, dense_mutual_knn, dense_unbiased_cka

D, K = 768, 10
FAST = 3.0  # times float32's speed from which on bfloat16 counts as fast: AMX, tensor cores
GROWTH = (9_692, 19_384, 38_768, 77_535, 155_070)


def features(n: int, seed: int, device: str) -> torch.Tensor:
    """[n, D] float32: 32 directions that two seeds share, noise, an offset."""
    latent = torch.randn(n, 32, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    mixed = latent @ torch.randn(32, D, generator=generator) / 4 + torch.randn(n, D, generator=generator)
    return (mixed + torch.randn(D, generator=generator)).to(device)


def on(device: str, run: Callable[[], object]) -> Callable[[], object]:
    """The run, until the device has done it."""
    if not device.startswith("cuda"):
        return run

    def waited() -> object:
        result = run()
        torch.cuda.synchronize()
        return result

    return waited


def all_products(x: torch.Tensor) -> Callable[[], object]:
    """Every inner product of the rows once, into memory that is there: what any full search pays at least."""
    memory = torch.empty(2048, len(x), device=x.device)

    def run() -> None:
        if x.device.type == "cpu":  # NumPy's products, which are quicker than torch's on several machines
            for start in range(0, len(x), 2048):
                rows = x[start : start + 2048].numpy()
                np.matmul(rows, x.numpy().T, out=memory[: len(rows)].numpy())
            return
        for rows in x.split(2048):
            torch.mm(rows, x.T, out=memory[: len(rows)])

    return run


# -- what is measured -------------------------------------------------------------------------------------------------


def goal(fast: float, other: float) -> float:
    """The goal of this machine's class: with fast bfloat16, or without."""
    return fast if bfloat16.speed().ratio >= FAST else other


def why_bfloat16() -> str:
    """What the products would allow here."""
    speed = bfloat16.speed()
    return (
        f"one thread multiplies float32 at {2 * speed.single / 1e9:,.0f} and bfloat16 at {2 * speed.half / 1e9:,.0f} "
        f"GFLOP/s: half the products at that speed would be {2 * max(speed.ratio, 1):.1f} times all of them in float32"
    )


def measure_graph(device: str, rounds: int) -> None:
    """Self-kNN graph of 31,014 rows (the photos of Flickr30k), k = 10, certified."""
    graph_of("graph", features(31_014, 0, device), device, rounds, speed=goal(4.5, 1.8))


def measure_isotropic(device: str, rounds: int) -> None:
    """The same of rows without structure, whose neighbours are hardest to tell apart."""
    x = torch.randn(31_014, D, generator=torch.Generator().manual_seed(0)).to(device)
    graph_of("isotropic graph", x, device, rounds, speed=goal(3, 1.8))


def measure_captions(device: str, rounds: int) -> None:
    """37,390 rows of 384, five a group that are no neighbours of each other (captions)."""
    x = features(37_390, 0, device)[:, :384].contiguous()
    graph_of("captions graph", x, device, rounds, speed=goal(4.5, 1.8), groups=np.arange(37_390) // 5)


def graph_of(
    what: str, x: torch.Tensor, device: str, rounds: int, *, speed: float, groups: np.ndarray | None = None
) -> None:
    """Times one graph against faiss, and against all products."""
    import faiss

    unit = torch.nn.functional.normalize(x)
    plain = unit.cpu().numpy()

    def peer() -> object:
        if device.startswith("cuda"):
            resources = faiss.StandardGpuResources()
            return faiss.knn_gpu(resources, plain, plain, K + 1, metric=faiss.METRIC_INNER_PRODUCT)
        return faiss.knn(plain, plain, K + 1, metric=faiss.METRIC_INNER_PRODUCT)

    ours = neighbors(x, k=K, groups=groups)
    runs = {
        "faiss.knn": peer,
        "graph": on(device, lambda: neighbors(x, k=K, groups=groups)),
        "all products (sgemm)": on(device, all_products(unit)),
    }
    if not device.startswith("cuda"):
        runs["float32 tiles"] = lambda: neighbors(x, k=K, groups=groups, backend="tiles")
    if device.startswith("cuda") and not hasattr(faiss, "StandardGpuResources"):
        del runs["faiss.knn"]
    times = interleave(runs, rounds)
    if "faiss.knn" in runs:
        same = np.array_equal(ours.ids, neighbors(x, k=K, groups=groups, backend="faiss").ids)
        tell(what, times, "graph", "faiss.knn", speed=speed, why=why_bfloat16)
        if "float32 tiles" in runs:
            tell(f"{what}, float32", times, "float32 tiles", "faiss.knn", speed=1.8)
        print(f"      ids certified by {ours.backend} and by faiss are {'the same' if same else 'NOT THE SAME'}")
    tell(f"{what}, half the products needed", times, "graph", "all products (sgemm)")
    flops = 2 * len(x) ** 2 * x.shape[1] / statistics.median(times["all products (sgemm)"])
    print(f"      sgemm {flops / 1e9:,.0f} GFLOP/s; half of all products would be 2.00 of its speed")


def measure_mutual(device: str, rounds: int) -> None:
    """mutual_knn of two spaces of 8,192 rows against the published algorithm (n x n, every row sorted, dense masks)."""
    x, y = features(8_192, 0, device), features(8_192, 1, device)
    a, b = (torch.nn.functional.normalize(v) for v in (x, y))
    products = all_products(a)
    runs = {
        "mutual_knn": on(device, lambda: mutual_knn(x, y, k=K)),
        "published, dense": on(device, lambda: dense_mutual_knn(a, b, k=K)),
        "one space's products": on(device, products),
    }
    times = interleave(runs, rounds)
    tell("mutual_knn", times, "mutual_knn", "published, dense", speed=goal(20, 10), why=why_bfloat16)
    tell("mutual_knn, half of two needed", times, "mutual_knn", "one space's products")
    print(f"      scores: {mutual_knn(x, y, k=K):.6f} and {dense_mutual_knn(a, b, k=K):.6f}")


def measure_grid(device: str, rounds: int) -> None:
    """All 13 x 13 layer pairs at 4,096 rows; eight dense pairs are timed and scaled to 169."""
    layers = [[features(4_096, 13 * side + layer, device) for layer in range(13)] for side in (0, 1)]
    units = [[torch.nn.functional.normalize(layer) for layer in side] for side in layers]

    def dense() -> None:
        for pair in range(8):
            dense_mutual_knn(units[0][pair], units[1][pair], k=K)

    runs = {"grid": on(device, lambda: layer_grid("mutual_knn", *layers, k=K)), "eight dense pairs": on(device, dense)}
    times = interleave(runs, rounds)
    times["169 dense pairs (8, scaled)"] = [169 / 8 * one for one in times["eight dense pairs"]]
    tell("13 x 13 layer grid", times, "grid", "169 dense pairs (8, scaled)", speed=goal(200, 100), why=why_bfloat16)


def measure_cka(device: str, rounds: int) -> None:
    """Debiased linear CKA of 8,192 rows, float32, against the published form (n x n matrix products)."""
    x, y = features(8_192, 0, device), features(8_192, 1, device)
    runs = {
        "float32": on(device, lambda: cka(x, y, debiased=True, precision="float32")),
        "float64": on(device, lambda: cka(x, y, debiased=True)),
        "published form": on(device, lambda: dense_unbiased_cka(x, y)),
        "best dense form": on(device, lambda: best_dense_debiased_cka(x, y)),
    }
    times = interleave(runs, rounds)
    tell("debiased CKA, float32", times, "float32", "published form", speed=goal(150, 100))
    tell("debiased CKA, float64", times, "float64", "published form")
    tell("debiased CKA, float32", times, "float32", "best dense form")
    scores = [float(runs[name]()) for name in runs]  # pyright: ignore[reportArgumentType]
    print("      scores: " + ", ".join(f"{name} {score:.7f}" for name, score in zip(runs, scores, strict=True)))


def measure_growth(device: str, rounds: int) -> None:
    """Time and memory of one graph as n grows to the 155,070 captions of Flickr30k, each in a process of its own."""
    measured = []
    for n in GROWTH:
        command = [sys.executable, __file__, "--one", str(n), "--device", device]
        took, memory = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        measured.append((n, took, memory))
        print(f"  {n:>9,} rows {took:8.2f} s   {memory / 1e6:8.0f} MB beyond the features")
    n, took, memory = np.log(np.array(measured)).T
    print(f"  time grows as n^{np.polyfit(n, took, 1)[0]:.2f}, memory as n^{np.polyfit(n, memory, 1)[0]:.2f}")


def one(n: int, device: str) -> None:
    """Prints seconds and peak memory beyond the features of one graph of n rows; the library is warm."""
    neighbors(features(1_000, 0, device), k=K)
    x = features(n, 0, device)
    before = resident()
    took = seconds(on(device, lambda: neighbors(x, k=K)))
    print(took, max(resident(peak=True) - before, 1))


def resident(*, peak: bool = False) -> float:
    """Bytes of this process in memory, now or at most."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEASURES = {
    "graph": measure_graph,
    "isotropic": measure_isotropic,
    "captions": measure_captions,
    "mutual": measure_mutual,
    "grid": measure_grid,
    "cka": measure_cka,
    "growth": measure_growth,
}


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.device)
        return
    started = perf_counter()
    print(f"{processor()}; bfloat16 {bfloat16.speed().ratio:.1f} times float32, of one thread")
    print(
        f"d = {D}, k = {K}, float32, {given.device}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, "
        f"{given.rounds} rounds"
    )
    for name in given.only:
        print(f"{name}: {(MEASURES[name].__doc__ or '').splitlines()[0]}")
        MEASURES[name](given.device, given.rounds)
    print(f"{perf_counter() - started:.0f} s in all, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
