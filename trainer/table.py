"""The tidy table of a run: one measured number a row."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Row:
    """One measured number.

    Args:
        stage: "raw", "untrained", "trained" or "mixed".
        space: "x", "y", "joint" or "x+y".
        against: "reference" or "pair".
        metric: "mutual_knn", "cka", "loss", "R@1", "R@5", "R@10" or "median_rank".
        split: "train", "validation" or "test".
        value: The number.
        direction: "x→y" or "y→x" for retrieval, else "".
        epoch: Epoch of the weights, 0 before training; None for spaces without weights.
        n: Groups (alignment) or queries (retrieval) behind the value.
        k: Neighbours or rank cut-off, where the metric has one.
        chance: Expected value when the two sides are unrelated.
        null_low: Lower end of the central 95 % under permuted groups.
        null_high: Upper end.
        ci_low: Lower end of the 95 % interval of the value.
        ci_high: Upper end.
        w: Weight of x in the mixture, for stage "mixed".
        estimand: What the interval covers, in words.
    """

    stage: str
    space: str
    against: str
    metric: str
    split: str
    value: float
    direction: str = ""
    epoch: int | None = None
    n: int | None = None
    k: int | None = None
    chance: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    w: float | None = None
    estimand: str = ""


COLUMNS = {
    "stage": str,
    "space": str,
    "against": str,
    "metric": str,
    "direction": str,
    "split": str,
    "epoch": int,
    "value": float,
    "n": int,
    "k": int,
    "chance": float,
    "null_low": float,
    "null_high": float,
    "ci_low": float,
    "ci_high": float,
    "w": float,
    "estimand": str,
}


def frame(rows: Iterable[Row]) -> "pl.DataFrame":
    """The rows as a polars table with the columns of COLUMNS, in that order.

    Example:
        >>> frame([Row("raw", "x", "reference", "cka", "test", 0.5)]).shape
        (1, 17)
    """
    import polars as pl

    types = {str: pl.String, int: pl.Int64, float: pl.Float64}
    schema = {name: types[kind] for name, kind in COLUMNS.items()}
    return pl.DataFrame([asdict(row) for row in rows], schema=schema)
