"""A table of run folders, a row a run: its settings, and the scores of its selected epoch on validation and test."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import UsageError
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import RunDamaged, RunMissing
from featcache.trainer.run import Run, load_run
from featcache.trainer.run_search import is_run, no_run, runs_below

if TYPE_CHECKING:
    import polars as pl

VALIDATION, TEST = "validation_", "test_"  # open the columns of scores
LOW, HIGH = "_low", "_high"  # end the columns of the interval of a score on test
_NOT_SETTINGS = ("started", "commit", "seconds")  # of config.json, beside its settings


@dataclass(frozen=True, eq=False)
class RunList:
    """Runs as a table.

    Args:
        rows: One run a row: `run`, what it was trained on, every setting, and scores: `validation_METRIC`,
            `test_METRIC` and, where it has an interval, `test_METRIC_low` and `test_METRIC_high`. Null where missing.
        metrics: Metric -> whether higher is better, of the scores that any run has.
        damaged: What is to be said of runs that could not be read.
    """

    rows: "pl.DataFrame"
    metrics: Mapping[str, bool]
    damaged: Sequence[str]

    @property
    def settings(self) -> list[str]:
        """Names of the columns that are neither scores nor provenance."""
        scores = {name for metric in self.metrics for name in _score_columns(metric)}
        return [name for name in self.rows.columns if name not in {*scores, *_NOT_SETTINGS, "run"}]


def list_runs(folders: Sequence[Path], *, where: str | None = None, sort: str | None = None) -> RunList:
    """Reads the run folders in and below some folders.

    A score is that of the epoch that validation selected: of alignment the joint space's against the reference or,
    without one, the mean over pairs of sides; of retrieval the mean over directions.

    Args:
        folders: Run folders, or folders that hold them, at most three deep.
        where: An SQL condition on the columns, as `adapter = 'linear' AND seed < 3`; None for every run.
        sort: A metric by whose score on validation the runs stand, the best first, or a setting; None: as found.

    Raises:
        RunMissing: If a folder holds no run.
        UsageError: If the condition cannot be read or `sort` is no column; names those that there are. Scores on test
            are not sorted by: whoever takes the first of such a list has chosen on test.
    """
    runs, damaged = list[Run](), list[str]()
    for folder in dict.fromkeys(path for named in folders for path in _runs_of(Path(named))):
        try:
            runs.append(load_run(folder))
        except RunDamaged as error:
            damaged.append(str(error))
    listed = [*map(_described, runs)]
    every = dict[str, bool]()
    for _, own in listed:
        every |= own
    result = RunList(_frame([row for row, _ in listed], every), every, damaged)
    return RunList(_sorted(_kept(result, where), result, sort), every, damaged)


def _runs_of(folder: Path) -> list[Path]:
    if is_run(folder):
        return [folder]
    below = runs_below(folder) if folder.is_dir() else []
    if not below:
        raise no_run(folder) if folder.exists() else RunMissing(f"no folder {folder}\n  Run: featcache train --help")
    return below


def _described(run: Run) -> tuple[dict[str, Any], dict[str, bool]]:
    """The row of a run, and its metrics."""
    config, reference = run.config, run.config["reference"]
    sides = {name: f"{side['encoder']}/{side['layer']}" for name, side in config["sides"].items()}
    row: dict[str, Any] = {
        "run": str(run.path),
        "dataset": config["dataset"],
        "sides": " + ".join(array if name in array else f"{name}={array}" for name, array in sides.items()),
        "reference": f"{reference['encoder']}/{reference['layer']}" if reference else "none",
        **{name: _plain(value) for name, value in FitConfig.model_validate(config["config"]).model_dump().items()},
        "leaks": config["leaks"],
        "selected_epoch": config.get("selected_epoch"),
        **{name: config.get(name) for name in _NOT_SETTINGS},
    }
    scores, better = _scores(run)
    return row | scores, better


def _scores(run: Run) -> tuple[dict[str, float | None], dict[str, bool]]:
    import polars as pl

    table, epoch = run.table("metrics"), run.config.get("selected_epoch")
    rows = table.filter(pl.col("stage") == "trained", pl.col("split").is_in(["validation", "test"]))
    rows = rows.filter(pl.col("value").is_not_null())
    if epoch is not None:
        rows = rows.filter(pl.col("epoch").is_null() | (pl.col("epoch") == epoch))
    sides = run.sides
    to_reference = pl.col("against").is_in(["reference", ""]) & (pl.col("space") == "joint")
    between = (pl.col("against").is_in([*sides, ""])) & pl.col("space").is_in([*sides, "joint"])
    own = to_reference if run.config["reference"] else between
    rows = rows.filter((pl.col("direction") != "") | own)
    scores, better = dict[str, float | None](), dict[str, bool]()
    for (metric, split), cell in rows.group_by("metric", "split", maintain_order=True):
        name = f"{VALIDATION if split == 'validation' else TEST}{metric}"
        scores[name] = float(cell["value"].to_numpy().mean())
        better[str(metric)] = bool(cell["higher_is_better"][0])
        if split == "test" and len(cell) == 1:
            scores[f"{name}{LOW}"], scores[f"{name}{HIGH}"] = cell["ci_low"][0], cell["ci_high"][0]
    return scores, better


def _plain(value: Any) -> Any:
    """A setting as one cell."""
    return value if value is None or isinstance(value, str | int | float | bool) else json.dumps(value)


def _score_columns(metric: str) -> list[str]:
    return [f"{VALIDATION}{metric}", f"{TEST}{metric}", f"{TEST}{metric}{LOW}", f"{TEST}{metric}{HIGH}"]


def _frame(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, bool]) -> "pl.DataFrame":
    """The rows with the columns of any of them, scores last; a setting of several types is text."""
    import polars as pl

    scores = [name for metric in metrics for name in _score_columns(metric)]
    names = [*dict.fromkeys(name for row in rows for name in row if name not in scores)]
    there = [name for name in scores if any(row.get(name) is not None for row in rows)]
    columns = {}
    for name in [*(names or ["run"]), *there]:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds - {int, float}) > (0 if {int, float} & kinds else 1):
            values = [value if value is None else str(value) for value in values]
        columns[name] = pl.Series(name, values, strict=False)
    return pl.DataFrame(columns)


def _kept(runs: RunList, where: str | None) -> "pl.DataFrame":
    import polars as pl

    if where is None:
        return runs.rows
    try:
        kept = runs.rows.select(pl.sql_expr(where).alias("kept"))["kept"]
        if kept.dtype != pl.Boolean or len(kept) != len(runs.rows):
            raise ValueError("it is no condition on single runs")
        return runs.rows.filter(kept)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError) as error:
        first = (str(error).splitlines() or [repr(error)])[0].partition("; valid columns")[0]
        raise UsageError(
            f"--where {where}: {first}\n  Write a condition of SQL, as in --where \"adapter = 'linear' AND seed < 3\"; "
            f"columns: {', '.join(runs.rows.columns)}"
        ) from None


def _sorted(rows: "pl.DataFrame", runs: RunList, sort: str | None) -> "pl.DataFrame":
    if sort is None:
        return rows
    metrics = {metric: f"{VALIDATION}{metric}" for metric in runs.metrics if f"{VALIDATION}{metric}" in rows.columns}
    if sort.startswith(TEST):
        raise UsageError(
            f"--sort {sort}: the first of runs that stand by their score on test would be chosen on test\n"
            f"  Run: featcache runs --sort {sort.removeprefix(TEST)}"
        )
    name = metrics.get(sort.removeprefix(VALIDATION), sort)
    if name not in rows.columns:
        raise UsageError(
            f"--sort {sort}: no metric has this name; there are {', '.join(metrics)}, and the settings "
            f"{', '.join(runs.settings)}"
        )
    better = runs.metrics.get(name.removeprefix(VALIDATION), False) if name in metrics.values() else False
    return rows.sort(name, descending=better, nulls_last=True, maintain_order=True)
