"""Terminal output of run folders: what they share, where they differ, and their scores."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featcache.report.names import decimals, finite
from featcache.report.runs import RECALLS, metric_title
from featcache.report.terminal.console import console, count, print_json
from featcache.report.terminal.fitted import print_fitted_table, print_parts

if TYPE_CHECKING:
    from featcache.studies.adapters.listing import RunList

_ALWAYS = ("dataset", "sides", "reference", "adapter", "loss", "seed")  # told even where all runs have them alike
_SCORES = ("mutual_knn", RECALLS[-1])  # by which runs are shown; every other is in --json


def show_runs(runs: "RunList", *, sort: str | None, as_json: bool) -> None:
    """Shows runs in their order, a line each: settings that differ, and scores on validation and test.

    Args:
        runs: From `featcache.studies.adapters.listing`.
        sort: The metric that they are sorted by, which is shown too.
        as_json: Print every setting and score as JSON.
    """
    for text in runs.damaged:
        console(stderr=True).print(f"Left out: {text}", style="yellow")
    rows = runs.rows.to_dicts()
    if as_json:
        print_json(rows)
        return
    if not rows:
        console().print("No run is left of that condition.")
        return
    texts = {name: [_text(row[name]) for row in rows] for name in runs.settings}
    varied = [name for name in runs.settings if len(set(texts[name])) > 1 and name != "selected_epoch"]
    shared = [f"{name} {texts[name][0]}," for name in _ALWAYS if name in texts and name not in varied]
    print_parts([f"{count(rows, 'run')}:", *shared[:-1], *(part.removesuffix(",") for part in shared[-1:])])
    metrics = [
        name for name in dict.fromkeys([*_SCORES, (sort or "").removeprefix("validation_")]) if name in runs.metrics
    ]
    columns = ["run", *varied, "epoch", *(title for name in metrics for title in _titles(name))]
    epochs = [row["selected_epoch"] for row in rows]
    lines = [
        (row["run"], *(texts[name][at] for name in varied), "–" if epochs[at] is None else epochs[at])
        + tuple(cell for name in metrics for cell in _scores(row, name))
        for at, row in enumerate(rows)
    ]
    print_fitted_table(columns, lines)
    console().print(
        "Scores of the joint space against the reference (without one: of the sides, mean over pairs); of retrieval "
        "the mean over directions; choose by validation, not by test. Every setting and score: --json. Two runs "
        "compared: featcache report A B --compare."
    )


def _titles(metric: str) -> tuple[str, str]:
    title = metric_title(metric)
    return f"{title} (val.)", f"{title} (test)"


def _scores(row: Mapping[str, Any], metric: str) -> tuple[str, str]:
    """The score on validation, and that on test with its interval where there is one."""
    from featcache.studies.adapters.listing import HIGH, LOW, TEST, VALIDATION

    validation, test = finite(row.get(f"{VALIDATION}{metric}")), finite(row.get(f"{TEST}{metric}"))
    low, high = (finite(row.get(f"{TEST}{metric}{end}")) for end in (LOW, HIGH))
    interval = "" if low is None or high is None else f" [{decimals(low)}, {decimals(high)}]"
    return _score(validation), _score(test) + interval


def _score(value: float | None) -> str:
    return "–" if value is None else decimals(value)


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
