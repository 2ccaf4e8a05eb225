"""Leaks between splits on the terminal: what leaks, and the test split beside its clean part."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.report.leaks import (
    LOOKALIKE,
    NEAR,
    TEXT,
    CleanRow,
    clean_table,
    groups_text,
    look_alikes,
    metric_name,
    plural,
    sampled,
    sizes,
    texts_text,
)
from featcache.report.runs import RunResults
from featcache.report.seeds import headline_run, score_text
from featcache.report.terminal.console import console
from featcache.report.terminal.fitted import print_fitted_table

if TYPE_CHECKING:
    from featcache.studies.leaks import Leak, Leaks

_LISTED = 5


def show_leaks(leaks: "Leaks", *, dropped: bool = False) -> None:
    """Warns on stderr of what stands in two splits; says nothing where nothing does.

    Args:
        leaks: What was found.
        dropped: Whether the groups are left out of the run.
    """
    out = console(stderr=True)
    record = leaks.record()
    if record["groups"]:
        out.print(f"WARNING: {groups_text(record)} stand in an earlier split too, or nearly", style="bold red")
        _show_rows([row for row in leaks.rows if row.kind not in (TEXT, LOOKALIKE)] or leaks.rows)
        if dropped:
            out.print("  They are left out of the run (--on-leak drop); leaks.parquet of the run lists all.")
        else:
            out.print(
                "  Scores on them say little of what is new. featcache train scores the test split without them beside "
                "and lists all in leaks.parquet; --on-leak drop leaves them out, --on-leak stop refuses to train."
            )
        if NEAR in record["rows"]:
            out.print(
                "  ≈ is a judgement by features (docs/runs.md): drawings may only look alike, and copies that lost "
                "much detail are missed. Look at the pairs."
            )
    if record["texts"]:
        out.print(f"Note: {texts_text(record)}")
        _show_rows(leaks.texts_alone())
    for line in look_alikes(record):
        out.print(f"Note: {line}")
        _show_rows([row for row in leaks.rows if row.kind == LOOKALIKE])
    for line in sampled(record):
        out.print(f"Note: {line}")


def _show_rows(rows: "Sequence[Leak]") -> None:
    """A line for each kind and split, with the first few ids."""
    for kind, split in dict.fromkeys((row.kind, row.split) for row in rows):
        own = [row for row in rows if (row.kind, row.split) == (kind, split)]
        listed = "; ".join(row.pair for row in own[:_LISTED])
        more = f"; and {len(own) - _LISTED:,} more" if len(own) > _LISTED else ""
        console(stderr=True).print(f"  {split}, {len(own):,} {plural(kind, len(own))}: {listed}{more}")


def show_clean(runs: Sequence[RunResults], *, brief: bool = False) -> None:
    """Shows the headline run's scores on the test split beside those on its clean part.

    Args:
        runs: Runs.
        brief: Only the joint space (without a reference, the sides after training) by the first metric, and recalls.
    """
    run, _ = headline_run(runs)
    rows = clean_table(run)
    if brief:
        rows = [row for row in rows if row.test.direction or _is_result(run, row)]
    if rows:
        whose = f" of {run.label}" if len(runs) > 1 else ""
        console().print()
        print_fitted_table(
            ("score", *sizes(run)),
            [(f"{row.label}, {metric_name(row.metric)}", score_text(row.test), score_text(row.clean)) for row in rows],
            title=(f"The test split{whose} beside its clean part",),
        )


def _is_result(run: RunResults, row: CleanRow) -> bool:
    """Whether a row is what the run is about: its joint space, or its trained sides, by the first metric."""
    trained = row.test.stage == "trained" and row.metric == run.metrics[0]
    return trained and (row.test.space == "joint" or not run.reference)
