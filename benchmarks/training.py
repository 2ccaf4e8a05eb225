"""Training at the size of Flickr30k: seconds an epoch, against its matrix products, and the share of tracking.

29,000 training, 1,014 validation and 1,000 test groups; one 512-d and five 768-d rows a group, a 384-d reference.
Features are made up. The goals: tracking every epoch at most 15 % of the training itself (256-d joint, batch 512), and
an epoch at .6 of the speed of the step's matrix products alone, or more (512-d joint, batch 1,024, interleaved).

    python benchmarks/training.py [--epochs 4] [--rounds 3]
"""

import argparse
import statistics
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rounds import processor

import featcache.trainer.fit as training
from featcache.features import Features
from featcache.trainer.config import FitConfig
from featcache.trainer.sides import PairedSides, pair_sides
from featcache.trainer.tracking import EvaluationSplit

SPLITS = {"train": 29_000, "validation": 1_014, "test": 1_000}
GOAL, GEMM_GOAL = 0.15, 0.6


def side(width: int, rows: int, seed: int) -> Features:
    """`rows` rows a group around a latent vector that all sides share."""
    groups = sum(SPLITS.values())
    latent = np.random.default_rng(0).standard_normal((groups, 32), np.float32)
    rng = np.random.default_rng(seed)
    values = np.repeat(latent, rows, axis=0) @ rng.standard_normal((32, width), np.float32)
    values += 3 * rng.standard_normal(values.shape, np.float32)
    names = np.array([f"{number}.jpg" for number in range(groups)], object)
    splits = np.array([name for name, count in SPLITS.items() for _ in range(count)], object)
    ids = np.array([f"{name}#{row}" for name in names for row in range(rows)], object)
    return Features(values.astype(np.float16), ids, np.repeat(names, rows), np.repeat(splits, rows), dataset="made up")


def products(width: int, batch: int, steps: int) -> float:
    """Seconds that an epoch's matrix products take: two projections, logits, and the gradients of both."""
    x, y, to_x, to_y = (torch.randn(rows, d) for rows, d in ((batch, 512), (batch, 768), (width, 512), (width, 768)))
    started = perf_counter()
    for _ in range(steps):
        a, b = x @ to_x.T, y @ to_y.T
        logits = a @ b.T
        of_a, of_b = logits @ b, logits.T @ a
        _ = of_a.T @ x, of_b.T @ y
    return perf_counter() - started


def against_products(paired: PairedSides, rounds: int) -> None:
    """Prints how fast an epoch is relative to its products alone."""
    config = FitConfig(epochs=2, batch=1_024, width=512)
    steps = -(-SPLITS["train"] // config.batch)
    run_epoch, ratios, both = training._EpochLoop.run_epoch, list[float](), list[tuple[float, float]]()
    spent = list[float]()

    def timed(*args: Any) -> float:
        started = perf_counter()
        loss = run_epoch(*args)
        spent.append(perf_counter() - started)
        return loss

    training._EpochLoop.run_epoch = timed
    products(config.width, config.batch, 3)
    for _ in range(rounds):
        spent.clear()
        training.fit_paired(paired, config)
        both.append((products(config.width, config.batch, steps), statistics.median(spent)))
        ratios.append(both[-1][0] / both[-1][1])
    training._EpochLoop.run_epoch = run_epoch
    ratio, (alone, epoch) = statistics.median(ratios), (statistics.median(each) for each in zip(*both, strict=True))
    print(
        f"an epoch of {steps} steps of {config.batch:,}, 512- and 768-d to 512: {epoch:.2f} s; its matrix products "
        f"alone {alone:.2f} s, {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}); goal ≥ {GEMM_GOAL}: "
        f"{'reached' if ratio >= GEMM_GOAL else 'not reached'}"
    )


def main() -> None:
    """Trains and tracks, and prints the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = FitConfig(epochs=options.epochs)
    paired = pair_sides({"images": side(512, 1, 1), "captions": side(768, 5, 2)}, side(384, 1, 3), config)
    tracked = training.epoch_rows
    shares, epochs = list[float](), list[float]()
    for _ in range(options.rounds):
        spent = list[float]()

        def timed(*args: Any, spent: list[float] = spent) -> Any:
            started = perf_counter()
            rows = tracked(*args)
            spent.append(perf_counter() - started)
            return rows

        training.epoch_rows = timed
        validation = EvaluationSplit("validation", paired.part("validation"))
        fitted = training.fit_paired(paired, config, validation=validation)
        once, *each = spent  # the first prepares the raw spaces and the reference for all
        trained = fitted.seconds - sum(spent)
        shares.append(statistics.median(each) / (trained / options.epochs))
        epochs.append(trained / options.epochs)
    training.epoch_rows = tracked
    share = statistics.median(shares)
    print(f"{processor()}: {statistics.median(epochs):.2f} s an epoch of {SPLITS['train']:,} groups")
    print(
        f"tracking an epoch: {share:.1%} of training it ({min(shares):.1%} to {max(shares):.1%}); first epoch's "
        f"{once:.2f} s; goal ≤ {GOAL:.0%}: {'reached' if share <= GOAL else 'not reached'}"
    )
    against_products(paired, options.rounds)


if __name__ == "__main__":
    main()
