"""The test split beside its clean part, as a table of the page."""

from featcache.report.figures.figure import escape
from featcache.report.leaks import clean_table, metric_name, sizes
from featcache.report.runs import RunResults
from featcache.report.seeds import score_text


def clean_html(run: RunResults, heading: str) -> str:
    """Scores on the test split beside those on its clean part, or ""."""
    rows = clean_table(run)
    if not rows:
        return ""
    title = "The test split beside its clean part" + (f": {heading}" if heading else "")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("score", *sizes(run)))
    lines = "".join(
        f'<tr><th scope="row">{escape(f"{row.label}, {metric_name(row.metric)}")}</th>'
        f"<td>{escape(score_text(row.test))}</td><td>{escape(score_text(row.clean))}</td></tr>"
        for row in rows
    )
    return (
        f"<h3>{escape(title)}</h3>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )
