"""Competence on the terminal: performance of encoders beside their mean alignment with the others; the same as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from featcache.report.terminal.console import console, print_json, print_table

if TYPE_CHECKING:
    from featcache.studies.competence import CompetenceResult


def show_competence(result: "CompetenceResult", *, left_out: Sequence[str], as_json: bool) -> None:
    """Encoders by performance with their mean alignment, and how the two go together.

    Args:
        result: From `featcache.studies.competence`.
        left_out: Encoders that are not cached.
        as_json: Print JSON.
    """
    from featcache.metrics.measure.row import p_text

    rows, correlation = result.rows, result.correlation
    if as_json:
        print_json({"encoders": [asdict(row) for row in rows], "correlation": asdict(correlation)})
        return
    for note in result.common.notes:
        console().print(f"{note}.")
    if left_out:
        console().print(f"Not cached, left out: {', '.join(left_out)}.")
    first = rows[0]
    table = [(row.encoder, f"{row.performance:.3f}", f"{row.value:.3f}") for row in rows]
    alignment = f"mean {first.metric} with the others"
    print_table(("encoder", first.performance_of, alignment), table, title=f"{first.dataset}, {first.n:,} groups")
    if correlation.rho is None:
        console().print("Spearman's correlation: none, one of the two does not vary.")
    else:
        p = p_text(correlation.p)
        console().print(f"Spearman's correlation {correlation.rho:+.2f}, p {p} ({correlation.method}).")
    if result.out is not None:
        console().print(f"Table: {result.out}")
