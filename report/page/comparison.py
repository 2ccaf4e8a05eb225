"""Run A against run B as a section of the page: the question, its answer, and every paired difference."""

from typing import TYPE_CHECKING

from featcache.report.figures.figure import escape
from featcache.report.names import shorten
from featcache.report.runs import metric_title
from featcache.report.tables import signed

if TYPE_CHECKING:
    from featcache.metrics.measure.row import ContrastRow
    from featcache.studies.adapters.comparison import Comparison

_ANSWERS = {"above": "Yes", "below": "No: B is closer"}
_LONGEST = 60
CONTRAST_COLUMNS = ("A − B", "A", "B", "difference", "95 % interval, unadjusted", "verdict", "p, Holm")
_READING = (
    "Both runs embed the same test groups, and the scores are differenced on the same random halves of them. Verdicts "
    "are corrected (Holm) within each metric, for retrieval over its directions; the 95 % intervals are not. They are "
    "about new samples and these two trained adapters, not about other seeds of the same recipes."
)


def comparison_question(comparison: "Comparison") -> str:
    """The question that the comparison answers, with the names of both runs."""
    a, b, reference = (shorten(name, _LONGEST) for name in (comparison.a, comparison.b, comparison.reference))
    return f"Is A ({a}) closer to {reference} than B ({b})?"


def comparison_answer(comparison: "Comparison") -> str:
    """The answer: the verdict on the joint spaces by the first metric, then by the others."""
    from featcache.metrics.measure.row import verdict_text

    joint = [row for row in _of(comparison, "test") if row.whole == "A joint"]
    if not joint:
        return "The joint spaces of both could not be compared."
    first, *others = joint
    scores = {row.space: row.value for row in comparison.rows if (row.metric, row.split) == (first.metric, "test")}
    told = ", ".join(
        f"the joint space of {name} scores {value:.3f}"
        for name in "AB"
        if (value := scores.get(f"{name} joint")) is not None
    )
    answer = (
        f"{_ANSWERS.get(first.verdict, 'Cannot tell')}, by {metric_title(first.metric)}: {told}; A − B: "
        f"{verdict_text(first)}, on {comparison.groups:,} test groups."
    )
    return " ".join([answer, *(f"By {metric_title(row.metric)}: {verdict_text(row)}." for row in others)])


def comparison_html(comparison: "Comparison", picture: str = "") -> str:
    """The section: question, answer, figure, and the table of every paired difference.

    Args:
        comparison: From `featcache.studies.adapters.comparison.compare_runs`.
        picture: HTML of its figure, set below the answer.
    """
    notes = "".join(f"<li>{escape(note[0].upper() + note[1:])}.</li>" for note in comparison.notes)
    splits = dict.fromkeys(row.split for row in comparison.contrasts)
    parts = [
        f'<section aria-labelledby="a-b">\n<h2 id="a-b">{escape(comparison_question(comparison))}</h2>',
        f'<p class="lead">{escape(comparison_answer(comparison))}</p>',
        f'<ul class="caveats">{notes}</ul>' if notes else "",
        picture,
        f'<p class="note">{escape(_READING)}</p>',
        *(_table(comparison, split) for split in splits),
        "</section>",
    ]
    return "\n".join(filter(None, parts))


def _of(comparison: "Comparison", split: str) -> "list[ContrastRow]":
    return [row for row in comparison.contrasts if row.split == split]


def comparison_lines(comparison: "Comparison", split: str) -> list[tuple[str, ...]]:
    """The cells of CONTRAST_COLUMNS of every contrast on a split, each behind its metric."""
    scores = _scores(comparison, split)
    return [(metric_title(row.metric), *_texts(row, scores)) for row in _of(comparison, split)]


def _scores(comparison: "Comparison", split: str) -> "dict[tuple[str, str, str], float | None]":
    return {(row.space, row.metric, row.direction): row.value for row in comparison.rows if row.split == split}


def _table(comparison: "Comparison", split: str) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in CONTRAST_COLUMNS)
    rows, lines = _of(comparison, split), list[str]()
    scores = _scores(comparison, split)
    for metric in dict.fromkeys(row.metric for row in rows):
        title = escape(metric_title(metric))
        lines.append(f'<tr class="group"><th colspan="{len(CONTRAST_COLUMNS)}">{title}</th></tr>')
        lines += [_line(row, scores) for row in rows if row.metric == metric]
    return (
        f'<div class="scroll"><table class="verdicts"><caption>{escape(split[0].upper() + split[1:])} split</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _line(row: "ContrastRow", scores: "dict[tuple[str, str, str], float | None]") -> str:
    name, *texts = _texts(row, scores)
    note = f"<small>{escape(row.note)}</small>" if row.note else ""
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'<tr><th scope="row">{escape(name)}{note}</th>{cells}</tr>'


def _texts(row: "ContrastRow", scores: "dict[tuple[str, str, str], float | None]") -> tuple[str, ...]:
    from featcache.metrics.measure.row import p_text

    name = row.contrast.rpartition(": ")[0]
    direction = name if "→" in name else ""
    both = [scores.get((space, row.metric, direction)) for space in (row.whole, row.parts)]
    name = name.replace("→", " → ")
    interval = "–"
    if row.ci_low is not None and row.ci_high is not None:
        interval = f"[{signed(row.ci_low)}, {signed(row.ci_high)}]"
    return (
        name,
        *("–" if value is None else f"{value:.3f}" for value in both),
        "–" if row.value is None else signed(row.value),
        interval,
        row.verdict,
        p_text(row.p_holm) or "–",
    )
