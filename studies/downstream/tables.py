"""What a downstream task measured, and its table: scores and differences, each with its arrays, versions and time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.features import Features
from featcache.metrics.measure.row import ContrastRow, Row, columns, frame
from featcache.provenance import provenance
from featcache.studies.tables import write_table

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, eq=False)
class TaskResult:
    """What a downstream task measured.

    Args:
        dataset: Data set name.
        task: What was predicted, in a few words.
        rows: Accuracies.
        contrasts: Paired differences with the baseline.
        baseline: Space that others are compared with; "" for none.
        counts: Split -> groups.
        classes: Number of classes.
        sources: Space -> names of the arrays that it comes from.
        notes: What is to be said; a caveat starts with "Caveat".
        table: Where the tidy table was written; None for nowhere.
    """

    dataset: str
    task: str
    rows: list[Row]
    contrasts: list[ContrastRow]
    baseline: str
    counts: Mapping[str, int]
    classes: int
    sources: Mapping[str, str]
    notes: Sequence[str]
    table: Path | None


def array_names(sources: Sequence[Features]) -> str:
    """Arrays as view/encoder/layer@digest, root behind a colon, joined by "+"."""
    return "+".join(f"{each.view}/{each.name}@{each.digest[:16]}:{each.root[:16]}" for each in sources)


def task_table(result: TaskResult, shared: Mapping[str, Any]) -> "pl.DataFrame":
    """Scores and differences below each other; the column `table` says which is which.

    Args:
        result: The result.
        shared: Further columns of every row, of plain values.
    """
    import polars as pl

    def arrays(spaces: Sequence[str]) -> "pl.Series":
        return pl.Series("arrays", [result.sources.get(name, "") for name in spaces], dtype=pl.String)

    scores = frame(result.rows, Row).with_columns(
        arrays([row.space for row in result.rows]), pl.lit("score").alias("table")
    )
    differences = frame(result.contrasts, ContrastRow).with_columns(
        arrays([row.whole for row in result.contrasts]), pl.lit("difference").alias("table")
    )
    more = [pl.lit(value).alias(name) for name, value in {**shared, **provenance()}.items()]
    return pl.concat([scores, differences], how="diagonal").with_columns(more)


def write_task_table(out: Path | None, result: TaskResult, shared: Mapping[str, Any]) -> None:
    """Writes the table as Parquet; errors as `write_table`.

    Args:
        out: The file; None for nowhere.
        result: The result.
        shared: Further columns of every row, of plain values.
    """
    if out is not None:
        write_table(task_table(result, shared), out)


def plain(settings: Any) -> dict[str, Any]:
    """Settings as columns: None is "", and what is no number, truth or text is its text.

    A setting that has the name of a column of the rows is left out: the rows say it.
    """
    taken = {*columns(Row), *columns(ContrastRow)}
    return {
        name: value if isinstance(value, bool | int | float | str) else "" if value is None else str(value)
        for name, value in asdict(settings).items()
        if name not in taken
    }
