"""The table of docs/metrics.md, from METRICS; run this module to write it anew."""

import inspect
import math
from pathlib import Path

from featcache.metrics import METRICS
from featcache.metrics.table import Metric

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
START, END = "<!-- table: written by make docs -->", "<!-- end of table -->"


def table() -> str:
    """One line a metric."""
    lines = [
        "| name | what | best | range | x with x | x, y = y, x | unchanged by | options | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(metric) for metric in METRICS.values())])


def page() -> str:
    """The page as it stands, with the table of today."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    return head + START + "\n" + table() + "\n" + END + rest.partition(END)[2]


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
