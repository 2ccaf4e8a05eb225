"""The final table of a run: raw features, mixed kernels, untrained and trained adapters on the test split."""

from dataclasses import replace

import torch

from featcache.metrics import mixed
from featcache.trainer.evaluate import (
    METRICS,
    WEIGHTS,
    EvaluationSplit,
    Space,
    adapt,
    adapted_rows,
    align_reference,
    align_sides,
    alignment_row,
)
from featcache.trainer.fit import Fitted
from featcache.trainer.table import Row


def final_rows(fitted: Fitted) -> list[Row]:
    """Everything that is measured once, after the epoch has been selected.

    Returns:
        Raw features and mixed kernels on validation and test, untrained and trained adapters on test.
    """
    config, pairs = fitted.config, fitted.pairs
    validation = EvaluationSplit("validation", pairs.part("validation"), config)
    test = EvaluationSplit("test", pairs.part("test"), config, full=True)
    rows = [*raw_rows(validation), *raw_rows(test), *mixed_rows(validation, test)]
    rows += adapted_rows(test, adapt(test, fitted.untrained), "untrained", 0)
    return rows + adapted_rows(test, adapt(test, fitted.adapters), "trained", fitted.selected_epoch)


def raw_rows(split: EvaluationSplit) -> list[Row]:
    """Alignment of the raw features with the reference and with each other."""
    rows = [
        row for name, space in (("x", split.x), ("y", split.y)) for row in align_reference(split, space, "raw", name)
    ]
    return rows + align_sides(split, split.x, split.y, "raw")


def mixed_rows(validation: EvaluationSplit, test: EvaluationSplit) -> list[Row]:
    """Alignment of the mixed raw kernels w K_x + (1 - w) K_y, the training-free rival of the joint space.

    For each metric, w is the best of WEIGHTS on validation (the first of equals); the test split sees that w only.

    Returns:
        Every w on validation, the chosen one on test.
    """
    tried = {w: _align_mixed(validation, w, METRICS) for w in WEIGHTS}
    rows = [row for each in tried.values() for row in each]
    for number, metric in enumerate(METRICS):
        best = max(WEIGHTS, key=lambda w: tried[w][number].value)
        rows += _align_mixed(test, best, (metric,))
    return rows


def _align_mixed(split: EvaluationSplit, w: float, metrics: tuple[str, ...]) -> list[Row]:
    space = Space(torch.as_tensor(mixed(split.x.features, split.y.features, w)), split.config.k)
    row = Row("mixed", "x+y", "reference", "", split.name, 0.0, w=w)
    return [alignment_row(split, space, split.reference, replace(row, metric=metric)) for metric in metrics]
