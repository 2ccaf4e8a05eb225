"""Training on the terminal: what was trained, then alignment and retrieval on the test split."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.report.console import console, print_table
from featcache.report.runs import ALIGNMENT

if TYPE_CHECKING:
    from featcache.report.runs import RunResults
    from featcache.report.tables import Reading
    from featcache.trainer.run import Run


def show_training(run: "Run") -> None:
    """Shows what was trained, and which epoch was kept."""
    settings, features = run.config["config"], run.config["features"]
    names = {role: f"{entry['encoder']}/{entry['layer']}" for role, entry in features.items()}
    sides = " + ".join(f"{names[role]} ({features[role]['view']})" for role in ("x", "y"))
    against = f"against {names['reference']}, {settings['adapter']} adapters, seed {settings['seed']}"
    console().print(f"{run.config['dataset']}: {sides} {against}")
    kept = f"epoch {run.config['selected_epoch']} of {settings['epochs']} kept by validation {settings['select']}"
    how = "was there already" if run.already_there else f"trained in {run.config['seconds']:.1f} s"
    console().print(f"  {run.path} {how}; {kept}")


def show_run(run: "Run") -> None:
    """Shows one run's tables and what they say."""
    show_runs([run.path])
    console().print(f"\nRun folder: {run.path}\nThe page with every figure: featcache report {run.path}")


def show_runs(paths: Sequence[Path]) -> None:
    """Shows alignment and retrieval on the test split, a column a run, and what they say."""
    from featcache.report.runs import load_runs
    from featcache.report.sentences import brief

    runs = load_runs(paths)
    for metric, title in ALIGNMENT.items():
        console().print()
        _show_alignment_of(runs, metric, title)
    console().print()
    _show_retrieval_of(runs)
    console().print("\nWhat the result says")
    for sentence in brief(runs):
        console().print(f"- {sentence}")


def _show_alignment_of(runs: Sequence["RunResults"], metric: str, title: str) -> None:
    """One metric of every space, a column a run; average and maximum of the parts stand below their sides."""
    from featcache.report.tables import Reading, summary_table

    rows = {run.label: summary_table([run]) for run in runs}
    readings: list[Reading] = [score for table in rows.values() for row in table if (score := getattr(row, metric))]
    lows, highs, chances = (
        [v for r in readings if (v := getattr(r, f)) is not None] for f in ("null_low", "null_high", "chance")
    )
    test = runs[0].config["split"]["n"]["test"]
    k = f", k = {runs[0].config['config']['k']}" if metric == "mutual_knn" else ""
    chance = f"chance {min(chances):.3f}" + (f"–{max(chances):.3f}" if max(chances) - min(chances) > 5e-4 else "")
    null = f"95 % of nulls {min(lows):.3f}–{max(highs):.3f}"
    heading = f"{title} with {runs[0].names()['reference']}{k}, {test} test groups; {chance}, {null}"
    first = next(iter(rows.values()))
    lines = [
        (row.label, *(_score(getattr(table[number], metric)) for table in rows.values()))
        for number, row in enumerate(first)
    ]
    print_table(("space", *rows), lines, title=heading)


def _show_retrieval_of(runs: Sequence["RunResults"]) -> None:
    from featcache.report.tables import RetrievalRow, retrieval_table

    tables: dict[str, list[RetrievalRow]] = {run.label: retrieval_table([run]) for run in runs}
    first = next(iter(tables.values()))
    lines = [
        (
            row.label,
            row.metric,
            row.stage,
            *(_interval(table[number].reading) for table in tables.values()),
            _score(row.reading, "chance"),
        )
        for number, row in enumerate(first)
        if row.metric in ("R@1", "R@10")
    ]
    print_table(("retrieval on test", "metric", "adapters", *tables, "chance"), lines)


def _score(reading: "Reading | None", what: str = "value") -> str:
    value = None if reading is None else getattr(reading, what)
    return "–" if value is None else f"{value:.3f}"


def _interval(reading: "Reading") -> str:
    interval = "" if reading.ci_low is None else f" [{reading.ci_low:.3f}, {reading.ci_high:.3f}]"
    return f"{reading.value:.3f}{interval}"
