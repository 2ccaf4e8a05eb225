"""The one rule of which rows are compared: those of a split, and of embeddings of a run its test rows by default."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from featcache.features import Features
from featcache.store.run_splits import UNKNOWN
from featcache.trainer.errors import NotPaired

ALL = "all"
_USE = {"train": "was trained on these groups", "validation": "chose its epoch by these groups"}


def rows_of_split(arrays: Sequence[Features], split: str | None) -> tuple[str, list[NDArray[np.int64]], list[str]]:
    """The rows of each array that may be compared.

    Where one of the arrays is an embedding of a run on the rows that it was trained on, a split is that of the run: it
    decides for all arrays, by group, also where the data set has other splits by now.

    Args:
        arrays: Arrays of one data set, whole.
        split: "train", "validation", "test" or "other"; "all" for every row; None for the default, which is the test
            split of embeddings, and else every row.

    Returns:
        (the split in force, "" where none was asked for and every row is taken; row numbers of each array; what is to
        be said of it).

    Raises:
        NotPaired: If an array has no rows in the split, or what a run was trained on is no longer known.
    """
    embeddings = [features for features in arrays if len(features.run_splits)]
    chosen = split if split is not None else "test" if embeddings else ""
    if chosen in ("", ALL):
        return chosen, [np.arange(len(features)) for features in arrays], [_caveat(each) for each in embeddings]
    if not embeddings:
        return chosen, [_rows(features, features.splits == chosen, chosen) for features in arrays], []
    groups = set.intersection(*(_groups_of(features, chosen) for features in embeddings))
    rows = [
        _rows(features, np.array([group in groups for group in features.groups.tolist()], bool), chosen)
        for features in arrays
    ]
    return chosen, rows, [_said(features, chosen, default=split is None) for features in embeddings]


def _groups_of(features: Features, split: str) -> set[Hashable]:
    """Groups that the run of an embedding had in a split."""
    if (features.run_splits == UNKNOWN).any():
        raise NotPaired(
            f"{_named(features)} is an embedding of a run, and the splits that the run was trained with are no longer "
            f"in the cache: which rows of {features.dataset} it was trained on is not known\n"
            "  Train and embed again; or compare every row, training rows among them, with --split all"
        )
    return set(features.groups[features.run_splits == split].tolist())


def _rows(features: Features, wanted: NDArray[np.bool_], split: str) -> NDArray[np.int64]:
    rows = np.flatnonzero(wanted)
    if not len(rows):
        splits = features.run_splits if len(features.run_splits) else features.splits
        there = ", ".join(sorted(filter(None, set(splits.tolist())))) or "none"
        raise NotPaired(
            f"{features.name} of {features.dataset} has no rows in split {split!r}; it has {there}\n"
            "  Name one of them, or take every row: --split all"
        )
    return rows


def _said(features: Features, split: str, *, default: bool) -> str:
    if split in _USE:
        return f"Caveat: the run that made {_named(features)} {_USE[split]}: scores on them are no test scores"
    why = "; --split all takes those that it was trained on, too" if default else ""
    return f"Groups: those of split {split} of the run that made {_named(features)}{why}"


def _caveat(features: Features) -> str:
    """What is said of an embedding that is compared on every row."""
    if (features.run_splits == UNKNOWN).any():
        return f"Caveat: which rows the run that made {_named(features)} was trained on is not known"
    counts = {name: len(_groups_of(features, name)) for name in _USE}
    used = " and ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    whole = len(set(features.groups.tolist()))
    return (
        f"Caveat: {used or 'no'} groups of the run that made {_named(features)} are among these {whole:,}; scores on "
        "them are no test scores: --split test"
    )


def _named(features: Features) -> str:
    return f"{features.name} ({features.view})"
