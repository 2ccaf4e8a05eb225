"""A sweep read back from its folder: its question, its plots and its tables."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from featcache.errors import BeyondLimit, Damaged, UsageError
from featcache.metrics.measure.row import ContrastRow, Row, schema
from featcache.studies.experiments.spec import CONTEXT, Experiment, Plot, Source
from featcache.studies.experiments.sweep import Sweep
from featcache.studies.experiments.tables import POINTS, SUMMARY, TABLES, Tables, points
from featcache.studies.tables import read_table
from featcache.trainer.run_files import read_plain

if TYPE_CHECKING:
    import polars as pl

_AGAIN = "Write it again: featcache sweep FILE"


class _Summary(BaseModel):
    """sweep.json, as far as anything reads it."""

    model_config = ConfigDict(extra="allow")

    experiment: str
    question: str
    profile: str
    settings: dict[str, Any]
    failures: dict[str, str] = {}


@dataclass(frozen=True, eq=False)
class SweepTables:
    """The tables of a sweep, and what they are of.

    Args:
        source: The experiment; its plots are those of `tables.points`.
        folder: Where the tables are.
        tables: The tables.
        failures: Title of each training that failed -> its error.
    """

    source: Source
    folder: Path
    tables: Tables
    failures: Mapping[str, str]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.source.name

    @property
    def question(self) -> str:
        """What the experiment asks."""
        return self.source.experiment.question

    @property
    def plots(self) -> list[Plot]:
        """Its plots, in the order of the file."""
        return self.source.experiment.plots


def tables_of(sweep: Sweep) -> SweepTables:
    """A sweep that has just ended, as `read_sweep` gives it back."""
    return SweepTables(sweep.source, sweep.folder, sweep.tables, sweep.failures)


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds what a sweep leaves."""
    return (folder / SUMMARY).is_file()


def read_sweep(folder: Path) -> SweepTables:
    """Reads the folder of a sweep's tables.

    Points that were written before they knew their chance are made anew of the rows.

    Args:
        folder: Has sweep.json and the three tables.

    Raises:
        UsageError: If a file is missing or damaged.
        BeyondLimit: If one is larger than is read unasked.
    """
    import polars as pl

    try:
        summary = _Summary.model_validate(json.loads(read_plain(folder / SUMMARY, "json")))
        experiment = Experiment(question=summary.question, **summary.settings)
    except BeyondLimit:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no sweep: {SUMMARY} is missing\n  {_AGAIN}") from error
    except (ValidationError, ValueError, TypeError, RecursionError, OSError, Damaged) as error:
        raise UsageError(f"{folder / SUMMARY} is not of its form\n  {_AGAIN}") from error
    source = Source(summary.experiment, str(folder / SUMMARY), summary.profile, experiment)
    read = {name: read_table(folder / f"{name}.parquet") for name in TABLES}
    for name, wanted in {"rows": schema(Row), "contrasts": schema(ContrastRow)}.items():
        _require(read[name], {**dict.fromkeys(CONTEXT[:4], pl.String), **wanted}, folder / f"{name}.parquet")
    if "chance" not in read["points"].columns:
        try:
            read["points"] = points(source, read["rows"])
        except (pl.exceptions.PolarsError, TypeError, ValueError, KeyError) as error:
            raise UsageError(f"{folder}: rows and plots do not go together: {error}\n  {_AGAIN}") from error
    numbers = dict.fromkeys(("x_number", "y", "low", "high", "chance"), pl.Float64) | {"runs": pl.Int64}
    _require(read["points"], {**dict.fromkeys(POINTS, pl.String), **numbers}, folder / "points.parquet")
    _require_objects(read["points"]["rest"], folder / "points.parquet")
    return SweepTables(source, folder, Tables(**read), summary.failures)


def _require(table: "pl.DataFrame", wanted: Mapping[str, Any], path: Path) -> None:
    """Refuses a table that lacks a column, or has one of another type."""
    for name, kind in wanted.items():
        if name not in table.columns:
            raise UsageError(f"{path} has no column {name}\n  {_AGAIN}")
        if table.schema[name] != kind:
            raise UsageError(f"{path}: column {name} holds {table.schema[name]}, wanted {kind}\n  {_AGAIN}")


def _require_objects(rest: "pl.Series", path: Path) -> None:
    """Refuses points whose column of everything else is not JSON of names and values."""
    try:
        whole = all(isinstance(json.loads(text), dict) for text in rest.unique())
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise UsageError(f"{path}: column rest holds no JSON objects\n  {_AGAIN}")
