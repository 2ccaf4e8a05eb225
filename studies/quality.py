"""Quality beside cost: scores of a study joined with what the encoders that they are of cost."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featcache.errors import UsageError
from featcache.studies.competence import PERFORMANCE
from featcache.studies.cost import COSTS, with_cost
from featcache.studies.experiments.seeds import mean_interval

if TYPE_CHECKING:
    import polars as pl

_JOINT = {"space": "joint", "against": "reference", "split": "test", "stage": "trained", "control": "", "transfer": ""}


@dataclass(frozen=True)
class QualityPoint:
    """A score and what the encoders that it is of cost.

    Args:
        dataset: Data set name.
        of: Whose cost it is: "reference", "sides" (all sides of a run together) or "encoder".
        label: Their names.
        metric: Of the score: of alignment, "R@10", or what a probe reached.
        value: The score; over seeds their mean.
        low: Lower end of its interval, or None.
        high: Upper end.
        interval: What the interval is of.
        parameters: Of the encoders.
        flops: A row.
        forward_ms: A row, on `device`.
        device: What measured the time.
    """

    dataset: str
    of: str
    label: str
    metric: str
    value: float
    low: float | None
    high: float | None
    interval: str
    parameters: float
    flops: float
    forward_ms: float
    device: str


@dataclass(frozen=True)
class Quality:
    """Scores beside costs.

    Args:
        points: In the order of the tables.
        left_out: Encoders without a cost, as "DATASET NAME".
    """

    points: list[QualityPoint]
    left_out: list[str]


def quality_against_cost(
    rows: "Sequence[pl.DataFrame]",
    competences: "Sequence[pl.DataFrame]",
    costs: "Sequence[pl.DataFrame]",
    *,
    metric: str = "mutual_knn",
) -> Quality:
    """Scores of sweeps by the cost of reference and sides, and accuracies of encoders by their own.

    A table says something of references, or of sides, only where it has several on a data set, at different costs;
    everything else that it varied but the seed is held at the setting that most of them have. One table is taken, the
    one that has most, for scores of two sweeps differ in more.

    Args:
        rows: Tidy tables of sweeps.
        competences: Tables of `featcache competence`.
        costs: Tables of `featcache cost`.
        metric: Of alignment.

    Raises:
        UsageError: If the costs are of several devices.
    """
    import polars as pl

    if not costs:
        return Quality([], [])
    cost = pl.concat([table.select(list(_COST_COLUMNS)) for table in costs]).unique(maintain_order=True)
    kinds: dict[tuple[str, str], list[QualityPoint]] = {}
    left_out: dict[str, None] = {}
    tables = [_joint_scores(table, on, metric) for table in rows for on in ("reference", "sides")]
    for scores in [*tables, *(_accuracies(table) for table in competences)]:
        found: dict[tuple[str, str], list[QualityPoint]] = {}
        for score in scores:
            point = _with_cost(score, cost)
            if point is None:
                left_out[f"{score['dataset']} {score['label']}"] = None
            else:
                found.setdefault((point.dataset, point.of), []).append(point)
        for kind, points in found.items():
            if len({point.parameters for point in points}) > 1 and len(points) > len(kinds.get(kind, [])):
                kinds[kind] = points
    return Quality([point for points in kinds.values() for point in points], [*left_out])


_NOT_HELD = ("dataset", "seed", "run", "panel", "sides", "selected_epoch", "trained_on")
_COST_COLUMNS = ("dataset", "view", "encoder", "device", *COSTS)


def _joint_scores(rows: "pl.DataFrame", on: str, metric: str) -> list[dict[str, Any]]:
    """Mean score of the joint space for each reference, or for each choice of sides against one reference."""
    import polars as pl

    if any(name not in rows.columns for name in (*_JOINT, "reference", "layers", "seed")):
        return []
    shown = rows.filter(*(pl.col(name) == value for name, value in _JOINT.items()), metric=metric)
    shown = shown.filter(pl.col("value").is_finite())
    named = "layers" if on == "sides" else "reference"
    context = [name for name in rows.columns[: rows.columns.index("space")] if name not in _NOT_HELD]
    scores: list[dict[str, Any]] = []
    for (dataset,), part in shown.group_by(["dataset"], maintain_order=True):
        if on == "sides" and _layers_vary(part["layers"].unique().to_list()):
            continue
        held = part
        for name in context:
            # what goes with the encoders, such as the name of a variant, is no further difference
            if name != named and held.select(name, named).n_unique() > held[named].n_unique():
                counts = held.group_by(name, maintain_order=True).agg(pl.col(named).n_unique(), pl.len())
                most = counts.sort(named, "len", descending=True, maintain_order=True)[name][0]
                held = held.filter(pl.col(name).eq_missing(most))
        for (label,), cell in held.group_by([named], maintain_order=True):
            if label and not cell.select("seed").is_duplicated().any():
                mean, low, high, words = mean_interval(cell, "value")
                scores.append(
                    {"dataset": dataset, "of": on, "label": label, "metric": metric, "value": mean, "low": low,
                     "high": high, "interval": words}
                )  # fmt: skip
    return scores


def _layers_vary(layers: Sequence[str]) -> bool:
    """Whether the same encoders stand there by several layers: a study of depth, in which no cost varies."""
    encoders = [repr([str(one).split("/")[0] for one in json.loads(text).values()]) for text in layers if text]
    return len(set(encoders)) < len(encoders)


def _accuracies(table: "pl.DataFrame") -> list[dict[str, Any]]:
    """The performance of each encoder of a table of competence."""
    found: list[dict[str, Any]] = []
    for row in table.iter_rows(named=True):
        if row["performance"] is not None:
            probed = str(row["performance_of"]).startswith(PERFORMANCE)
            metric = PERFORMANCE if probed else "performance"
            found.append(
                {"dataset": row["dataset"], "of": "encoder", "label": row["encoder"], "metric": metric,
                 "value": row["performance"], "low": None, "high": None, "interval": ""}
            )  # fmt: skip
    return found


def _with_cost(score: dict[str, Any], cost: "pl.DataFrame") -> QualityPoint | None:
    """A score with its cost, or None where the encoder has none."""
    import polars as pl

    on = score["of"]
    column = "layers" if on == "sides" else on
    one = pl.DataFrame({"dataset": [score["dataset"]], column: [score["label"]]})
    if cost["device"].n_unique() > 1:
        with_cost(one, cost, on=on)  # says what to do
    try:
        row = with_cost(one, cost, on=on).row(0, named=True)
    except (UsageError, ValueError):  # of a name that is of another form than those of encoders, too
        return None
    numbers: dict[str, Any] = {name: row[f"{on}_{name}"] for name in ("parameters", "flops", "forward_ms")}
    if any(value is None for value in numbers.values()):
        return None
    return QualityPoint(**score, **numbers, device=cost["device"][0])
