"""The MultiBench table on the terminal: correlations with intervals and verdicts, beside the published ones."""

from typing import TYPE_CHECKING, Any

from featcache.data.multibench import PUBLISHED
from featcache.report.names import decimals, finite, span
from featcache.report.terminal.console import console
from featcache.report.terminal.fitted import print_fitted_table, print_parts, print_path

if TYPE_CHECKING:
    from featcache.studies.emergence.multibench.table import MultiBenchTables

METRIC = "cka_clipped"  # that the lines show, as published
_MODELS = ("modality", "models", "best by validation", "its test", "worst test", "best test")
_CELLS = ("varied", "against", "Spearman", "published", "verdict", "Pearson", "within")


def show_multibench(tables: "MultiBenchTables") -> None:
    """Shows a data set's models by modality, and the table of correlations.

    Args:
        tables: From `featcache.studies.emergence.multibench.table`.
    """
    name = str(tables.models["dataset"][0])
    title = f"{PUBLISHED[name].title}: {tables.models['performance'][0]} of {len(tables.models)} models".split(" ")
    print_fitted_table(_MODELS, _modalities(tables), title=title)
    console().print()
    cells = tables.correlations.filter(metric=METRIC)
    rows = [
        _line(cell, other)
        for cell, other in zip(
            cells.filter(method="spearman").to_dicts(), cells.filter(method="pearson").to_dicts(), strict=True
        )
    ]
    title = "Alignment of varied models with the best of the other modality (clipped unbiased CKA) and test performance"
    print_fitted_table(_CELLS, rows, title=title.split(" "))
    for note in sorted({*cells["note"]} - {""}):
        print_parts(f"{note}.".split(" "))
    words = (
        "Intervals: 95 %, over depths as if these were independent. Verdicts: Spearman, Holm over the cells. Within: "
        "Spearman within depths, over seeds alone, which no drift with depth can make."
    )
    print_parts(words.split(" "))
    print_path("Tables, also by mutual kNN:", str(tables.folder))


def _modalities(tables: "MultiBenchTables") -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for (modality,), part in tables.models.group_by("modality", maintain_order=True):
        best = part.sort("valid_performance", descending=True, maintain_order=True).row(0, named=True)
        tests = sorted(part["test_performance"].to_list())
        scores = (_number(score) for score in (best["test_performance"], tests[0], tests[-1]))
        rows.append((modality, len(part), f"depth {best['depth']}, seed {best['seed']}", *scores))
    return rows


def _line(spearman: dict[str, Any], pearson: dict[str, Any]) -> tuple[Any, ...]:
    interval = span(finite(spearman["low"]), finite(spearman["high"]))
    return (
        spearman["varied"], spearman["fixed"], f"{_number(spearman['value'])} {interval}".strip(),
        _number(spearman["published"]), spearman["verdict"], _number(pearson["value"]), _number(spearman["within"]),
    )  # fmt: skip


def _number(value: Any) -> str:
    known = finite(value)
    return "–" if known is None else decimals(known)
