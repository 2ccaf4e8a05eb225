"""Mutual k-NN as some published studies compute it: with every row among its own k neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from featcache.metrics.measure.contrasts import Contrast
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import ContrastRow, Row
from featcache.metrics.measure.settings import MeasureSettings
from featcache.metrics.measure.space import ArraySpace

SELF_KEPT = "mutual_knn_self"


def self_kept_results(
    spaces: Mapping[str, ArraySpace],
    reference: ArraySpace,
    settings: MeasureSettings,
    contrasts: Sequence[Contrast],
) -> tuple[list[Row], list[ContrastRow]]:
    """Scores and contrasts of spaces against a reference, each row being the first of its own k neighbours.

    A row is in both lists, so that the score is (1 + (k - 1) m) / k, with m the mutual k-NN of the k - 1 others; a
    difference of two scores is (k - 1) / k of that of m. Nothing but scale changes: intervals go along, p and verdicts
    stay. A row that has k or more exact copies counts as the first of its neighbours all the same.

    Args:
        spaces: Spaces of the same groups, one row a group.
        reference: Of the same groups.
        settings: k of 2 or more; metrics and null are not read.
        contrasts: Between the spaces.

    Source:
        The notebooks of Simeon and Manso 2024 (code base qsimeon/deep_learning_project) keep the row itself.
    """
    k = settings.k
    others = replace(settings, metrics=("mutual_knn",), k=k - 1, null="none")
    result = measure(dict(spaces), reference, others, contrasts=contrasts)
    rows = [_with_self(row, k) for row in result.rows]
    return rows, [_scaled(row, k) for row in result.contrasts]


def _with_self(row: Row, k: int) -> Row:
    values = {name: getattr(row, name) for name in ("value", "chance", "ci_low", "ci_high")}
    kept = {name: None if value is None else (1 + (k - 1) * value) / k for name, value in values.items()}
    return replace(row, metric=SELF_KEPT, k=k, convention=f"{row.convention} own row kept", **kept)


def _scaled(row: ContrastRow, k: int) -> ContrastRow:
    values = {name: getattr(row, name) for name in ("value", "ci_low", "ci_high")}
    scaled = {name: None if value is None else value * (k - 1) / k for name, value in values.items()}
    return replace(row, metric=SELF_KEPT, k=k, convention=f"{row.convention} own row kept", **scaled)
