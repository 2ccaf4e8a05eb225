"""The generated tables of docs/metrics.md (METRICS) and docs/runs.md (columns); run this module to write them anew."""

import inspect
import math
from pathlib import Path

from featcache.metrics import METRICS
from featcache.metrics.measure.row import ContrastRow, Row, columns_page
from featcache.metrics.table import Metric

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RUNS = DOCS / "metrics.md", DOCS / "runs.md"


def table() -> str:
    """One line a metric."""
    lines = [
        "| name | what | best | range | x with x | x, y = y, x | unchanged by | options | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(metric) for metric in METRICS.values())])


def page() -> str:
    """docs/metrics.md as it stands, with the table of today."""
    return _replaced(PAGE.read_text(encoding="utf-8"), "table", table())


def runs_page() -> str:
    """docs/runs.md as it stands, with the columns of today."""
    text = _replaced(RUNS.read_text(encoding="utf-8"), "rows", columns_page(Row))
    return _replaced(text, "contrasts", columns_page(ContrastRow))


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
    PAGE.write_text(page(), encoding="utf-8")
    RUNS.write_text(runs_page(), encoding="utf-8")
