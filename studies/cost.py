"""The cost of encoders beside their scores: a tidy table of costs, and its join with tables of runs."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.errors import UsageError
from featcache.extraction.cost import EncoderCost
from featcache.provenance import provenance
from featcache.selectors import Selector, parse_selector
from featcache.studies.tables import table

if TYPE_CHECKING:
    import polars as pl

COSTS = ("parameters", "flops", "prepare_ms", "forward_ms", "width")
_KEY = ("dataset", "view", "encoder", "device")


def cost_table(costs: Sequence[EncoderCost]) -> "pl.DataFrame":
    """One row an encoder and view, with what measured it and when."""
    made_by = provenance()
    return table(costs, [made_by] * len(costs))


def with_cost(rows: "pl.DataFrame", cost: "pl.DataFrame", *, on: str = "reference") -> "pl.DataFrame":
    """Adds the cost of the encoder that a column names to each row of a tidy table.

    Args:
        rows: Tidy rows of runs, such as those of `featcache sweep`; has the columns `on` and, where costs are of
            several data sets, `dataset`.
        cost: From `cost_table`: one device, one row an encoder and view.
        on: Column of names such as "efficientnet-lite2", "names-de/minilm" or "images/dinov2-small/9.cls"; empty ones
            have no cost. "sides": the encoders of all sides of a run, as its column `layers` names them, whose costs
            are added up, an encoder of two sides twice.

    Returns:
        The rows in their order, with `<on>_parameters`, `<on>_flops` (a row), `<on>_prepare_ms` and `<on>_forward_ms`
        (a row, of the machine that the cost names) and `<on>_width`.

    Raises:
        UsageError: If a column is missing, a name has no cost or several, or the costs are of several devices; says
            what to measure.

    Example:
        >>> import polars as pl
        >>> cost = pl.DataFrame({"dataset": ["d"], "view": ["images"], "encoder": ["net"], "device": ["cpu"],
        ...     "parameters": [5], "flops": [8.0], "prepare_ms": [1.0], "forward_ms": [2.0], "width": [4]})
        >>> rows = pl.DataFrame({"dataset": ["d"], "reference": ["net"], "value": [0.3]})
        >>> with_cost(rows, cost)["reference_flops"].item()
        8.0
    """
    import polars as pl

    named = "layers" if on == "sides" else on
    _check(rows, cost, on, named)
    by_dataset = "dataset" in rows.columns
    names = rows.select(["dataset", named] if by_dataset else [named]).unique(maintain_order=True)
    costs_of = _cost_of_sides if on == "sides" else _cost_of
    found = [
        dict.fromkeys(COSTS) if not each[named] else costs_of(each[named], each.get("dataset"), cost)
        for each in names.iter_rows(named=True)
    ]
    kinds = {f"{on}_{name}": cost.schema[name] for name in COSTS}
    columns = pl.DataFrame([{f"{on}_{name}": each[name] for name in COSTS} for each in found], schema=kinds)
    keys = names.columns
    joined = pl.concat([names, columns], how="horizontal")
    return rows.join(joined, on=keys, how="left", nulls_equal=True, maintain_order="left")


def _check(rows: "pl.DataFrame", cost: "pl.DataFrame", on: str, named: str) -> None:
    lacking = [name for name in (*_KEY, *COSTS) if name not in cost.columns]
    if lacking:
        raise UsageError(f"the costs have no column {', '.join(lacking)}\n  Make them: featcache cost DATASET ENCODER")
    if named not in rows.columns:
        raise UsageError(f"the rows have no column {named!r}\n  They have: {', '.join(rows.columns)}")
    taken = [f"{on}_{name}" for name in COSTS if f"{on}_{name}" in rows.columns]
    if taken:
        raise UsageError(f"the rows have the columns {', '.join(taken)} already")
    devices = cost["device"].unique().sort().to_list()
    if len(devices) > 1:
        raise UsageError(f"the costs are of several devices, {', '.join(devices)}\n  Keep the rows of one")


def _cost_of_sides(layers: str, dataset: str | None, cost: "pl.DataFrame") -> dict[str, float]:
    """The sum over the sides of a run: {name: "encoder/layer.pooling"} as JSON; a name is a view or begins with it."""
    views = set(cost["view"])
    each = []
    for name, selector in json.loads(layers).items():
        view = next((view for view in views if re.fullmatch(rf"{re.escape(view)}([./].*)?", name)), None)
        several = len(_matching(parse_selector(selector), dataset, cost)) > 1
        each.append(_cost_of(f"{view}/{selector}" if view and several else selector, dataset, cost))
    return {name: sum(row[name] for row in each) for name in COSTS}


def _cost_of(name: str, dataset: str | None, cost: "pl.DataFrame") -> dict[str, float]:
    wanted = parse_selector(name)
    kept = _matching(wanted, dataset, cost)
    if len(kept) == 1:
        return kept.row(0, named=True)
    view = f" --view {wanted.view}" if wanted.view else ""
    command = f"featcache cost {dataset or 'DATASET'} {wanted.encoder}{view} --out costs.parquet"
    if kept.is_empty():
        raise UsageError(f"no cost of {name}{f' over {dataset}' if dataset else ''}\n  Run: {command}")
    which = ", ".join(f"{row['dataset']} {row['view']}/{row['encoder']}" for row in kept.iter_rows(named=True))
    raise UsageError(f"{name} has {len(kept)} costs: {which}\n  Name the view in {name!r}, or keep one row of each")


def _matching(wanted: Selector, dataset: str | None, cost: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    kept = cost.filter(pl.col("encoder") == wanted.encoder)
    if dataset is not None:
        kept = kept.filter(pl.col("dataset") == dataset)
    return kept if wanted.view is None else kept.filter(pl.col("view") == wanted.view)
