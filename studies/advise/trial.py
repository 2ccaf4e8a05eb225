"""What small contrastive adapters do to held-out accuracy, use by use: aligned, and aligned with a private part."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from featcache.metrics.probes.calibrated import group_folds
from featcache.studies.advise.adapters import adapted_spaces
from featcache.studies.advise.classifiers import (
    FoldSplit,
    Values,
    classify,
    draw_labels,
    few_labels,
    fold_splits,
    transfer,
)
from featcache.studies.advise.labelled import Labelled
from featcache.studies.advise.settings import BACK, FIRST, FORTH, PAIR, SECOND, AdviseSettings, Use, uses_of

APART, ALIGNED, PRIVATE = "apart", "aligned", "private"
_SIDES = {PAIR: (0, 1), FIRST: (0,), SECOND: (1,)}
_WAYS = {FORTH: (0, 1), BACK: (1, 0)}
Blocks = tuple[list[Values], list[Values]]  # what is read of each side


@dataclass(frozen=True, eq=False)
class Hits:
    """Whether each row is told right while it is held out: shares of the draws, in [0, 1].

    Args:
        apart: [seeds, n] from the spaces as they are; of a transfer, by the most frequent class.
        aligned: [seeds, n] from the adapted spaces alone.
        private: [seeds, n] from the adapted spaces with the raw ones beside them. None of a transfer, where what is
            private to one side says nothing to a classifier of the other.
    """

    apart: Float[np.ndarray, "seeds n"]
    aligned: Float[np.ndarray, "seeds n"]
    private: Float[np.ndarray, "seeds n"] | None


def run_trial(
    rows: Labelled, pair: tuple[str, str], settings: AdviseSettings, *, on_step: Callable[[str], None] | None = None
) -> dict[Use, Hits]:
    """Trains adapters of two spaces on the pairs of other folds, without labels, and classifies each fold in every use.

    Adapters and classifiers are fitted on other halves of the training rows: adapters fit the pairs that they have
    seen, so that there even noise, mapped, would know of each row what the other space knows, its label too.
    Classifiers see the same rows whichever the space, and the same draws of few labels.

    Args:
        rows: Spaces, classes and folds.
        pair: Names of the two spaces.
        settings: Seeds, draws, width and steps.
        on_step: Called with what is being trained.

    Returns:
        Use -> hits; without those of few labels that a class has not as many of in training.

    Raises:
        TrainingDiverged: As `adapted_spaces`.
    """
    spaces = [rows.spaces[name].astype(np.float64) for name in pair]
    whole = fold_splits(rows.y, rows.folds)
    pairs = [_half(rows, split.train, settings.seed) for split in whole]
    splits = [replace(split, train=split.train & ~seen) for split, seen in zip(whole, pairs, strict=True)]
    least = min(int(np.bincount(rows.y[split.train], minlength=split.classes).min()) for split in splits)
    uses, hits = [use for use in uses_of(settings.uses) if use.labels <= least], dict[Use, dict[str, np.ndarray]]()
    for fold, split in enumerate(splits):
        raw: Blocks = ([spaces[0]], [spaces[1]])
        # unmapped, the coordinates of one side mean nothing to a classifier of the other
        apart = {use: split.hits(split.majority) for use in uses if use.kind == "transfer"}
        apart |= {use: split.hits(_classes(raw, use, split)) for use in uses if use.kind in ("joint", "alone")}
        for number in range(settings.seeds):
            if on_step is not None:
                on_step(f"adapters of fold {fold + 1} of {len(splits)}, {number + 1} of {settings.seeds}")
            seed = settings.seed + fold * settings.seeds + number
            first, second = adapted_spaces(
                spaces, pairs[fold], split.inner, width=settings.width, steps=settings.steps, seed=seed
            )
            blocks: dict[str, Blocks] = {
                APART: raw,
                ALIGNED: ([first], [second]),
                PRIVATE: ([first, *raw[0]], [second, *raw[1]]),
            }
            for use in uses:
                drawn = draw_labels(split, use.labels, settings.draws, seed) if use.labels else None
                for name in blocks if use.kind != "transfer" else (APART, ALIGNED):
                    known = name == APART and not use.labels
                    right = apart[use] if known else split.hits(_classes(blocks[name], use, split, drawn))
                    every = hits.setdefault(use, {}).setdefault(name, np.zeros((settings.seeds, rows.n)))
                    every[number, split.held] = right
    return {use: Hits(of[APART], of[ALIGNED], of.get(PRIVATE)) for use, of in hits.items()}


def _half(rows: Labelled, train: Bool[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """Half of some rows: whole units, and of each class about half."""
    half = np.zeros(rows.n, bool)
    half[train] = group_folds(rows.y[train], groups=rows.units[train].tolist(), folds=4, seed=seed) % 2 == 0
    return half


def _classes(blocks: Blocks, use: Use, split: FoldSplit, drawn: np.ndarray | None = None) -> np.ndarray:
    if use.kind == "transfer":
        source, target = (blocks[side][0] for side in _WAYS[use.reads])
        return transfer(source, target, split)
    read = [values for side in _SIDES[use.reads] for values in blocks[side]]
    if drawn is not None:
        return few_labels(read, split, drawn)
    return classify(read, split, hidden=use.kind == "joint")
