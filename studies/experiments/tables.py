"""The tidy tables of a sweep: rows and contrasts of every run, with what was varied, and the points of its figures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.metrics.measure.row import ContrastRow, Row, frame, schema
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.studies.experiments.convergence import convergence_rows
from featcache.studies.experiments.plan import Outcome, Training, run_path
from featcache.studies.experiments.seeds import mean_interval
from featcache.studies.experiments.spec import CONTEXT, Plot, Source, column_of, varied_names

if TYPE_CHECKING:
    import polars as pl

TABLES = ("rows", "contrasts", "points")
SUMMARY = "sweep.json"
POINTS = ("plot", "x", "x_number", "y", "low", "high", "chance", "colour", "facet", "rest", "runs", "interval")


@dataclass(frozen=True)
class Tables:
    """The tables of one sweep.

    Args:
        rows: Metrics of every run and panel.
        contrasts: Paired differences of every run and panel.
        points: What the plots show, a point a row.
    """

    rows: "pl.DataFrame"
    contrasts: "pl.DataFrame"
    points: "pl.DataFrame"


def folder_of(out: Path, source: Source) -> Path:
    """Where the tables of an experiment's profile lie in the folder of a study."""
    return out / source.name / source.profile


def gather(source: Source, trainings: Sequence[Training], outcomes: Mapping[str, Outcome], out: Path) -> Tables:
    """The tables of every training that did not fail, in the order of the plan.

    Args:
        source: The experiment.
        trainings: Its plan; several may share a run folder.
        outcomes: Run folder -> what came of it.
        out: The folder of the study.

    Raises:
        RunDamaged: If a run folder is not as it was written.
    """
    import polars as pl

    parts: dict[str, list[pl.DataFrame]] = {"metrics": [], "contrasts": []}
    for training in trainings:
        outcome = outcomes[training.folder]
        if outcome.panel is None:
            continue
        for columns, tables in _tables_of(source, training, outcome, out):
            for name, table in tables.items():
                constants = [_literal(value).alias(column) for column, value in columns.items()]
                parts[name].append(table.select(*constants, pl.all()))
    kinds = {"metrics": Row, "contrasts": ContrastRow}
    rows, contrasts = (_joined(source, trainings, parts[name], kinds[name]) for name in ("metrics", "contrasts"))
    if "untrained" not in source.experiment.controls:
        rows = rows.filter(pl.col("stage") != "untrained")
    return Tables(rows, contrasts, points(source, rows))


def _tables_of(
    source: Source, training: Training, outcome: Outcome, out: Path
) -> "Iterable[tuple[dict[str, Any], dict[str, pl.DataFrame]]]":
    """Columns and tables of a run, then of each member of its panel."""
    import polars as pl

    from featcache.studies.experiments.work import PANEL_TABLES, context_of
    from featcache.trainer.run import load_run

    run = load_run(run_path(out, training))
    context = {"experiment": source.name, "profile": source.profile, "run": training.folder, **context_of(run)}
    varied = {column_of(name): value for name, value in training.varied.items()}
    columns = {**context, **varied}
    own = {name: run.table(name) for name in PANEL_TABLES}
    settled = convergence_rows(own["metrics"], training.config, context["trained_on"])
    own["metrics"] = pl.concat([own["metrics"], frame(settled, Row)])
    yield {**columns, "panel": False}, own
    for name, path in (outcome.panel or {}).values():
        tables = {each: pl.read_parquet(out / f"{path}.{each}.parquet") for each in PANEL_TABLES}
        yield {**columns, "reference": name, "panel": True}, tables
    for name, path in outcome.transfers.items():
        table = pl.read_parquet(out / f"{path}.metrics.parquet")
        yield {**columns, "panel": False, "transfer": name}, {"metrics": table}
    for path in outcome.probes.values():
        yield {**columns, "panel": False}, {"metrics": pl.read_parquet(out / f"{path}.metrics.parquet")}


def _literal(value: Any) -> "pl.Expr":
    import polars as pl

    kinds = {bool: pl.Boolean, int: pl.Int64, float: pl.Float64}
    return pl.lit(value, dtype=kinds.get(type(value), pl.String))


def _joined(
    source: Source, trainings: Sequence[Training], parts: "Sequence[pl.DataFrame]", kind: type[Row] | type[ContrastRow]
) -> "pl.DataFrame":
    import polars as pl

    varied = {column_of(name): _type_of(training.varied.get(name) for training in trainings)
              for name in varied_names(source.experiment)}  # fmt: skip
    context = dict.fromkeys(CONTEXT, pl.String)
    context |= {"panel": pl.Boolean, "seed": pl.Int64, "trained_on": pl.Int64, "selected_epoch": pl.Int64}
    wanted = {**context, **varied, **schema(kind)}
    if not parts:
        return pl.DataFrame(schema=wanted)
    typed = [part.with_columns(_as_type(part, name, of) for name, of in varied.items()) for part in parts]
    return pl.concat([part.select(list(wanted)) for part in typed])


def _type_of(values: Iterable[Any]) -> "Any":
    """The type of a varied column: that of all its values, numbers of both kinds as such; text where they differ.

    Values of None, of trainings that do not have the column, do not count.
    """
    import polars as pl

    kinds = {type(value) for value in values if value is not None}
    for type_, accepted in ((pl.Boolean, {bool}), (pl.Int64, {int}), (pl.Float64, {int, float})):
        if kinds <= accepted:
            return type_
    return pl.String


def _as_type(part: "pl.DataFrame", name: str, of: Any) -> "pl.Expr":
    import polars as pl

    if name not in part.columns:  # of a closed form, where the column is of training by steps
        return pl.lit(None, dtype=of).alias(name)
    value = part[name][0]
    return pl.lit(json.dumps(value) if of == pl.String and not isinstance(value, str) else value, dtype=of).alias(name)


# -- points of figures ------------------------------------------------------------------------------------------------


def points(source: Source, rows: "pl.DataFrame") -> "pl.DataFrame":
    """A row for each point of each plot: the mean over seeds, apart for whatever else was varied.

    Args:
        source: The experiment, for its plots.
        rows: The tidy table.
    """
    import polars as pl

    kinds = dict.fromkeys(POINTS, pl.String)
    kinds |= dict.fromkeys(("x_number", "y", "low", "high", "chance"), pl.Float64) | {"runs": pl.Int64}
    found = [point for plot in source.experiment.plots for point in _points(plot, source, rows)]
    return pl.DataFrame(found, schema=kinds)


def _points(plot: Plot, source: Source, rows: "pl.DataFrame") -> list[dict[str, Any]]:
    import polars as pl

    shown = rows.filter(*(selected(name, value) for name, value in plot.where.items()), pl.col(plot.y).is_not_null())
    axes = [name for name in (plot.x, plot.colour, plot.facet) if name]
    others = [column_of(name) for name in varied_names(source.experiment)]
    others = [name for name in (*others, "control", "reference", "transfer", *ROW_KEYS) if name not in (*axes, "seed")]
    found: list[dict[str, Any]] = []
    for key, cell in shown.group_by([*axes, *others], maintain_order=True):
        at = dict(zip((*axes, *others), key, strict=True))
        mean, low, high, words = mean_interval(cell, plot.y)
        x = at[plot.x]
        found.append(
            {
                "plot": plot.name,
                "x": x if isinstance(x, str) else json.dumps(x),
                "x_number": float(x) if isinstance(x, int | float) else None,
                "y": mean,
                "low": low,
                "high": high,
                "chance": cell["chance"].mean() if plot.y == "value" else None,
                "colour": _label(at, plot.colour),
                "facet": _label(at, plot.facet),
                "rest": json.dumps(
                    {name: at[name] for name in others if at[name] not in ("", None)}, ensure_ascii=False
                ),
                "runs": len(cell),
                "interval": words,
            }
        )
    return found


ROW_KEYS = ("space", "against", "metric", "direction", "split", "stage", "k")  # what tells two rows of a run apart


def _label(at: Mapping[str, Any], name: str) -> str:
    value = at[name] if name else None
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def selected(name: str, value: Any) -> "pl.Expr":
    """Whether a column has a value, or one of several."""
    import polars as pl

    return pl.col(name).is_in(value) if isinstance(value, list) else pl.col(name) == value


def write_tables(folder: Path, tables: Tables, summary: Mapping[str, Any]) -> None:
    """Writes the tables of a sweep, each whole or not at all, and last what they are of."""
    for name in TABLES:
        write_output(folder / f"{name}.parquet", parquet_bytes(getattr(tables, name)))
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    write_output(folder / SUMMARY, text.encode())
