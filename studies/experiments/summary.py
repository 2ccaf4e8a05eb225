"""The short summary of a sweep: the joint space's scores on test, mean over seeds, for each combination."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from featcache.studies.experiments.seeds import mean_interval
from featcache.studies.experiments.spec import Source, column_of, varied_names

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class JointScore:
    """The joint space's score of one combination against one reference.

    Args:
        label: What was varied but the seed, in words.
        reference: View, encoder and layer.
        mean: Over seeds.
        low: Lower end of the interval, or None.
        high: Upper end.
        interval: What the interval is of.
        runs: Seeds.
    """

    label: str
    reference: str
    mean: float
    low: float | None
    high: float | None
    interval: str
    runs: int


def joint_scores(source: Source, rows: "pl.DataFrame", metric: str) -> list[JointScore]:
    """Scores of the trained joint space against each reference, on test, in the order of the plan.

    Args:
        source: The experiment.
        rows: Its tidy table.
        metric: A name of METRICS.
    """
    import polars as pl

    wanted = {"space": "joint", "against": "reference", "metric": metric, "split": "test", "stage": "trained"}
    shown = rows.filter(*(pl.col(name) == value for name, value in wanted.items()), pl.col("value").is_not_null())
    axes = [column_of(name) for name in varied_names(source.experiment) if name != "seed"] + ["control"]
    scores: list[JointScore] = []
    for key, cell in shown.group_by([*axes, "reference"], maintain_order=True):
        at = dict(zip((*axes, "reference"), key, strict=True))
        label = ", ".join(f"{name} {at[name]}" for name in axes if at[name] not in ("", None))
        scores.append(JointScore(label, str(at["reference"]), *mean_interval(cell, "value"), len(cell)))
    return scores
