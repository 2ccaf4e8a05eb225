"""Tables of the page: verdicts, alignment of every space, and retrieval."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.report.caveats import OLD_FORMAT
from featcache.report.figures.figure import escape
from featcache.report.page.html import NONE
from featcache.report.runs import RECALLS, RunResults, metric_title, metrics_of, mixture_text, number
from featcache.report.seeds import headline_run, interval_text
from featcache.report.tables import (
    AlignmentRow,
    RetrievalRow,
    VerdictRow,
    contrast_table,
    retrieval_table,
    summary_table,
)

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row

_GROUPS = {
    "raw": "Raw features",
    "adapted": "Adapted features",
    "joint": "Joint space",
    "untrained": "Untrained adapters",
    "mixed": "No training",
    "between": "The sides against each other",
}
_CONTRASTS = (
    "A contrast is the difference of two spaces' scores against the reference on the same groups; above 0 the first is "
    "closer. The verdict follows p, corrected (Holm) for all contrasts of one run and metric; the 95 % intervals are "
    'not adjusted, so one that leaves 0 out may still read "cannot tell after correction". They are about new samples '
    "and these trained adapters, not about other seeds."
)


def verdicts_html(runs: Sequence[RunResults]) -> str:
    """Contrasts: a table for each run, the headline run's first."""
    blocks = [f'<p class="note">{escape(_CONTRASTS)}</p>'] if contrast_table(runs) else []
    for run in headline_first(runs):
        rows = contrast_table([run])
        blocks.append(f"<h3>{escape(run_heading(run, runs))}</h3>" if len(runs) > 1 else "")
        if rows:
            columns = ("contrast", "verdict", "difference", "95 % interval, unadjusted", "p, Holm")
            if run.seeds:
                columns = ("contrast", "verdict of each seed", "difference", "range over seeds")
            head = "".join(f'<th scope="col">{name}</th>' for name in columns)
            lines = [f"<thead><tr>{head}</tr></thead><tbody>"]
            for metric in dict.fromkeys(row.metric for row in rows):
                title = escape(metric_title(metric))
                lines.append(f'<tr class="group"><th colspan="{len(columns)}">{title}</th></tr>')
                lines += [_verdict_line(row, run) for row in rows if row.metric == metric]
            table = f'<table class="verdicts">{"".join(lines)}</tbody></table>'
            blocks.append(f'<div class="scroll" tabindex="0">{table}</div>')
        else:
            why = f"{OLD_FORMAT[0].upper()}{OLD_FORMAT[1:]}." if run.format == 1 else "No reference, no contrasts."
            blocks.append(f'<p class="note">{why}</p>')
    return "\n".join(blocks)


def _verdict_line(row: VerdictRow, run: RunResults) -> str:
    note = f"<small>{escape(row.note)}</small>" if row.note else ""
    texts = [row.verdict, row.difference, row.interval, *([] if run.seeds else [row.p])]
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'<tr><th scope="row">{escape(row.contrast)}{note}</th>{cells}</tr>'


def alignment_html(runs: Sequence[RunResults]) -> str:
    """Alignment of every space on the test split, with interval, chance and null; a column a run and metric."""
    table, metrics = summary_table(runs), metrics_of(runs)
    cells = {(row.run, row.group, row.space): row for row in table}
    keys = [key for key in dict.fromkeys((row.group, row.space) for row in table)]
    keys.sort(key=lambda key: list(_GROUPS).index(key[0]))
    lines = [_head(runs, [metric_title(metric) for metric in metrics])]
    group = ""
    for key in keys:
        if key[0] != group:
            group = key[0]
            span = 1 + len(metrics) * len(runs)
            lines.append(f'<tr class="group"><th colspan="{span}">{_GROUPS[group]}</th></tr>')
        lines.append(_alignment_line([cells.get((run.label, *key)) for run in runs], metrics))
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</tbody></table></div>'


def _alignment_line(row_by_run: Sequence[AlignmentRow | None], metrics: Sequence[str]) -> str:
    first = next(row for row in row_by_run if row is not None)
    css = "joint" if first.group == "joint" else "derived" if first.derived else ""
    labels = {row.label for row in row_by_run if row is not None}
    label = first.label if len(labels) == 1 else first.space
    tds = [
        _cell(row.scores.get(metric) if row else None, first=metric == metrics[0])
        for row in row_by_run
        for metric in metrics
    ]
    return f'<tr class="{css}"><th scope="row">{escape(label)}</th>{"".join(tds)}</tr>'


def _cell(score: "Row | None", *, first: bool = False) -> str:
    opening = '<td class="first">' if first else "<td>"
    if score is None:
        return f"{opening}{NONE}</td>"
    against = [interval_text(score), mixture_text(score), *score.note.split(", ")]
    if score.chance is not None:
        against.append(f"chance {score.chance:.3f}")
    if score.null_low is not None and score.null_high is not None:
        against.append(f"null {score.null_low:.3f}–{score.null_high:.3f}".replace("-", "−"))
    small = "".join(f"<small>{escape(line)}</small>" for line in against if line)
    return f"{opening}{number(score):.3f}{small}</td>"


def _head(runs: Sequence[RunResults], metrics: Sequence[str]) -> str:
    labels = "".join(
        f'<th scope="colgroup" class="first" colspan="{len(metrics)}">{escape(run.label)}</th>' for run in runs
    )
    top = f"<tr><th></th>{labels}</tr>" if len(runs) > 1 else ""
    first, *others = map(escape, metrics)
    names = f'<th scope="col" class="first">{first}</th>' + "".join(f'<th scope="col">{name}</th>' for name in others)
    names *= len(runs)
    return f'<thead>{top}<tr><th scope="col">space</th>{names}</tr></thead><tbody>'


def retrieval_html(runs: Sequence[RunResults]) -> str:
    """Recall and median rank on the test split, a row a direction and stage."""
    table = retrieval_table(runs)
    if not table:
        return '<p class="note">The runs measured no retrieval.</p>'
    metrics = (*RECALLS, "median_rank")
    cells = {(row.run, row.stage, row.direction, row.metric): row for row in table}
    keys = dict.fromkeys((row.run, row.stage, row.direction) for row in table)
    lines = []
    for run, stage, direction in keys:
        readings = [cells.get((run, stage, direction, metric)) for metric in metrics]
        label = next(row.label for row in readings if row is not None)
        name = f"{run}: {label}, {stage}" if len(runs) > 1 else f"{label}, {stage}"
        tds = "".join(_retrieval_cell(row) for row in readings)
        lines.append(
            f'<tr class="{"joint" if stage == "trained" else ""}"><th scope="row">{escape(name)}</th>{tds}</tr>'
        )
    heads = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in metrics)
    head = f'<thead><tr><th scope="col">query → answer</th>{heads}</tr></thead>'
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _retrieval_cell(row: RetrievalRow | None) -> str:
    if row is None:
        return f"<td>{NONE}</td>"
    form = ".1f" if row.metric == "median_rank" else ".3f"
    against = [interval_text(row.score, form)]
    if row.score.chance is not None:
        against.append(f"chance {row.score.chance:{form}}")
    small = "".join(f"<small>{line}</small>" for line in against if line)
    return f"<td>{number(row.score):{form}}{small}</td>"


def headline_first(runs: Sequence[RunResults]) -> list[RunResults]:
    """The runs, the headline run first."""
    first, _ = headline_run(runs)
    return [first, *(run for run in runs if run is not first)]


def run_heading(run: RunResults, runs: Sequence[RunResults]) -> str:
    """A run's label, and whether it is the headline run, a control or exploratory."""
    first, _ = headline_run(runs)
    return f"{run.label}: {'the headline run' if run is first else 'a control' if run.is_control else 'exploratory'}"
