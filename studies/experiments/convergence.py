"""How soon a training is nearly as good as it ever is: epochs and steps to 95 % of its own best retrieval."""

import math
from typing import TYPE_CHECKING

from featcache.metrics.measure.row import Row
from featcache.trainer.config import FitConfig

if TYPE_CHECKING:
    import polars as pl

SHARE = 0.95


def convergence_rows(metrics: "pl.DataFrame", config: FitConfig, trained_on: int) -> list[Row]:
    """The first epoch whose mean R@10 of all directions on validation is at least SHARE of the best of all epochs.

    Args:
        metrics: Of the run.
        config: Its settings.
        trained_on: Its training groups.

    Returns:
        Rows of "epochs_to_95" and "steps_to_95", lower meaning sooner; no steps where every caption is a row, whose
        number the run does not record. None where no epoch retrieves anything, nor of closed forms: they have no
        epochs.
    """
    import polars as pl

    if config.solved is not None:
        return []
    tracked = metrics.filter(stage="trained", split="validation", metric="R@10")
    epochs = tracked.group_by("epoch").agg(pl.col("value").mean()).sort("epoch")
    best = epochs["value"].max() if len(epochs) else None
    if not isinstance(best, float) or best <= 0:
        return []
    first = int(epochs.filter(pl.col("value") >= SHARE * best)["epoch"][0])
    found = {"epochs_to_95": first}
    if config.steps != "pass" or config.captions != "all":
        steps = math.ceil(trained_on / config.batch) if config.steps == "pass" else config.steps
        found["steps_to_95"] = first * int(steps)
    note = f"first epoch at {SHARE:.0%} of the run's best mean R@10 on validation"
    return [
        Row("joint", "", name, float(value), stage="trained", split="validation", higher_is_better=False, note=note)
        for name, value in found.items()
    ]
