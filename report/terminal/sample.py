"""An alignment that was estimated from queries, on the terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.report.names import decimals, span
from featcache.report.runs import metric_title
from featcache.report.terminal.alignment import PAIRINGS
from featcache.report.terminal.console import console, print_json
from featcache.report.terminal.fitted import print_path

if TYPE_CHECKING:
    from featcache.extraction.shards import Shard
    from featcache.metrics.measure.row import Row
    from featcache.studies.alignment.sampled import Gallery, SampleSettings


def show_sample(
    row: "Row",
    pair: "Sequence[Gallery]",
    settings: "SampleSettings",
    *,
    population: int,
    table: Path | None,
    as_json: bool,
) -> None:
    """Shows the estimate with its interval, and what it is of.

    Args:
        row: The estimate.
        pair: The galleries.
        settings: How it was got.
        population: Groups in the gallery.
        table: Where the table was written; None for nowhere.
        as_json: Print JSON.
    """
    x, y = (gallery.features for gallery in pair)
    if as_json:
        print_json({"dataset": x.dataset, "population": population, **asdict(row)})
        return
    assert row.value is not None and row.chance is not None
    where = f" {span(row.ci_low, row.ci_high)}" if row.ci_low is not None and row.ci_high is not None else ""
    out = console()
    head = f"{metric_title(row.metric)} {decimals(row.value)}{where}, chance {row.chance:.2g}"
    out.print(head.replace("chance 0.", "chance ."), style="bold")
    out.print(f"{x.dataset}: {x.name} ({x.view}, d = {row.d}) and {y.name} ({y.view}, d = {row.d_against})")
    out.print(
        f"{row.n:,} queries of {population:,} groups, each searched exactly in all of them; k = {row.k}; "
        f"{PAIRINGS[settings.pairing]}; seed {settings.seed}."
    )
    out.print(f"Interval (95 %): {row.estimand}; {row.interval}. Searched by {row.backend} in {row.seconds:.1f} s.")
    if table is not None:
        print_path("Table:", str(table))


def show_missing(parts: Path, mine: "Shard", missing: "Sequence[Shard]", queries: int) -> None:
    """Says that a part was written, and which are missing."""
    some = ", ".join(str(shard) for shard in missing[:8]) + (" …" if len(missing) > 8 else "")
    console().print(f"Part {mine} written: {queries:,} queries. Missing: {some}")
    print_path("Parts:", str(parts))
