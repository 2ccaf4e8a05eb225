"""Extraction against the best bare encoder loop: one run, interleaved, medians.

The pipeline and the bare loops get the same decoded rows. The bare loop is the best of three batch sizes: model,
channels_last, inference_mode, pooled output kept in memory, nothing else. The pipeline also casts, checks, pools every
layer asked for, writes and syncs. A second figure includes decoding from the files.

    python benchmarks/extraction.py [--encoders efficientnet-lite0 minilm] [--rows 512] [--rounds 5]
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from featcache.cache import Cache
from featcache.data import open_dataset
from featcache.data.views import Dataset, View
from featcache.encoders import EncodeOptions, encoder_spec, load_encoder
from featcache.extraction.extract import extract
from featcache.extraction.job import plan_job

BATCH_SIZES = (16, 32, 64)
GOAL = 0.9


def decoded_once(view: View, rows: int) -> tuple[View, View]:
    """The first rows of a view, from its files and from memory, decoded."""
    items = [view.read(row) for row in range(rows)]
    places = {row_id: number for number, row_id in enumerate(view.ids)}
    some = replace(view, ids=view.ids[:rows], groups=view.groups[:rows])
    in_memory = replace(
        some,
        content=lambda row: view.ids[row].encode(),
        decode=lambda content: items[places[content.decode()]],
    )
    return some, in_memory


def pipeline(dataset: Dataset, view: View, name: str, encoder: Any, layers: list[str] | None) -> float:
    """Seconds of one extraction into an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(folder)
        small = replace(dataset, views={view.name: view})
        job = plan_job(cache, small, encoder_spec(name), EncodeOptions(), layers=layers)
        return extract(cache, job, encoder=encoder).seconds


def bare_loop(network: torch.nn.Module, modality: str, prepared: list[Any], batch: int) -> float:
    """Seconds of the shortest loop that gives the last layer's pooled features of prepared rows."""
    started, kept = perf_counter(), list[torch.Tensor]()
    with torch.inference_mode():
        if modality == "text":
            prepared = sorted(prepared, key=lambda row: -len(row.ids))
        for low in range(0, len(prepared), batch):
            rows = prepared[low : low + batch]
            if modality == "image":
                pixels = torch.stack(rows).permute(0, 3, 1, 2)  # rows [h, w, 3]: channels last in memory
                kept.append(network.forward_features(pixels).mean((2, 3)))  # pyright: ignore[reportCallIssue]
            else:
                ids = torch.nn.utils.rnn.pad_sequence([row.ids for row in rows], batch_first=True)
                mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row.ids)] for row in rows])
                hidden = network(input_ids=ids, attention_mask=mask.long()).last_hidden_state
                kept.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    assert sum(map(len, kept)) == len(prepared)
    return perf_counter() - started


def compare(name: str, rows: int, rounds: int, dataset: Dataset) -> None:
    """Prints the ratios of one encoder."""
    spec = encoder_spec(name)
    view = dataset.view_for(spec.modality)
    from_files, in_memory = decoded_once(view, min(rows, len(view)))
    with tempfile.TemporaryDirectory() as memo:
        encoder = load_encoder(spec, EncodeOptions(), memo=Path(memo))
    n = len(in_memory)
    prepared = [encoder.prepare(in_memory.read(row)) for row in range(n)]
    network = encoder._backbone.module  # the very network, without anything of ours around it
    if spec.modality == "image":
        bare = [
            (row.float() / 255 - 0.5) / 0.5 for row in prepared
        ]  # normalised beforehand, to the bare loop's advantage
    else:
        bare = prepared
    runs: dict[str, Callable[[], float]] = {
        **{
            f"bare loop, batch {size}": lambda size=size: bare_loop(network, spec.modality, bare, size)
            for size in BATCH_SIZES
        },
        "pipeline, last layer": lambda: pipeline(dataset, in_memory, name, encoder, ["last"]),
        "pipeline, every layer": lambda: pipeline(dataset, in_memory, name, encoder, None),
        "pipeline, every layer, from files": lambda: pipeline(dataset, from_files, name, encoder, None),
    }
    seconds: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(rounds):
        for what, run in runs.items():
            seconds[what].append(run())
    rates = {what: n / statistics.median(times) for what, times in seconds.items()}
    best = max(rate for what, rate in rates.items() if what.startswith("bare"))
    where = f"{n} rows of {dataset.name}/{view.name}"
    print(f"\n{name}: {where}, {torch.get_num_threads()} threads, median of {rounds} rounds")
    for what, rate in rates.items():
        ratio = rate / best
        verdict = (
            f"  goal {GOAL}: {'reached' if ratio >= GOAL else 'MISSED'}" if what == "pipeline, every layer" else ""
        )
        print(f"  {what:36} {rate:8.1f} rows/s   {ratio:5.2f} of the best bare loop{verdict}")


def main() -> None:
    """Parses the command line and compares each encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["efficientnet-lite0", "minilm"])
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    dataset = open_dataset("openmoji")
    for name in given.encoders:
        compare(name, given.rows, given.rounds, dataset)


if __name__ == "__main__":
    main()
