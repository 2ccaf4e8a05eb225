"""Sides of a run, paired by group: the rows of each modality, and the groups of each split, fixed before training."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from featcache.data.datasets import extract_command
from featcache.features import Features
from featcache.metrics import group_mean
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired
from featcache.trainer.splits import check_sizes, check_unseen, drawn_test, used_splits


@dataclass(frozen=True, eq=False)
class Side:
    """Rows of one modality, ordered by group; group g owns rows starts[g] to starts[g] + counts[g].

    Args:
        values: [n, d] float32.
        groups: [n] group number of each row, ascending.
        starts: [g] first row of each group.
        counts: [g] rows of each group; 0 where this side is missing.
        contents: [n] content hash of each row, "" where unknown; None where no row's is known, as of averaged rows.
        ids: [n] id of each row; None of averaged rows.
    """

    values: Float[Tensor, "n d"]
    groups: Int[Tensor, " n"]
    starts: Int[Tensor, " g"]
    counts: Int[Tensor, " g"]
    contents: NDArray[Any] | None = None
    ids: NDArray[Any] | None = None

    @property
    def present(self) -> Bool[Tensor, " g"]:
        """Whether a group has rows of this side."""
        return self.counts > 0

    def means(self) -> Float[Tensor, "g d"]:
        """Mean row of each group; every group must have rows."""
        if bool((self.counts == 1).all()):
            return self.values
        means, _ = group_mean(self.values, self.groups.numpy())
        return torch.as_tensor(means).to(self.values)

    def averaged(self) -> "Side":
        """One row a group that has any: its mean."""
        counts = self.present.long()
        numbers = torch.nonzero(counts).ravel()
        means, _ = group_mean(self.values, self.groups.numpy())
        return Side(torch.as_tensor(means).to(self.values), numbers, counts.cumsum(0) - counts, counts)

    def first(self, count: int) -> "Side":
        """The first so many rows of every group, in their order; all of a group that has no more."""
        within = torch.arange(len(self.groups)) - self.starts[self.groups]
        kept = within < count
        counts = self.counts.clamp(max=count)
        contents, ids = (None if each is None else each[kept.numpy()] for each in (self.contents, self.ids))
        return Side(self.values[kept], self.groups[kept], counts.cumsum(0) - counts, counts, contents, ids)

    def without(self, groups: Int[Tensor, " m"]) -> "Side":
        """All groups, of which some have no rows any more."""
        counts = self.counts.clone()
        counts[groups] = 0
        kept = counts[self.groups] > 0
        contents, ids = (None if each is None else each[kept.numpy()] for each in (self.contents, self.ids))
        return Side(self.values[kept], self.groups[kept], counts.cumsum(0) - counts, counts, contents, ids)

    def take(self, groups: Int[Tensor, " m"]) -> "Side":
        """The rows of some groups, renumbered 0 to m-1 in the order given."""
        counts = self.counts[groups]
        ends = counts.cumsum(0)
        numbers = torch.repeat_interleave(torch.arange(len(groups)), counts)
        within = torch.arange(len(numbers)) - (ends - counts)[numbers]
        rows = self.starts[groups][numbers] + within
        contents, ids = (None if each is None else each[rows.numpy()] for each in (self.contents, self.ids))
        return Side(self.values[rows], numbers, ends - counts, counts, contents, ids)


@dataclass(frozen=True, eq=False)
class PairedSides:
    """The groups that a run uses, with the rows of every side.

    Training groups have rows of two sides or more, validation and test groups of all, so that every space is measured
    on the same groups.

    Args:
        sides: Name -> rows; group numbers index `groups`.
        reference: [g, d] mean reference row of each group, float32; None without reference.
        groups: [g] group ids, in the order of the first side.
        labels: [g] first label column of the first side that has one, "" where there is none.
        splits: "train", "validation", "test" -> group numbers, ascending.
        split: What config.json records: rule, counts, hashes of validation and test ids, and the validation groups
            where they were drawn.
        classes: Labels that training groups have, sorted; the same for every part.
    """

    sides: dict[str, Side]
    reference: Float[Tensor, "g d"] | None
    groups: NDArray[Any]
    labels: NDArray[Any]
    splits: dict[str, Int[Tensor, " m"]]
    split: dict[str, Any]
    classes: tuple[str, ...] = ()
    _parts: dict[str, "PairedSides"] = field(default_factory=lambda: {}, repr=False)

    def split_of(self) -> dict[str, str]:
        """Split of each group that takes part."""
        return {
            str(group): split
            for split, numbers in self.splits.items()
            for group in self.groups[numbers.numpy()].tolist()
        }

    def part(self, split: str) -> "PairedSides":
        """The groups of one split, renumbered, in the same order; taken once."""
        if split not in self._parts:
            self._parts[split] = self.subset(split, self.splits[split])
        return self._parts[split]

    def subset(self, split: str, numbers: Int[Tensor, " m"]) -> "PairedSides":
        """Some groups, renumbered in the order given, as the one split of that name."""
        here = numbers.numpy()
        return replace(
            self,
            sides={name: side.take(numbers) for name, side in self.sides.items()},
            reference=None if self.reference is None else self.reference[numbers],
            groups=self.groups[here],
            labels=self.labels[here],
            splits={split: torch.arange(len(numbers))},
            _parts={},
        )


def pair_sides(sides: Mapping[str, Features], reference: Features | None, config: FitConfig) -> PairedSides:
    """Pairs feature arrays of one data set by group and fixes the splits.

    A training group takes part if it has rows of two sides or more (of all, with config.missing = "drop"), a
    validation or test group if it has rows of all sides and the reference. Groups that take no part, and those in
    another split than train, validation and test, are counted. Where the data set has no validation split, a seeded
    share of the training groups becomes one; with drawn_test all groups are split anew, whatever the data set says.

    Args:
        sides: Name -> features, two or more.
        reference: Features that alignment is measured against; several rows of a group are averaged. None: the sides
            are measured against each other alone.
        config: Reads split_seed, missing, k, first_groups, first_rows, drawn_test and drawn_validation.

    Raises:
        NotPaired: If data set or overlay differ, no group is shared, a split is missing or too small for k, a row is
            not finite, or features are embeddings of a run that was trained on test groups.
    """
    if len(sides) < 2:
        raise NotPaired(f"wanted two sides or more, got {', '.join(sides) or 'none'}")
    arrays = {**sides} if reference is None else {**sides, "reference": reference}
    _check_same_source(arrays)
    _check_finite(arrays)
    groups, complete = _used_groups(sides, reference, config)
    rows = {role: _side(features, groups) for role, features in arrays.items()}
    if config.first_rows != "all":
        rows |= {name: rows[name].first(config.first_rows) for name in sides}
    published = _published_splits(arrays, groups)
    if config.drawn_test is not None:
        published = drawn_test(groups, complete, config)
    dataset = next(iter(sides.values())).dataset
    splits, rule = used_splits(groups, published, complete, config, dataset)
    check_unseen(arrays, set(groups[splits["test"]].tolist()))
    in_training = {name: int(rows[name].present[splits["train"]].sum()) for name in sides}
    check_sizes(splits, in_training, config.k, dataset)
    record = {
        "rule": rule,
        "groups": {role: len(set(features.groups.tolist())) for role, features in arrays.items()},
        "paired": len(groups),
        "unused": len(groups) - sum(len(numbers) for numbers in splits.values()),
        "n": {name: len(numbers) for name, numbers in splits.items()},
        "hashes": {name: hash_ids(groups[splits[name]]) for name in ("validation", "test")},
    }
    if not (published == "validation").any():
        record["drawn_validation"] = sorted(groups[splits["validation"]].tolist())
    if not complete.all():
        record["training_groups_with"] = in_training
    numbers = {name: torch.from_numpy(indices) for name, indices in splits.items()}
    means = None if reference is None else _padded_means(rows["reference"])
    labels = _labels(sides, groups)
    classes = tuple(sorted(set(labels[splits["train"]].tolist()) - {""}))
    return PairedSides({name: rows[name] for name in sides}, means, groups, labels, numbers, record, classes)


def leave_out(paired: PairedSides, groups: Mapping[str, Iterable[str]], k: int, dataset: str) -> PairedSides:
    """The paired sides without some validation and test groups, whose number config.json then has as "left_out".

    Args:
        paired: From `pair_sides`.
        groups: Split -> ids of its groups to leave out.
        k: Of the configuration.
        dataset: Name of the data set, for the error.

    Raises:
        NotPaired: If a split becomes too small for k.
    """
    splits = dict(paired.splits)
    for name, ids in groups.items():
        out = np.isin(paired.groups[splits[name].numpy()], [*ids])
        splits[name] = splits[name][torch.from_numpy(~out)]
        if len(splits[name]) < k + 1:
            raise NotPaired(
                f"without the {int(out.sum())} groups that stand in training too, the {name} split of {dataset} has "
                f"{len(splits[name])} groups; k = {k} needs at least {k + 1}\n"
                "  Lower --k, or train with --on-leak warn, which keeps them and names them"
            )
    record = {
        **paired.split,
        "n": {name: len(numbers) for name, numbers in splits.items()},
        "hashes": {name: hash_ids(paired.groups[splits[name].numpy()]) for name in paired.split["hashes"]},
        "left_out": {name: len(paired.splits[name]) - len(splits[name]) for name in groups},
    }
    return replace(paired, splits=splits, split=record, _parts={})


def hash_ids(ids: NDArray[Any]) -> str:
    """blake3 of the sorted ids as a JSON list, hex; equal for equal sets.

    Example:
        >>> hash_ids(np.array(["b", "a"])) == hash_ids(np.array(["a", "b"]))
        True
    """
    return blake3(json.dumps(sorted(str(name) for name in ids), ensure_ascii=False).encode()).hexdigest()


def _check_same_source(arrays: Mapping[str, Features]) -> None:
    for what in ("dataset", "overlay"):
        values = {role: getattr(features, what) for role, features in arrays.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{role} ({arrays[role].name}): {value[:16]!r}" for role, value in values.items())
            word, command = "data set", "Choose encoders of one data set"
            if what == "overlay":
                word = "overlay (splits and labels, which change when a data set's do)"
                dataset = next(iter(arrays.values())).dataset
                command = f"Run: {extract_command(dataset)}\n  for an encoder of each view; nothing is encoded again"
            raise NotPaired(f"all sides and the reference must come from one {word}; found {listed}\n  {command}")


def _check_finite(arrays: Mapping[str, Features]) -> None:
    for role, features in arrays.items():
        bad = np.flatnonzero(~np.isfinite(features.values).all(axis=1))
        if len(bad):
            raise NotPaired(
                f"{len(bad)} rows of {role} ({features.name}) are not finite, the first {features.ids[bad[0]]!r}\n"
                f"  Drop them before training, or extract again with --dtype float32"
            )


def _used_groups(
    sides: Mapping[str, Features], reference: Features | None, config: FitConfig
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Groups that may take part, in the order of the sides, and whether each has rows of every array."""
    sets = {name: set(features.groups.tolist()) for name, features in sides.items()}
    measured = set.intersection(*sets.values())
    if reference is not None:
        sets["reference"] = set(reference.groups.tolist())
        measured &= sets["reference"]
    if not measured:
        examples = ", ".join(
            f"{role} has {len(groups)}, such as {min(groups, default='')!r}" for role, groups in sets.items()
        )
        raise NotPaired(f"no group is in all of {', '.join(sets)}: {examples}\n  Choose views of the same samples")
    every = dict.fromkeys(group for features in sides.values() for group in features.groups.tolist())
    if config.missing == "drop":
        used = [group for group in every if group in measured]
    else:
        used = [group for group in every if group in measured or sum(group in sets[name] for name in sides) >= 2]
    if config.first_groups != "all":
        used = used[: config.first_groups]
    return np.array(used, dtype=str), np.array([group in measured for group in used])


def _numbered(features: Features, groups: NDArray[Any]) -> NDArray[np.int64]:
    number = {group: index for index, group in enumerate(groups.tolist())}
    return np.array([number.get(group, -1) for group in features.groups.tolist()], dtype=np.int64)


def _side(features: Features, groups: NDArray[Any]) -> Side:
    numbers = _numbered(features, groups)
    order = np.argsort(numbers, kind="stable")
    order = order[numbers[order] >= 0]
    counts = np.bincount(numbers[order], minlength=len(groups))
    starts = np.cumsum(counts) - counts
    values = features.tensor()[torch.from_numpy(order)].float()  # faster than NumPy's own conversion of halves
    contents = features.hashes[order] if len(features.hashes) else None
    groups_of_rows, starts, counts = (torch.from_numpy(part) for part in (numbers[order], starts, counts))
    return Side(values, groups_of_rows, starts, counts, contents, features.ids[order])


def _padded_means(side: Side) -> Float[Tensor, "g d"]:
    """Mean row of each group, NaN where there is none: such a group is trained on, never measured."""
    if bool(side.present.all()):
        return side.means()
    means = torch.full((len(side.counts), side.values.shape[1]), torch.nan)
    means[side.present] = side.averaged().values
    return means


def _published_splits(arrays: Mapping[str, Features], groups: NDArray[Any]) -> NDArray[Any]:
    """Split of each group; refuses a group that two arrays have in different splits."""
    published, source = np.full(len(groups), "", dtype=object), np.full(len(groups), "", dtype=object)
    for role, features in arrays.items():
        numbers = _numbered(features, groups)
        numbers, rows = np.unique(numbers, return_index=True)
        numbers, rows = numbers[numbers >= 0], rows[numbers >= 0]
        splits = features.splits[rows].astype(str)
        known = published[numbers] != ""
        differs = np.flatnonzero(known & (published[numbers] != splits))
        if len(differs):
            at = differs[0]
            raise NotPaired(
                f"group {str(groups[numbers[at]])!r} is in split {str(published[numbers[at]])!r} of "
                f"{source[numbers[at]]} but in {str(splits[at])!r} of {role} ({features.name})\n"
                f"  Load all of them with the same overlay"
            )
        published[numbers], source[numbers[~known]] = splits, role
    return published.astype(str)


def _labels(sides: Mapping[str, Features], groups: NDArray[Any]) -> NDArray[Any]:
    for features in sides.values():
        for column in features.labels.values():
            numbers, rows = np.unique(_numbered(features, groups), return_index=True)
            labels = np.full(len(groups), "", dtype=object)
            labels[numbers[numbers >= 0]] = column[rows[numbers >= 0]]
            return labels.astype(str)
    return np.full(len(groups), "")
