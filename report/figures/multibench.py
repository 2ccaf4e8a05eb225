"""Forest plots of the MultiBench table: each pair of modalities in both directions, with the published coefficient."""

from typing import TYPE_CHECKING, Any

from featcache.data.multibench import PUBLISHED
from featcache.report.figures import point_charts, theme
from featcache.report.figures.figure import Figure
from featcache.report.names import finite

if TYPE_CHECKING:
    import polars as pl

Rows = list[dict[str, Any]]
_COEFFICIENTS = {"spearman": "Spearman", "pearson": "Pearson"}
_METRICS = {"cka_clipped": "unbiased CKA, clipped at 0", "cka_debiased": "unbiased CKA", "mutual_knn": "mutual kNN"}
# verdict -> colour and shape: either tells them apart
_VERDICTS = {"above": ("#009E73", "triangle-up"), "below": ("#D55E00", "square")}
_UNKNOWN = (theme.INK, "circle")
_PUBLISHED, _WITHIN = ("#8A5A83", "diamond"), (theme.MUTED, "cross")


def multibench_figures(correlations: "pl.DataFrame", *, metric: str = "cka_clipped") -> list[Figure]:
    """A forest plot a data set; one of which no cell has a coefficient is left out.

    Args:
        correlations: As `run_multibench` writes it, of one data set or several.
        metric: Of alignment.
    """
    figures: list[Figure] = []
    for dataset in dict.fromkeys(correlations["dataset"]):
        rows = _lines(correlations.filter(dataset=dataset, metric=metric))
        if rows:
            figures.append(_figure(dataset, metric, rows))
    return figures


def _lines(cells: "pl.DataFrame") -> Rows:
    """The lines of a data set: of each cell ours by either coefficient, and the published one."""
    rows: Rows = []
    for (fixed, varied), part in cells.group_by("fixed", "varied", maintain_order=True):
        lines = [line for name in _COEFFICIENTS for cell in part.filter(method=name).to_dicts()
                 for line in _of_cell(cell, name)]  # fmt: skip
        for place, line in enumerate(lines):
            head = "" if place else f"{varied}, against the best of {fixed}"
            rows.append({"fixed": fixed, "varied": varied, **line, "_head": head})
    return rows


def _of_cell(cell: dict[str, Any], method: str) -> Rows:
    """The line of one coefficient; of Spearman's also the published one, and ours within depths."""
    name, value, of = _COEFFICIENTS[method], finite(cell["value"]), f"{cell['varied']} against {cell['fixed']}"
    if value is None:
        return []
    ends = (value, finite(cell["low"]), finite(cell["high"]))
    style = _VERDICTS.get(cell["verdict"], _UNKNOWN)
    lines = [_line(f"{name}, {cell['n']} models", ends, cell["verdict"], style, of) | {"p_holm": cell["p_holm"]}]
    published, within = finite(cell["published"]), finite(cell["within"])
    if method == "spearman" and published is not None:
        lines.append(_line(f"{name}, published", (published, None, None), "", _PUBLISHED, of))
    if method == "spearman" and within is not None:
        ends = (within, finite(cell["within_low"]), finite(cell["within_high"]))
        lines.append(_line(f"{name}, within depths", ends, "", _WITHIN, of))
    return lines


def _line(
    label: str, ends: tuple[float, float | None, float | None], verdict: str, style: tuple[str, str], of: str
) -> dict[str, Any]:
    value, low, high = ends
    styled = {"_colour": style[0], "_shape": style[1], "_tip": f"{of}, {label}: {value:+.3f}"}
    numbers = {"value": value, "ci_low": low, "ci_high": high, "p_holm": None}
    return {"label": label, **numbers, "verdict": verdict, **styled}


def _figure(dataset: str, metric: str, rows: Rows) -> Figure:
    ours = [row for row in rows if row["verdict"]]
    apart = sum(row["verdict"] in _VERDICTS for row in ours)
    title = PUBLISHED[dataset].title if dataset in PUBLISHED else dataset
    published = any(row["label"].endswith("published") for row in rows)
    words = " ◆: the published Spearman coefficient, which has no interval." if published else ""
    takeaway = f"{apart} of {len(ours)} coefficients differ from 0 after Holm's correction."
    return Figure(
        f"multibench-{dataset}",
        f"{title}: correlation of alignment and performance",
        f"{takeaway} Correlation of a model's alignment with the best model of the other modality "
        f"({_METRICS.get(metric, metric)}, maximum over pairs of layers) and its test performance, over depths and "
        "seeds; 95 % interval over depths, not adjusted; ▲ above and ■ below 0, ● cannot tell. ✚: within depths, over "
        f"seeds alone, which no drift with depth can make.{words}",
        f"Forest plot of {len(ours)} correlations around zero for {title}: {takeaway}",
        rows,
        point_charts.forest(rows, title="correlation of alignment and performance", ends=(-1.0, 1.0)),
    )
