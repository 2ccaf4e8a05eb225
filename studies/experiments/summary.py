"""The short summary of a sweep: the joint space's scores on test, mean over seeds, for each combination."""

from collections.abc import Iterator
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
    return [
        JointScore(label, reference, *mean_interval(cell, "value"), len(cell))
        for label, reference, cell in _combinations(source, shown)
    ]


@dataclass(frozen=True)
class JointContrast:
    """How the joint space stands to its parts, of one combination against one reference.

    Args:
        label: What was varied but the seed, in words.
        reference: View, encoder and layer.
        values: Contrast -> its mean over seeds and its verdicts, each with the number of seeds.
    """

    label: str
    reference: str
    values: dict[str, tuple[float, str]]


def joint_contrasts(
    source: Source, contrasts: "pl.DataFrame", metric: str, names: tuple[str, ...]
) -> list[JointContrast]:
    """Contrasts on test of each combination against each reference, mean over seeds, in the order of the plan.

    Args:
        source: The experiment.
        contrasts: Its table.
        metric: A name of METRICS.
        names: Of the contrasts.
    """
    import polars as pl

    shown = contrasts.filter(pl.col("contrast").is_in(names), metric=metric, split="test")
    shown = shown.filter(pl.col("value").is_not_null())
    means: list[JointContrast] = []
    for label, reference, cell in _combinations(source, shown):
        values: dict[str, tuple[float, str]] = {}
        for (name,), own in cell.group_by(["contrast"], maintain_order=True):
            counts = own["verdict"].value_counts(sort=True).iter_rows()
            words = ", ".join(f"{verdict} {count}" if len(own) > 1 else str(verdict) for verdict, count in counts)
            values[str(name)] = sum(own["value"].to_list()) / len(own), words
        means.append(JointContrast(label, reference, values))
    return means


def _combinations(source: Source, table: "pl.DataFrame") -> Iterator[tuple[str, str, "pl.DataFrame"]]:
    """What was varied but the seed, in words, the reference, and the rows of each combination, in their order."""
    axes = [column_of(name) for name in varied_names(source.experiment) if name != "seed"] + ["control"]
    for (*values, reference), cell in table.group_by([*axes, "reference"], maintain_order=True):
        label = ", ".join(f"{name} {at}" for name, at in zip(axes, values, strict=True) if at not in ("", None))
        yield label, str(reference), cell
