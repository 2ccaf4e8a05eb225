"""The figure of a probe: accuracy of every space by each way of reading a label off it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.report.figures import point_charts, theme
from featcache.report.figures.figure import Figure
from featcache.report.names import decimals, finite, short_names, shorten
from featcache.report.terminal.downstream import JUDGED, task_title

if TYPE_CHECKING:
    from featcache.report.inputs import InputTable
    from featcache.studies.downstream.tables import TaskResult

Rows = list[dict[str, Any]]
_LONGEST = 28
_CHANCE = "chance"  # stage of the majority class
# stage -> words of the legend and colour, in the order of the legend
_STAGES = {
    "raw": ("raw", theme.series(0)[0]),
    "reference": ("reference", theme.COLOURS["reference"]),
    "trained": ("adapted", theme.COLOURS["joint"]),
    "untrained": ("adapters untrained", theme.COLOURS["mixed"]),
    "random": ("random projection", theme.MUTED),
}
_CONTROLS = {_STAGES[stage][0] for stage in ("untrained", "random")}  # no takeaway is of them
_FEW = "-shot"  # ends the title of few-shot accuracy


def draw_probe(result: "TaskResult", path: Path) -> None:
    """Draws a probe as .png or .svg; a name that ends otherwise is refused by `check_figure_path` before.

    Args:
        result: From `featcache.studies.downstream.probe`.
        path: The file.
    """
    figure = probe_figure([asdict(row) for row in result.rows], result.dataset, result.task)
    if figure is not None:
        figure.draw(path)


def probe_table_figure(table: "InputTable") -> Figure | None:
    """The figure of a table that `featcache probe --out` wrote; None without accuracies."""
    rows = table.rows.filter(table.rows["table"] == "score").to_dicts()
    return probe_figure(rows, rows[0]["dataset"], rows[0]["against"]) if rows else None


def probe_figure(scores: Sequence[Mapping[str, Any]], dataset: str, task: str) -> Figure | None:
    """A panel for each way of reading, all on one scale; None without accuracies.

    Args:
        scores: Rows with the columns of `Row`.
        dataset: Data set name.
        task: What was predicted, in a few words.
    """
    kept = [row for row in scores if finite(row["value"]) is not None]
    kept = [row for row in kept if JUDGED.fullmatch(row["metric"])]
    majority = next((finite(row["value"]) for row in kept if row["stage"] == _CHANCE), None)
    kept = [row for row in kept if row["stage"] in _STAGES]
    if not kept:
        return None
    names = short_names((row["space"] for row in kept), _LONGEST)
    rows = [_mark(row, names, majority) for row in kept]
    present = dict.fromkeys(row["series"] for row in rows)
    colours = {words: colour for words, colour in _STAGES.values() if words in present}
    metrics = [*dict.fromkeys(row["way"] for row in rows)]
    panels = [([metric], _with_one_chance([row for row in rows if row["way"] == metric])) for metric in metrics]
    own = [row for row in panels[0][1] if row["series"] not in _CONTROLS] or panels[0][1]
    best = max(own, key=lambda row: row["value"])
    takeaway = f"By the {panels[0][0][0]} probe {best['label']} reaches {decimals(best['value'])}"
    takeaway += "" if majority is None else f"; the most frequent class is right in {decimals(majority)}"
    spec = point_charts.named_points(
        panels, columns=point_charts.columns_of(len(panels)), colours=colours, title="accuracy", key=""
    )
    title = probe_title(dataset, task)
    facts = f"accuracy on split test, {kept[0]['n'] or 0:,} groups; rule: 95 % interval over test groups"
    spec["title"] = {"text": title, "subtitle": [facts], "offset": 16}
    return Figure(
        "probe",
        title,
        f"{takeaway}. Accuracy on {kept[0]['n'] or 0:,} test groups; rule: 95 % interval over test groups, of few "
        "shots (labelled training groups a class) over their draws too. Dashed: the most frequent class; of few shots "
        "what they reach on permuted labels.",
        f"Dots of accuracy by space and way of reading: {takeaway}",
        rows,
        spec,
    )


def probe_title(dataset: str, task: str) -> str:
    """What a probe asks, as in "What each space tells of label group: openmoji"."""
    return f"What each space tells of {shorten(task, _LONGEST)}: {shorten(dataset)}"


def _mark(row: Mapping[str, Any], names: Mapping[str, str], majority: float | None) -> dict[str, Any]:
    way, label = task_title(row["metric"]), names[row["space"]]
    return {
        "label": label,
        "way": way,
        "series": _STAGES[row["stage"]][0],
        "metric": "accuracy",  # all panels share a scale
        "value": row["value"],
        "ci_low": finite(row["ci_low"]),
        "ci_high": finite(row["ci_high"]),
        "chance": finite(row["chance"]) if way.endswith(_FEW) else majority,
        "_chance": "permuted labels" if way.endswith(_FEW) else "most frequent class",
        "n": row["n"],
        "k": row["k"],
        "_tip": f"{label}, {way}: {decimals(row['value'])}",
    }


def _with_one_chance(rows: Rows) -> Rows:
    """Rows of a panel, their mean chance in each."""
    known = [row["chance"] for row in rows if row["chance"] is not None]
    return [{**row, "chance": sum(known) / len(known) if known else None} for row in rows]
