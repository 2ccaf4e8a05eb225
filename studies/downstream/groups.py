"""Groups with a label and a split, on which the spaces of a downstream task meet; one row a group."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from featcache.data.datasets import extract_command
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.probes.accuracy import class_codes
from featcache.metrics.probes.calibrated import group_folds
from featcache.metrics.probes.selection import Held
from featcache.studies.content_units import content_units
from featcache.studies.group_rows import group_rows
from featcache.trainer.config import VALIDATION_SHARE
from featcache.trainer.errors import NotPaired
from featcache.trainer.splits import USED_SPLITS, drawn_by_id, seen_by_run


@dataclass(frozen=True, eq=False)
class TaskGroups:
    """The groups of a task.

    Args:
        names: [g] group ids.
        rows: Split -> row numbers below g; no group stands in two.
        classes: Names of the classes of training groups, sorted; empty where the task has no labels.
        codes: [g] class of each group; a class that no training group has gets a number behind them.
        notes: What is to be said of groups left out and of drawn splits.
        folds: [train] inner fold of each training group, by which a penalty is chosen where there are no validation
            groups; None where there are.
    """

    names: NDArray[np.object_]
    rows: dict[str, np.ndarray]
    classes: list[str]
    codes: np.ndarray
    notes: list[str]
    folds: np.ndarray | None = None

    def means(self, features: Features, values: np.ndarray | None = None) -> Float[np.ndarray, "g d"]:
        """One row a group: the mean of its rows of an array, in float32.

        Args:
            features: The array, which has rows of every group.
            values: Rows [n, d] taken instead of the array's own, such as adapted ones.
        """
        return group_rows(features, self.names.tolist(), values=values)

    def inner(self, values: np.ndarray) -> list[Held]:
        """(rows fitted on, their classes, rows that are read, theirs) by which something is chosen.

        One of training and validation rows or, where there are no validation rows, one an inner fold.

        Args:
            values: [g, d] a row a group.
        """
        train, held = self.rows["train"], self.rows["validation"]
        if self.folds is None:
            return [(values[train], self.codes[train], values[held], self.codes[held])]
        parts = [(train[self.folds != fold], train[self.folds == fold]) for fold in np.unique(self.folds)]
        return [(values[a], self.codes[a], values[b], self.codes[b]) for a, b in parts]


def task_groups(
    arrays: Sequence[Features], label: str | None, *, drawn: Sequence[str] = (), folds: int = 0, seed: int = 0
) -> TaskGroups:
    """The groups that all arrays have, with their classes and splits.

    Args:
        arrays: Arrays of one data set, one or more.
        label: Label column; None for a task without labels.
        drawn: Groups that are validation where the data set has no such split, as a run drew them; else a seeded tenth
            of the training groups.
        folds: Instead of that tenth, so many inner folds of all training groups, which keep groups of equal content
            together; 0 for the tenth.
        seed: Of that draw, or of the folds.

    Raises:
        NotPaired: If arrays are of several data sets or share no group, a split is missing, or an array is of a run
            that was trained on groups that are test groups now.
        UsageError: If there is no such label column.
    """
    first = arrays[0]
    others = {features.dataset for features in arrays} - {first.dataset}
    if others:
        raise NotPaired(f"arrays of {first.dataset} and {', '.join(sorted(others))}: choose arrays of one data set")
    shared = set.intersection(*(set(features.groups.tolist()) for features in arrays))
    named = {group: str(value) for group, value in _column(arrays, label).items()} if label else None
    split_of = dict(zip(first.groups.tolist(), first.splits.astype(str).tolist(), strict=True))
    every = list(dict.fromkeys(first.groups.tolist()))
    names = [group for group in every if group in shared and (named is None or named.get(group))]
    names = [group for group in names if split_of[group] in USED_SPLITS]
    if not names:
        raise NotPaired(
            f"no group of {first.dataset} is in all of {', '.join(features.name for features in arrays)} with a split"
            + (f" and a label {label}" if label else "")
            + "\n  Choose views of the same samples"
        )
    notes: list[str] = []
    if len(names) < len(every):
        why = "without label or split, or not in every array" if label else "without split, or not in every array"
        notes.append(f"{len(every) - len(names):,} of {len(every):,} groups take no part: {why}")
    splits = np.array([split_of[group] for group in names])
    rows = {split: np.flatnonzero(splits == split) for split in USED_SPLITS}
    _check_splits(rows, first.dataset)
    in_folds = not len(rows["validation"]) and not drawn and folds > 0
    if not len(rows["validation"]) and not in_folds:
        _draw_validation(rows, names, drawn, seed, notes)
    _check_unseen(arrays, {names[row] for row in rows["test"]})
    labels = np.array([named[group] if named else "" for group in names], dtype=object)
    classes = sorted(set(labels[rows["train"]].tolist())) if named else []
    codes = class_codes(labels, classes)
    unseen = int(np.count_nonzero(codes[rows["test"]] >= len(classes))) if named else 0
    if unseen:
        notes.append(f"{unseen:,} test groups have a class that no training group has: always missed")
    inner = None
    if in_folds:
        units = content_units(arrays, [names[row] for row in rows["train"].tolist()])
        inner = group_folds(codes[rows["train"]], groups=units, folds=folds, seed=seed)
        notes.append(f"no validation split: what is chosen is chosen by {folds} inner folds of the training groups")
    return TaskGroups(np.array(names, dtype=object), rows, classes, codes, notes, inner)


def choose_label(arrays: Sequence[Features], label: str | None) -> str:
    """The label column: the one that is named, else the first; UsageError with those that there are."""
    there = list(dict.fromkeys(name for features in arrays for name in features.labels))
    if not there:
        raise UsageError(f"{arrays[0].dataset} has no labels to probe for\n  Choose a data set that has")
    if label is not None and label not in there:
        raise UsageError(f"no label {label!r} in {arrays[0].dataset}; it has {', '.join(there)}")
    return label or there[0]


def _column(arrays: Sequence[Features], label: str) -> dict[str, str]:
    for features in arrays:
        if label in features.labels:
            return dict(zip(features.groups.tolist(), features.labels[label].tolist(), strict=True))
    raise UsageError(f"no label {label!r} in {arrays[0].dataset}")


def _check_splits(rows: dict[str, np.ndarray], dataset: str) -> None:
    for split in ("train", "test"):
        if not len(rows[split]):
            counts = ", ".join(f"{name} {len(each)}" for name, each in rows.items())
            raise NotPaired(
                f"{dataset} has no {split} groups that take part ({counts})\n  Give it a split column with train and "
                f"test, and extract again: nothing is encoded\n  Run: {extract_command(dataset)}"
            )


def _draw_validation(
    rows: dict[str, np.ndarray], names: Sequence[str], drawn: Sequence[str], seed: int, notes: list[str]
) -> None:
    train = rows["train"]
    if drawn:
        wanted = set(drawn)
        held = np.array([row for row in train if names[row] in wanted], np.int64)
        how = "those that the run drew"
    else:
        held = drawn_by_id(np.array(names), train, max(1, round(VALIDATION_SHARE * len(train))), seed)
        how = f"{VALIDATION_SHARE:.0%} of the training groups, drawn with seed {seed}"
    rows["validation"], rows["train"] = np.sort(held), np.setdiff1d(train, held)
    notes.append(f"no validation split: {how}")


def _check_unseen(arrays: Sequence[Features], test: set[str]) -> None:
    for features in arrays:
        seen = seen_by_run(features, test)
        if seen:
            raise NotPaired(
                f"{features.name} ({features.view}) are embeddings of a run that did not have {len(seen)} of the "
                f"{len(test)} test groups in its test split, the first {seen[0]!r}\n  Train that run and embed again"
            )
