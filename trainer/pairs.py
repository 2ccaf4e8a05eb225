"""Rows paired by group, and the groups of each split, fixed before training."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from featcache.features import Features
from featcache.metrics import group_mean
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired

USED_SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Side:
    """Rows of one feature array, ordered by group; group g owns rows starts[g] to starts[g] + counts[g].

    Args:
        values: [n, d] float32.
        groups: [n] group number of each row, ascending.
        starts: [g] first row of each group.
        counts: [g] rows of each group, at least 1.
    """

    values: Float[Tensor, "n d"]
    groups: Int[Tensor, " n"]
    starts: Int[Tensor, " g"]
    counts: Int[Tensor, " g"]

    def means(self) -> Float[Tensor, "g d"]:
        """Mean row of each group."""
        if len(self.values) == len(self.counts):
            return self.values
        means, _ = group_mean(self.values, self.groups.numpy())
        return torch.as_tensor(means).to(self.values)

    def averaged(self) -> "Side":
        """One row a group: its mean."""
        count = len(self.counts)
        numbers = torch.arange(count)
        return Side(self.means(), numbers, numbers, torch.ones_like(numbers))

    def take(self, groups: Int[Tensor, " m"]) -> "Side":
        """The rows of some groups, renumbered 0 to m-1 in the order given."""
        counts = self.counts[groups]
        ends = counts.cumsum(0)
        numbers = torch.repeat_interleave(torch.arange(len(groups)), counts)
        within = torch.arange(len(numbers)) - (ends - counts)[numbers]
        return Side(self.values[self.starts[groups][numbers] + within], numbers, ends - counts, counts)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The groups that x, y and the reference share, with their splits.

    Args:
        x: One side; its group numbers index `groups`.
        y: The other side.
        reference: [g, d] mean reference row of each group, float32.
        groups: [g] group ids, in the order of x.
        labels: [g] first label column of x (else of y), "" where there is none.
        splits: "train", "validation", "test" -> group numbers, ascending.
        split: What config.json records: rule, counts, hashes of validation and test ids.
    """

    x: Side
    y: Side
    reference: Float[Tensor, "g d"]
    groups: NDArray[Any]
    labels: NDArray[Any]
    splits: dict[str, Int[Tensor, " m"]]
    split: dict[str, Any]

    def part(self, split: str) -> "Pairs":
        """The groups of one split, renumbered, in the same order."""
        numbers = self.splits[split]
        here = numbers.numpy()
        return replace(
            self,
            x=self.x.take(numbers),
            y=self.y.take(numbers),
            reference=self.reference[numbers],
            groups=self.groups[here],
            labels=self.labels[here],
            splits={split: torch.arange(len(numbers))},
        )


def pair(x: Features, y: Features, reference: Features, config: FitConfig) -> Pairs:
    """Pairs three feature arrays of one data set by group and fixes the splits.

    Groups that one of the three lacks are left out and counted. Groups in another split than train, validation and
    test are left out and counted. Where the data set has no validation split, a seeded tenth of the training groups
    becomes one.

    Args:
        x: Features of one side.
        y: Features of the other side.
        reference: Features that alignment is measured against; several rows of a group are averaged.
        config: Reads split_seed and k.

    Raises:
        NotPaired: If data set or overlay differ, no group is shared, a split is missing or too small for k, or a row
            is not finite.
    """
    arrays = {"x": x, "y": y, "reference": reference}
    _check_same_source(arrays)
    _check_finite(arrays)
    groups = _shared_groups(arrays)
    sides = {role: _side(features, groups) for role, features in arrays.items()}
    first = {role: _first_rows(features, groups) for role, features in arrays.items()}
    published = x.splits[first["x"]].astype(str)
    for role in ("y", "reference"):
        differs = np.flatnonzero(arrays[role].splits[first[role]].astype(str) != published)
        if len(differs):
            group, split = str(groups[differs[0]]), str(published[differs[0]])
            raise NotPaired(
                f"group {group!r} is in split {split!r} of x ({x.name}) but in another of {role} "
                f"({arrays[role].name})\n  Load all three with the same overlay"
            )
    splits, rule = _splits(groups, published, config, x.dataset)
    _check_sizes(splits, config.k, x.dataset)
    record = {
        "rule": rule,
        "groups": {role: len(set(features.groups.tolist())) for role, features in arrays.items()},
        "paired": len(groups),
        "unused": len(groups) - sum(len(numbers) for numbers in splits.values()),
        "n": {name: len(numbers) for name, numbers in splits.items()},
        "hashes": {name: hash_ids(groups[splits[name]]) for name in ("validation", "test")},
    }
    labels = next(
        (column[first[r]] for r in ("x", "y") for column in arrays[r].labels.values()), np.full(len(groups), "")
    )
    numbers = {name: torch.from_numpy(indices) for name, indices in splits.items()}
    return Pairs(sides["x"], sides["y"], sides["reference"].means(), groups, labels.astype(str), numbers, record)


def hash_ids(ids: NDArray[Any]) -> str:
    """blake3 of the sorted ids as a JSON list, hex; equal for equal sets.

    Example:
        >>> hash_ids(np.array(["b", "a"])) == hash_ids(np.array(["a", "b"]))
        True
    """
    return blake3(json.dumps(sorted(str(name) for name in ids), ensure_ascii=False).encode()).hexdigest()


def _check_same_source(arrays: dict[str, Features]) -> None:
    for what in ("dataset", "overlay"):
        values = {role: getattr(features, what) for role, features in arrays.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{role} ({arrays[role].name}): {value[:16]!r}" for role, value in values.items())
            word = "data set" if what == "dataset" else "overlay (splits and labels)"
            raise NotPaired(
                f"x, y and reference must come from one {word}; found {listed}\n"
                f"  Load all three from the same data set, with the same splits and labels"
            )


def _check_finite(arrays: dict[str, Features]) -> None:
    for role, features in arrays.items():
        bad = np.flatnonzero(~np.isfinite(features.values).all(axis=1))
        if len(bad):
            raise NotPaired(
                f"{len(bad)} rows of {role} ({features.name}) are not finite, the first {features.ids[bad[0]]!r}\n"
                f"  Drop them before training, or extract again with --dtype float32"
            )


def _shared_groups(arrays: dict[str, Features]) -> NDArray[Any]:
    sets = {role: set(features.groups.tolist()) for role, features in arrays.items()}
    shared = set.intersection(*sets.values())
    if not shared:
        examples = ", ".join(
            f"{role} has {len(values)}, such as {min(values, default='')!r}" for role, values in sets.items()
        )
        raise NotPaired(f"no group is in all of x, y and reference: {examples}\n  Choose views of the same samples")
    return np.array([group for group in dict.fromkeys(arrays["x"].groups.tolist()) if group in shared], dtype=str)


def _numbered(features: Features, groups: NDArray[Any]) -> NDArray[np.int64]:
    number = {group: index for index, group in enumerate(groups.tolist())}
    return np.array([number.get(group, -1) for group in features.groups.tolist()], dtype=np.int64)


def _first_rows(features: Features, groups: NDArray[Any]) -> NDArray[np.int64]:
    numbers = _numbered(features, groups)
    _, rows = np.unique(numbers, return_index=True)
    return rows[-len(groups) :]  # -1, the rows of groups not shared, sorts first


def _side(features: Features, groups: NDArray[Any]) -> Side:
    numbers = _numbered(features, groups)
    order = np.argsort(numbers, kind="stable")
    order = order[numbers[order] >= 0]
    counts = np.bincount(numbers[order], minlength=len(groups))
    starts = np.cumsum(counts) - counts
    values = features.tensor()[torch.from_numpy(order)].float()  # faster than NumPy's own conversion of halves
    return Side(values, *(torch.from_numpy(part) for part in (numbers[order], starts, counts)))


def _splits(
    groups: NDArray[Any], published: NDArray[Any], config: FitConfig, dataset: str
) -> tuple[dict[str, NDArray[np.int64]], str]:
    splits = {name: np.flatnonzero(published == name) for name in USED_SPLITS}
    for name in ("train", "test"):
        if not len(splits[name]):
            values = ", ".join(f"{split!r}: {(published == split).sum()}" for split in sorted(set(published.tolist())))
            raise NotPaired(
                f"{dataset} has no {name} split among its {len(groups)} paired groups (found {values})\n"
                f'  Give the data set a split column with "train" and "test"'
            )
    if len(splits["validation"]):
        return splits, "train, validation and test as the data set has them"
    # Drawn by id, so that the draw depends on the set of training groups and not on their order.
    train = splits["train"][np.argsort(groups[splits["train"]], kind="stable")]
    drawn = np.random.default_rng(config.split_seed).permutation(train)[: max(1, round(VALIDATION_SHARE * len(train)))]
    splits["validation"] = np.sort(drawn)
    splits["train"] = np.setdiff1d(splits["train"], drawn)
    rule = f"no validation split: {VALIDATION_SHARE:.0%} of the training groups, drawn with seed {config.split_seed}"
    return splits, rule


def _check_sizes(splits: dict[str, NDArray[np.int64]], k: int, dataset: str) -> None:
    for name, least in (("train", 2), ("validation", k + 1), ("test", k + 1)):
        if len(splits[name]) < least:
            raise NotPaired(
                f"the {name} split of {dataset} has {len(splits[name])} paired groups; k = {k} needs at least {least}\n"
                f"  Lower k or use a larger data set"
            )
