"""The tables of pages that the code knows better: of metrics, columns and limits; run it to write them anew."""

import inspect
import math
from pathlib import Path

from featcache.data.limits import DATA_LIMITS
from featcache.extraction.cost import EncoderCost
from featcache.limits import LIMITS
from featcache.metrics import METRICS
from featcache.metrics.measure.row import ContrastRow, Row, columns_page
from featcache.metrics.table import Metric

DOCS = Path(__file__).parents[1] / "docs"


def table() -> str:
    """One line a metric."""
    lines = [
        "| name | what | best | range | x with x | x, y = y, x | unchanged by | options | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(metric) for metric in METRICS.values())])


def limits() -> str:
    """One line a limit of what is believed."""
    lines = [
        f"| {each.what} | {each.most:,} | `{each.variable}` |" for each in (*LIMITS.values(), *DATA_LIMITS.values())
    ]
    return "\n".join(["| limit | default | variable |", "|---|---|---|", *lines])


def pages() -> dict[Path, str]:
    """Each page with generated tables -> its text as it stands, with the tables of today."""
    tables = {
        "metrics.md": {"table": table()},
        "experiments.md": {"costs": columns_page(EncoderCost)},
        "runs.md": {"rows": columns_page(Row), "contrasts": columns_page(ContrastRow)},
        "security.md": {"limits": limits()},
    }
    return {DOCS / page: _with_tables(DOCS / page, contents) for page, contents in tables.items()}


def _with_tables(page: Path, contents: dict[str, str]) -> str:
    text = page.read_text(encoding="utf-8")
    for name, content in contents.items():
        text = _replaced(text, name, content)
    return text


def _replaced(text: str, name: str, content: str) -> str:
    start, end = f"<!-- {name}: written by make docs -->", f"<!-- end of {name} -->"
    head, _, rest = text.partition(start)
    return f"{head}{start}\n{content}\n{end}{rest.partition(end)[2]}"


def _line(metric: Metric) -> str:
    summary = (inspect.getdoc(inspect.unwrap(getattr(metric.function, "func", metric.function))) or "").split("\n")[0]
    cells = [
        f"`{metric.name}`",
        summary.rstrip("."),
        "high" if metric.higher_is_better else "low",
        " to ".join(_number(bound) for bound in metric.range),
        "–" if metric.self_score is None else _number(metric.self_score),
        "yes" if metric.symmetric else "no",
        ", ".join(sorted(metric.invariances)).replace("row_scale", "scale of each row") or "–",
        ", ".join(sorted(metric.options())) or "–",
        metric.source,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.4g}".replace("-", "−")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
