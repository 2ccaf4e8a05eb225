"""The study of encoders trained together on the terminal: how many effects there are, then a line for each use."""

from typing import TYPE_CHECKING, Any

from featcache.report.names import decimals, span
from featcache.report.terminal.console import console, count
from featcache.report.terminal.fitted import print_fitted_table, print_parts, print_path

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.emergence.together.training import TogetherTables

USES = {
    "joint": "both, joint task",
    "alone": "modality alone",
    "few": "few labels",
    "transfer": "train on one, use on the other",
    "transfer_mapped": "the same by a linear map",
}
_COLUMNS = ("use", "U", "φ", "λ", "aligned", "λ = 0", "effect")


def show_together(tables: "TogetherTables") -> None:
    """Prints what lambda helps and harms, and where the tables are.

    Args:
        tables: From `featcache.studies.emergence.together.training.run_together`.
    """
    effects = tables.effects
    print_parts(together_answer(effects).split(" "))
    console().print()
    rows = [_line(row) for row in _largest(effects)]
    title = (
        "For each use, where training with contrast gains most and loses most of exact accuracy against λ = 0; "
        "aligned: all features, or all but private ones"
    )
    print_fitted_table(_COLUMNS, rows, title=title.split(" "))
    print_path("Tables:", str(tables.folder))


def together_answer(effects: "pl.DataFrame") -> str:
    """How many of the effects help and harm: by their intervals, or with too few seeds by their size alone."""
    import polars as pl

    total, seeds = len(effects), int(str(effects["seeds"].max()))
    of = f"{count(total, 'difference')} of exact accuracy (use, U, map, λ; {count(seeds, 'seed')})"
    if effects["low"].is_null().all():
        up, down = (int((side > 0.02).sum()) for side in (effects["effect"], -effects["effect"]))
        return f"Of {of}, {up} are above .02 and {down} below −.02; one seed tells nothing of others: no intervals."
    up, down = effects.filter(pl.col("low") > 0), effects.filter(pl.col("high") < 0)
    return f"Of {of}, {len(up)} have an interval above 0 and {len(down)} one below; each at 95 %, not corrected."


def _largest(effects: "pl.DataFrame") -> list[dict[str, Any]]:
    """The largest and the smallest effect of each use, all features aligned and with private ones."""
    rows: list[dict[str, Any]] = []
    for use in (name for name in USES if name in effects["use"].to_list()):
        own = effects.filter(use=use).sort("effect")
        rows += [own.row(-1, named=True), own.row(0, named=True)] if len(own) > 1 else [own.row(0, named=True)]
    return rows


def _line(row: dict[str, Any]) -> list[str]:
    side = {"both": "", "0": " 0", "1": " 1"}.get(row["side"], f" {row['side']}")
    labels = f", {row['labels']} a class" if row["labels"] else ""
    effect = f"{row['effect']:+.3f}".replace("-", "−").replace("0.", ".")
    return [
        f"{USES[row['use']]}{side}{labels}", str(row["uniqueness"]), str(row["phi_depth"]), f"{row['lambda']:g}",
        f"all but {row['private']}" if row["private"] else "all", decimals(row["baseline"]),
        f"{effect} {span(row['low'], row['high'])}".strip(),
    ]  # fmt: skip
