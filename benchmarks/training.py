"""Training at the size of Flickr30k: seconds an epoch, and the share of training that tracking every epoch takes.

29,000 training, 1,014 validation and 1,000 test groups; one 512-d and five 768-d rows a group, a 384-d reference, 256-d
joint. Features are made up. The goal is tracking at most 15 % of the training itself.

    python benchmarks/training.py [--epochs 4] [--rounds 3]
"""

import argparse
import statistics
from time import perf_counter
from typing import Any

import numpy as np
from rounds import processor

import featcache.trainer.fit as training
from featcache.features import Features
from featcache.trainer.config import FitConfig
from featcache.trainer.sides import pair_sides
from featcache.trainer.tracking import EvaluationSplit

SPLITS = {"train": 29_000, "validation": 1_014, "test": 1_000}
GOAL = 0.15


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


if __name__ == "__main__":
    main()
