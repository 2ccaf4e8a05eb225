"""Groups with a label that several cached arrays share, in folds that no picture, recording or text crosses."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from featcache.data.datasets import extract_command
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics.probes.calibrated import group_folds
from featcache.studies.content_units import content_units
from featcache.studies.group_rows import group_rows
from featcache.trainer.errors import NotPaired

LEAST = 2  # groups of a class for each fold; rarer classes are left out


@dataclass(frozen=True, eq=False)
class Labelled:
    """Spaces whose row i is the same labelled sample.

    Args:
        spaces: Name -> [n, d] one row a group.
        y: Class of each row.
        folds: Fold of each row.
        units: Number of the unit of each row: groups of equal content are one.
        classes: Names of the classes.
        groups: Group of each row.
        notes: What was left out, in words.
    """

    spaces: dict[str, Float[np.ndarray, "n d"]]
    y: Int[np.ndarray, " n"]
    folds: Int[np.ndarray, " n"]
    units: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    groups: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=lambda: [])

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)


def labelled_rows(arrays: dict[str, Features], label: str, *, groups: int, folds: int, seed: int) -> Labelled:
    """The groups that all arrays have with a label: one row a group, the mean of its rows.

    Splits play no part: every group is held out once. Groups that share a picture, a recording or a text, by its
    content hash, stand in one fold.

    Args:
        arrays: Name -> features of one data set.
        label: Label column.
        groups: At most so many; drawn where there are more.
        folds: Parts that are held out in turn.
        seed: Of the draw and the folds.

    Raises:
        NotPaired: If arrays are of several data sets or share no labelled group, a row is not finite, or an array is of
            a run that was trained on its groups.
        UsageError: If there is no such label column, or fewer than two classes have groups enough.
    """
    _check_source(arrays)
    named = _column(arrays, label)
    shared = set.intersection(*(set(each.groups.tolist()) for each in arrays.values()))
    first = next(iter(arrays.values()))
    every = list(dict.fromkeys(first.groups.tolist()))
    names = [group for group in every if group in shared and named.get(group)]
    if not names:
        raise NotPaired(
            f"no group of {first.dataset} with a label {label} is in all of {', '.join(arrays)}\n"
            "  Choose arrays of the same samples"
        )
    notes = [f"{len(every) - len(names):,} of {len(every):,} groups take no part: without label, or not in every array"]
    kept = _frequent(names, named, LEAST * folds)
    if len(kept) < len(names):
        rare = len({named[group] for group in names}) - len({named[group] for group in kept})
        few = f"{rare:,} {'class' if rare == 1 else 'classes'} of fewer than {LEAST * folds} groups"
        notes.append(f"{few} {'is' if rare == 1 else 'are'} left out: {len(names) - len(kept):,} groups")
    if len(kept) > groups:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(kept))[:groups])
        again = _frequent([kept[at] for at in drawn], named, LEAST * folds)
        notes.append(f"{len(again):,} of {len(kept):,} labelled groups take part, drawn with seed {seed}")
        kept = again
    classes = tuple(sorted({named[group] for group in kept}))
    if len(classes) < 2:
        raise UsageError(
            f"label {label} of {first.dataset} has {len(classes)} class with {LEAST * folds} groups or more; a task "
            "needs two\n  Name another label with --labels, or fewer --folds"
        )
    y = np.array([classes.index(named[group]) for group in kept], np.int64)
    units = content_units(arrays.values(), kept)
    parts = group_folds(y, groups=units, folds=folds, seed=seed)
    spaces = {name: group_rows(features, kept) for name, features in arrays.items()}
    return Labelled(spaces, y, parts, units, classes, tuple(kept), notes if len(names) < len(every) else notes[1:])


def _check_source(arrays: dict[str, Features]) -> None:
    first = next(iter(arrays.values()))
    for name, features in arrays.items():
        if features.dataset != first.dataset:
            raise NotPaired(f"{name} is of {features.dataset}, not of {first.dataset}: choose arrays of one data set")
        if len(features.run_splits):
            raise NotPaired(
                f"{name} is the embedding of a run, whose adapter was trained on pairs of these groups: it has been "
                "aligned already\n  Name the array that the run was trained on"
            )
        bad = np.flatnonzero(~np.isfinite(features.values).all(axis=1))
        if len(bad):
            raise NotPaired(
                f"{len(bad)} rows of {name} are not finite, the first {features.ids[bad[0]]!r}\n"
                f"  Run: {extract_command(first.dataset, features.encoder)} --dtype float32"
            )


def _column(arrays: dict[str, Features], label: str) -> dict[str, str]:
    for features in arrays.values():
        if label in features.labels:
            named = zip(features.groups.tolist(), features.labels[label].tolist(), strict=True)
            return {group: str(value) for group, value in named if value}
    there = list(dict.fromkeys(name for features in arrays.values() for name in features.labels))
    dataset = next(iter(arrays.values())).dataset
    if not there:
        raise UsageError(f"{dataset} has no labels to advise for\n  Choose a data set that has: featcache datasets")
    raise UsageError(f"no label {label!r} in {dataset}; it has {', '.join(there)}")


def _frequent(names: Sequence[str], named: dict[str, str], least: int) -> list[str]:
    counts = dict[str, int]()
    for group in names:
        counts[named[group]] = counts.get(named[group], 0) + 1
    return [group for group in names if counts[named[group]] >= least]
