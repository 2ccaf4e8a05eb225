"""The appendix of a paper in Markdown: what was asked and answered, every table, the figures, how to reproduce it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from featcache.report.answer import answer, question
from featcache.report.caveats import caveats
from featcache.report.command import CONTROL, training_command, without_option
from featcache.report.leaks import clean_table, metric_name, sizes
from featcache.report.names import shorten
from featcache.report.page import markdown
from featcache.report.page.comparison import CONTRAST_COLUMNS, comparison_answer, comparison_lines, comparison_question
from featcache.report.runs import (
    RECALLS,
    RunResults,
    adapter_name,
    metric_title,
    metrics_of,
    mixture_text,
    number,
    solution_text,
)
from featcache.report.seeds import headline_run, interval_text, score_text
from featcache.report.sentences import selection
from featcache.report.tables import AlignmentRow, contrast_table, retrieval_table, summary_table

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row
    from featcache.studies.adapters.comparison import Comparison

COLUMNS = 4  # runs up to which a run is a column; more are rows
_LONGEST = 100  # characters of a name in a table
_JUDGED = (
    "A verdict follows p, two-sided, corrected (Holm) for all contrasts of a run and metric; the 95 % intervals of the "
    "differences are not corrected. Above 0 the first of the two spaces is closer to the reference."
)


def appendix(
    runs: Sequence[RunResults], figures: Sequence[tuple[str, str, str]], comparison: "Comparison | None" = None
) -> str:
    """The appendix of one or several runs, as GitHub-flavoured Markdown.

    Args:
        runs: From `pool_seeds`.
        figures: Title, caption and path, relative to the file that this will be, of each figure.
        comparison: Of two of the runs.

    Returns:
        The text. A run is a column up to four of them, else a row.
    """
    first, _ = headline_run(runs)
    whose = f"{first.label}: " if len(runs) > 1 else ""
    warned = _caveats(runs)
    parts = [
        f"# {markdown.text(question(runs))}",
        markdown.paragraph(f"{whose}{answer(first)}."),
        *(markdown.paragraph(line) for line in selection(runs)),
        *([] if comparison is None else _compared(comparison)),
        *(["## Caveats", warned] if warned else []),
        "## Settings",
        _matrix(runs, {run.label: _settings(run) for run in runs}),
        *_alignment(runs),
        *_verdicts(runs),
        *_retrieval(runs),
        *(part for run in runs for part in _clean(run, runs)),
        *_figures(figures),
        "## Provenance",
        _matrix(runs, {run.label: _provenance(run) for run in runs}),
        *_reproduction(runs),
    ]
    return "\n\n".join(parts) + "\n"


def _caveats(runs: Sequence[RunResults]) -> str:
    lines = [line.removeprefix("Caveat: ") for line in caveats(runs)]
    labels = tuple(run.label for run in runs)
    lines = [line if line.startswith(labels) else line[0].upper() + line[1:] for line in lines]
    return "\n".join(f"- {markdown.paragraph(line)}" for line in lines)


def _matrix(runs: Sequence[RunResults], cells: Mapping[str, Mapping[str, str]], corner: str = "") -> str:
    """What each run has of some things: a column a run up to four, else a row a run.

    Args:
        runs: In their order.
        cells: Label of a run -> thing -> what it has of it.
        corner: What the things are.
    """
    things = list(dict.fromkeys(thing for run in runs for thing in cells[run.label]))
    names = {thing: shorten(thing, _LONGEST) for thing in things}
    labels = [shorten(run.label, _LONGEST) for run in runs]
    if len(runs) > COLUMNS:
        rows = [
            (label, *(cells[run.label].get(thing, "–") for thing in things))
            for label, run in zip(labels, runs, strict=True)
        ]
        return markdown.table(("run", *names.values()), rows)
    rows = [(names[thing], *(cells[run.label].get(thing, "–") for run in runs)) for thing in things]
    return markdown.table((corner, *(labels if len(runs) > 1 else ["value"])), rows)


def _alignment(runs: Sequence[RunResults]) -> list[str]:
    against = any(run.reference for run in runs)
    parts = ["## Agreement with the reference, test split" if against else "## Agreement of the sides, test split"]
    for metric in metrics_of(runs):
        rows = {run.label: [row for row in summary_table([run]) if metric in row.scores] for run in runs}
        parts.append(f"### {_title(metric)}")
        if len(runs) == 1:
            scores = [(row.label, row.scores[metric]) for row in rows[runs[0].label]]
            columns = ("space", "score", _interval(runs[0]), "chance", "95 % of unrelated features", "n", "note")
            parts.append(markdown.table(columns, [_score_row(label, score) for label, score in scores]))
        else:
            cells = {
                label: {row.label: score_text(row.scores[metric]) for row in own} | _chances(own, metric)
                for label, own in rows.items()
            }
            parts.append(_matrix(runs, cells, "space"))
    return parts


def _chances(rows: Sequence[AlignmentRow], metric: str) -> dict[str, str]:
    """Chance, null range and n of a run, where its scores have them: lowest to highest."""
    scores = [row.scores[metric] for row in rows]
    chances = [score.chance for score in scores if score.chance is not None]
    lows = [score.null_low for score in scores if score.null_low is not None]
    highs = [score.null_high for score in scores if score.null_high is not None]
    groups = dict.fromkeys(f"{score.n:,}" for score in scores if score.n)
    facts = {"chance": _between(min(chances), max(chances)) if chances else ""}
    facts["95 % of unrelated features"] = _between(min(lows), max(highs)) if lows and highs else ""
    facts["test groups"] = ", ".join(groups)
    return {name: value for name, value in facts.items() if value}


def _score_row(label: str, score: "Row") -> tuple[str, ...]:
    chance = f"{score.chance:.3f}" if score.chance is not None else "–"
    null = "–"
    if score.null_low is not None and score.null_high is not None:
        null = _between(score.null_low, score.null_high)
    interval = interval_text(score).removeprefix("range ") or "–"
    size = f"{score.n:,}" if score.n else "–"
    note = "; ".join(filter(None, (mixture_text(score), score.note)))
    return shorten(label, _LONGEST), f"{number(score):.3f}", interval, chance, null, size, note


def _verdicts(runs: Sequence[RunResults]) -> list[str]:
    table = contrast_table(runs)
    if not table:
        return []
    parts = ["## Verdicts, test split", markdown.paragraph(_JUDGED)]
    for metric in dict.fromkeys(row.metric for row in table):
        rows = [row for row in table if row.metric == metric]
        parts.append(f"### {_title(metric)}")
        if len(runs) == 1:
            interval = "range over seeds" if runs[0].seeds else "95 % interval"
            columns = ("contrast", "verdict", "difference", interval, "p, Holm", "note")
            cells = [(row.contrast, row.verdict, row.difference, row.interval, row.p, row.note) for row in rows]
            parts.append(markdown.table(columns, cells))
        else:
            by_run = {run.label: {row.contrast: row.text() for row in rows if row.run == run.label} for run in runs}
            parts.append(_matrix(runs, by_run, "contrast"))
    return parts


def _retrieval(runs: Sequence[RunResults]) -> list[str]:
    table = retrieval_table(runs)
    if not table:
        return []
    if len(runs) == 1:
        metrics = (*RECALLS, "median_rank")
        scores = {(row.label, row.stage, row.metric): row.score for row in table}
        lines = dict.fromkeys((row.label, row.stage) for row in table)
        columns = ("query → answer", *(metric.replace("_", " ") for metric in metrics), "chance of R@10")
        rows = [
            (
                shorten(f"{label}, {stage}", _LONGEST),
                *(_recall(scores.get((label, stage, metric))) for metric in metrics),
                _chance(scores.get((label, stage, "R@10"))),
            )
            for label, stage in lines
        ]
        return ["## Retrieval, test split", markdown.table(columns, rows)]
    cells: dict[str, dict[str, str]] = {run.label: {} for run in runs}
    for row in table:
        name = row.metric.replace("_", " ")
        cells[row.run][f"{row.label}, {row.stage}, {name}"] = f"{_recall(row.score)}; chance {_chance(row.score)}"
    return ["## Retrieval, test split", _matrix(runs, cells, "query → answer")]


def _recall(score: "Row | None") -> str:
    if score is None:
        return "–"
    if score.metric == "median_rank":
        return f"{number(score):.1f} {interval_text(score, '.1f')}".strip()
    return score_text(score)


def _chance(score: "Row | None") -> str:
    if score is None or score.chance is None:
        return "–"
    return f"{score.chance:.1f}" if score.metric == "median_rank" else f"{score.chance:.3f}"


def _clean(run: RunResults, runs: Sequence[RunResults]) -> list[str]:
    """The test split beside its clean part, where groups leak."""
    rows = clean_table(run)
    if not rows:
        return []
    whose = f" of {markdown.text(shorten(run.label, _LONGEST))}" if len(runs) > 1 else ""
    cells = [
        (shorten(f"{row.label}, {metric_name(row.metric)}", _LONGEST), score_text(row.test), score_text(row.clean))
        for row in rows
    ]
    return [f"## The test split{whose} beside its clean part", markdown.table(("score", *sizes(run)), cells)]


def _figures(figures: Sequence[tuple[str, str, str]]) -> list[str]:
    parts = ["## Figures"] if figures else []
    for title, caption, path in figures:
        parts += [f"### {markdown.text(title)}", markdown.picture(title, path), markdown.paragraph(caption)]
    return parts


def _settings(run: RunResults) -> dict[str, str]:
    config, settings, split = run.config, run.settings, run.config.get("split", {})
    facts = {"data set": str(config.get("dataset", ""))}
    for name, array in {**config["sides"], "reference": run.reference}.items():
        facts[f"side {name}" if array is not run.reference else "reference"] = _array(array)
    counts = split.get("n", {})
    facts |= {f"{name} groups": f"{count:,}" for name, count in counts.items()}
    facts["split"] = str(split.get("rule", ""))
    facts["left out as leaks"] = ", ".join(f"{count:,} {name}" for name, count in split.get("left_out", {}).items())
    facts["adapter"] = adapter_name(run)
    epochs = [one.selected_epoch for one in run.each if one.selected_epoch is not None]
    facts["epoch kept"] = "" if run.solved else ", ".join(map(str, epochs))
    solutions = (solution_text(one.config.get("chosen", {})) for one in run.each if run.solved)
    facts["chosen on validation"] = "; ".join(dict.fromkeys(solutions))
    for name, value in settings.items():
        if name not in ("adapter", "seed"):
            facts[name.replace("_", " ")] = _value(value)
    facts["seeds" if run.seeds else "seed"] = ", ".join(str(one.settings.get("seed")) for one in run.each)
    return {name: value for name, value in facts.items() if value}


def _array(array: "Mapping[str, str] | None") -> str:
    if array is None:
        return "none"
    return f"{array['encoder']}/{array['layer']} of {array['view']}, digest {array['digest']}, root {array['root']}"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _provenance(run: RunResults) -> dict[str, str]:
    def each(read: Callable[[RunResults], object]) -> str:
        return ", ".join(dict.fromkeys(str(value) for one in run.each if (value := read(one)) not in (None, "")))

    facts = {
        "run folder": each(lambda one: one.path.name),
        "configuration": each(lambda one: one.config.get("config_hash")),
        "overlay of splits and labels": each(lambda one: one.config.get("overlay")),
        "commit": each(lambda one: one.config.get("commit")),
        "started": each(lambda one: one.config.get("started")),
        "seconds": each(lambda one: one.config.get("seconds")),
        "threads": each(lambda one: one.config.get("threads")),
    }
    facts |= {f"{name} groups": str(value) for name, value in run.config.get("split", {}).get("hashes", {}).items()}
    facts |= {f"version of {name}": str(version) for name, version in run.config.get("versions", {}).items() if version}
    return {name: value for name, value in facts.items() if value}


def _reproduction(runs: Sequence[RunResults]) -> list[str]:
    """The commands that train the runs once more, and what those commands cannot say."""
    every = [one for run in runs for one in run.each]
    parts = [
        "## How to reproduce",
        markdown.paragraph(
            "From a cache that holds the arrays named above by their digests (featcache extract makes them, featcache "
            "pull fetches them):"
        ),
        markdown.code([training_command(run) for run in every], "bash"),
    ]
    controls = {run.label: run.config["control"] for run in every if run.config.get("control")}
    if controls:
        hashes = ", ".join(dict.fromkeys(str(value)[:16] for value in controls.values()))
        parts.append(
            markdown.paragraph(f"{CONTROL} stands for the folder of the control run, of configuration {hashes}.")
        )
    for run in every:
        rest = without_option(run)
        if rest:
            listed = ", ".join(f"{name} = {_value(value)}" for name, value in rest.items())
            parts.append(markdown.paragraph(f"{run.path.name}: an experiment's file has set {listed}; no option does."))
    return parts


def _compared(comparison: "Comparison") -> list[str]:
    return [
        f"## {markdown.text(comparison_question(comparison))}",
        markdown.paragraph(comparison_answer(comparison)),
        markdown.table(("metric", *CONTRAST_COLUMNS), comparison_lines(comparison, "test")),
    ]


def _title(metric: str) -> str:
    title = metric_title(metric)
    return markdown.text(title[:1].upper() + title[1:])


def _interval(run: RunResults) -> str:
    return "95 % interval, or range over seeds" if run.seeds else "95 % interval"


def _between(low: float, high: float) -> str:
    ends = dict.fromkeys(f"{value:.3f}".replace("-", "−") for value in (low, high))
    return " to ".join(ends)
