"""A dial on the terminal: the answer, then alignment and its correlations dose by dose."""

from typing import TYPE_CHECKING, Any

from featcache.report.names import decimals
from featcache.report.runs import metric_title
from featcache.report.terminal.console import console
from featcache.report.terminal.fitted import print_fitted_table, print_parts, print_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from featcache.extraction.extract import Extracted
    from featcache.studies.emergence.dials.doses import DialResult
    from featcache.studies.emergence.dials.graded_captions import GradedSimilarity

_COLUMNS = ("dose", "alignment", "95 % interval", "chance", "p", "best pair", "ρ accuracy", "ρ depth")


def show_dial(result: "DialResult", *, figures: "Sequence[str]" = ()) -> None:
    """Prints what a dial did to alignment, and where its tables are.

    Args:
        result: From `swapped_captions`, `perturbed` or `graded_captions` of `featcache.studies.emergence`.
        figures: Names of the figures that were drawn beside the tables.
    """
    for note in result.notes:
        print_parts(f"{note}.".split(" "))
    fixed = _fixed(result.alignment)
    print_parts(dial_answer(result).split(" "))
    console().print()
    first = fixed.row(0, named=True)
    title = (
        f"{metric_title(first['metric'])} of {first['space']} and {first['against']}, {first['n']:,} rows, draw "
        f"{first['draw']}; best pair: of all layers; ρ: Spearman's, over layers of {first['x_view']}"
    )
    rows = [_line(row, result) for row in fixed.iter_rows(named=True)]
    print_fitted_table(_COLUMNS, rows, title=title.split(" "))
    if result.paths:
        print_path("Tables and figures:" if figures else "Tables:", str(next(iter(result.paths.values())).parent))


def dial_answer(result: "DialResult") -> str:
    """What the dial did to alignment of the fixed layers, in a sentence."""
    rows = _fixed(result.alignment)
    first, last = rows.row(0, named=True), rows.row(-1, named=True)
    title = metric_title(first["metric"])
    reached = "" if last["p"] is None else ", as unrelated rows score" if last["p"] > 0.05 else ", still above chance"
    ends = [f"{decimals(row['value'])} at {row['dose_words']}" for row in (first, last)]
    return f"{first['comparison']} {title}: {', '.join(ends)}{reached}."


def show_extracted(done: "Sequence[Extracted]") -> None:
    """Prints what was encoded of perturbed views, a line each.

    Args:
        done: From `featcache.studies.emergence.dials.perturbed.extract_perturbed`.
    """
    rows = [(each.view, each.encoder, f"{each.rows:,}", f"{each.reused:,}", f"{len(each.layers)}") for each in done]
    print_fitted_table(("view", "encoder", "rows encoded", "there already", "layers"), rows, names=(0, 1))


def show_similarities(rows: "Sequence[GradedSimilarity]") -> None:
    """Prints cosines of graded captions with the originals, ours beside the recorded ones."""
    if not rows:
        return
    cells = [
        (f"{row.grade}%", decimals(row.recorded), decimals(row.measured), decimals(row.gap), decimals(row.correlation))
        for row in rows
    ]
    columns = ("grade", "recorded mean", "ours", "mean gap a row", "correlation over rows")
    print_fitted_table(columns, cells, title="Cosine of each form with the original:".split(" "))


def _fixed(alignment: "pl.DataFrame") -> "pl.DataFrame":
    """The rows of both fixed layers, of the first metric and draw."""
    rows = alignment.filter((alignment["fixed"] == "xy") & alignment["value"].is_not_null())
    first = rows.row(0, named=True)
    return rows.filter(metric=first["metric"], draw=first["draw"]).sort("dose")


def _line(row: dict[str, Any], result: "DialResult") -> tuple[str, ...]:
    at = result.alignment.filter(dose=row["dose"], metric=row["metric"], draw=row["draw"])
    interval = "–" if row["ci_low"] is None else f"{decimals(row['ci_low'])} to {decimals(row['ci_high'])}"
    p = "–" if row["p"] is None else decimals(row["p"])
    best = decimals(float(max(at["value"].drop_nulls()))) if len(at) > 1 else "–"
    rhos = [
        _rho(row, result.correlations, *relation)
        for relation in (("alignment", "probe_accuracy"), ("depth", "alignment"))
    ]
    chance = "–" if row["chance"] is None else decimals(row["chance"])
    return row["dose_words"], decimals(row["value"]), interval, chance, p, best, *rhos


def _rho(row: dict[str, Any], correlations: "pl.DataFrame", x: str, y: str) -> str:
    kept = correlations.filter(
        dose=row["dose"], draw=row["draw"], metric=row["metric"], side="x", x=x, y=y, method="spearman",
        levels="all layers together", against="the default layer of the other view",
    )  # fmt: skip
    value = kept["value"][0] if len(kept) else None
    return "–" if value is None else decimals(value)
