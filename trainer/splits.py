"""Which groups are trained on, chosen by and measured: the data set's own splits, and those that are drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from featcache.data.datasets import extract_command
from featcache.data.splits import LEAST_MEASURED
from featcache.features import Features
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired

USED_SPLITS = ("train", "validation", "test")


def drawn_by_id(
    ids: NDArray[Any], candidates: Int[np.ndarray, " c"], count: int, seed: int
) -> Int[np.ndarray, " count"]:
    """Some of the candidates, in random order; the draw depends on the set of their ids and not on their order.

    Args:
        ids: Id of every group; no two are alike.
        candidates: Numbers of the groups that are drawn from.
        count: How many are drawn, all where there are fewer; those of a smaller count are among them.
        seed: Of the draw.

    Example:
        >>> drawn_by_id(np.array(["b", "a", "c"]), np.array([0, 1, 2]), 2, seed=0).tolist()
        [2, 1]
        >>> drawn_by_id(np.array(["a", "b", "c"]), np.array([0, 1, 2]), 2, seed=0).tolist()
        [2, 0]
    """
    by_id = candidates[np.argsort(ids[candidates], kind="stable")]
    return np.random.default_rng(seed).permutation(by_id)[:count]


def seen_by_run(features: Features, test: set[str]) -> list[str]:
    """Test groups that the run which made an embedding had in another split, sorted; none of other features."""
    pairs = zip(features.groups.tolist(), features.run_splits.tolist(), strict=False)
    return sorted({group for group, split in pairs if group in test and split != "test"})


def check_unseen(arrays: Mapping[str, Features], test: set[str]) -> None:
    """Refuses embeddings of a run that was trained, with other splits, on what is a test group now.

    Raises:
        NotPaired: Names the array, and the first group.
    """
    for role, features in arrays.items():
        seen = seen_by_run(features, test)
        if seen:
            raise NotPaired(
                f"{role} ({features.name}) are embeddings of a run that had {len(seen)} of the {len(test)} test groups "
                f"in another split, the first {seen[0]!r}: the splits changed since\n  Train that run and embed again"
            )


def same_splits(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether what two runs record of their splits is of the same validation and test groups."""
    return all(record[what] == other[what] for what in ("n", "hashes"))


def drawn_test(groups: NDArray[Any], complete: NDArray[np.bool_], config: FitConfig) -> NDArray[Any]:
    """Split of each group, "train" or "test", drawn among those that can be measured (`complete`)."""
    wanted = config.drawn_test or 0.0
    count = round(wanted * len(groups)) if wanted < 1 else int(wanted)
    splits = np.full(len(groups), "train", dtype=object)
    splits[drawn_by_id(groups, np.flatnonzero(complete), count, config.split_seed)] = "test"
    return splits.astype(str)


def used_splits(
    groups: NDArray[Any], published: NDArray[Any], complete: NDArray[np.bool_], config: FitConfig, dataset: str
) -> tuple[dict[str, NDArray[np.int64]], str]:
    """Groups of each split, ascending, and in words where they come from; without a validation split one is drawn.

    Args:
        groups: Id of each group.
        published: Its split.
        complete: Whether it has rows of every array, without which it cannot be measured.
        config: Reads split_seed, drawn_test and drawn_validation.
        dataset: Name of the data set, for the message.

    Raises:
        NotPaired: If there is no training or no test group.
    """
    splits = {name: np.flatnonzero((published == name) & (complete | (name == "train"))) for name in USED_SPLITS}
    for name in ("train", "test"):
        if not len(splits[name]):
            values = ", ".join(f"{split!r}: {(published == split).sum()}" for split in sorted(set(published.tolist())))
            raise NotPaired(
                f"{dataset} has no {name} split among its {len(groups)} paired groups (found {values})\n"
                f'  Give the data set a split column with "train" and "test", and extract again: nothing is encoded\n'
                f"  Run: {extract_command(dataset)}\n  for an encoder of each view"
            )
    if len(splits["validation"]):
        return splits, "train, validation and test as extracted: the data set's own, or drawn by a hash of the group"
    train = splits["train"]
    share = max(1, round(config.drawn_validation * len(train)))
    drawn = drawn_by_id(groups, train[complete[train]], share, config.split_seed)
    splits["validation"] = np.sort(drawn)
    splits["train"] = np.setdiff1d(train, drawn)
    rule = f"{100 * config.drawn_validation:.3g}% of the training groups, drawn with seed {config.split_seed}"
    if config.drawn_test is not None:
        return splits, f"test drawn with seed {config.split_seed} in place of the data set's own; validation: {rule}"
    return splits, f"no validation split: {rule}"


def _more_groups(splits: Mapping[str, NDArray[np.int64]]) -> str:
    """What to do where a split has too few groups for k."""
    most = min(len(splits["validation"]), len(splits["test"])) - 1
    lower = f"Train with --k {most}, or use" if most >= LEAST_MEASURED - 1 and len(splits["train"]) > 1 else "Use"
    return f"{lower} a larger data set; a folder of your own is split anew by featcache extract DIR --split 60/20/20"


def check_sizes(splits: dict[str, NDArray[np.int64]], in_training: Mapping[str, int], k: int, dataset: str) -> None:
    """Refuses splits of too few groups for k, and sides with rows in fewer than two training groups (`in_training`).

    Raises:
        NotPaired: Says how many there are and how many are needed.
    """
    for name, least in (("train", 2), ("validation", max(LEAST_MEASURED, k + 1)), ("test", max(LEAST_MEASURED, k + 1))):
        if len(splits[name]) < least:
            raise NotPaired(
                f"the {name} split of {dataset} has {len(splits[name])} paired groups; k = {k} needs at least {least}\n"
                f"  {_more_groups(splits)}"
            )
    for name, count in in_training.items():
        if count < 2:
            raise NotPaired(
                f"{name} has rows in {count} of the {len(splits['train'])} training groups of {dataset}; an adapter "
                f"needs at least 2\n  Leave that side out, or extract more of it"
            )
