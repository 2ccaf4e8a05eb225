"""Training many small encoders at once: CPU time of a step and encoder against one module an encoder.

The peer is torch.nn.Sequential with torch.optim.AdamW and clip_grad_norm_, as the released code of arXiv:2502.16282
trains; beside it the same with the fused optimiser. Encoders of 12 inputs, 12 units a layer, batches of 512; data are
made up. Rounds are interleaved, one thread, CPU time of the process. The goal is 8 times less.

    python benchmarks/ensembles.py [--members 90] [--steps 40] [--rounds 5] [--depths 1,5,10]
"""

import argparse
import statistics
from collections.abc import Callable
from time import process_time

import torch
from rounds import processor
from torch import Tensor

from featcache.trainer.ensembles.fit import FitSettings, Rows, fit_classifiers
from featcache.trainer.ensembles.flat import Rates
from featcache.trainer.ensembles.mlp import MlpEnsemble, Shape, initial_mlps

GOAL, BATCH, ROWS = 8.0, 512, 45_875
RATES = Rates(0.01)


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    started = process_time()
    run()
    return process_time() - started


def train_alone(network: torch.nn.Module, x: Tensor, labels: Tensor, steps: int, fused: bool) -> None:
    """Some steps of one network."""
    optimizer = torch.optim.AdamW(
        network.parameters(), RATES.learning_rate, weight_decay=RATES.weight_decay, fused=fused
    )
    order = torch.randperm(len(x)).split(BATCH)[:steps]
    for batch in order:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[batch]), labels[batch]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), RATES.clip)
        optimizer.step()


def measure(depth: int, members: int, steps: int, rounds: int) -> dict[str, float]:
    """Microseconds of CPU time a step and encoder, medians of the rounds."""
    shape = Shape(12, 12, depth, 4)
    rows = Rows(torch.randn(ROWS, members, 12), torch.randint(0, 4, (ROWS, members)))
    few = Rows(rows.x[:BATCH], rows.labels[:BATCH])
    x, labels = rows.x[:, 0].contiguous(), rows.labels[:, 0].contiguous()
    ensemble = initial_mlps(shape, range(members))

    def together() -> None:
        fit_classifiers(
            MlpEnsemble(shape, ensemble.flat.values), [RATES] * members, rows, few, FitSettings(steps, BATCH)
        )

    runs = {
        "ensemble": (together, members),
        "one module": (lambda: train_alone(ensemble.member(0), x, labels, steps, False), 1),
        "one module, fused": (lambda: train_alone(ensemble.member(0), x, labels, steps, True), 1),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, (run, count) in runs.items():
            spent = cpu_seconds(run) / steps / count * 1e6
            if number:  # the first warms up
                times[name].append(spent)
    return {name: statistics.median(spent) for name, spent in times.items()}


def main() -> None:
    """Measures each depth and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=90)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depths", default="1,5,10")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, one thread, {options.members} encoders, batches of {BATCH}; CPU time a step and encoder")
    sums = dict.fromkeys(("ensemble", "one module", "one module, fused"), 0.0)
    for depth in map(int, options.depths.split(",")):
        medians = measure(depth, options.members, options.steps, options.rounds)
        show(f"depth {depth}", medians)
        sums = {name: total + medians[name] for name, total in sums.items()}
    show("all depths", sums)
    reached = sums["one module"] / sums["ensemble"]
    print(f"goal: {GOAL:g} times less than one module an encoder; reached {reached:.1f}")


def show(what: str, medians: dict[str, float]) -> None:
    """One line: times, and their ratios to the ensemble's."""
    times = "  ".join(f"{name} {spent:.0f} us" for name, spent in medians.items())
    ratios = " and ".join(f"{spent / medians['ensemble']:.1f}" for name, spent in medians.items() if name != "ensemble")
    print(f"{what:<11} {times}  -> {ratios} times less")


if __name__ == "__main__":
    main()
