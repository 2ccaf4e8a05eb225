"""The study of digit images and spoken digits on the terminal: the answer, then a line for each label."""

from typing import TYPE_CHECKING, Any

from featcache.report.names import decimals, span
from featcache.report.terminal.console import console
from featcache.report.terminal.fitted import print_fitted_table, print_parts, print_path

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.emergence.digits.encoders import SpokenDigitsTables

METRIC = "cka_debiased"  # that the lines show
_COLUMNS = ("label", "R", "U speech", "CKA", "exact", "kNN", "images", "speech", "ρ align, acc")


def show_spoken_digits(tables: "SpokenDigitsTables") -> None:
    """Prints what the study found and where its tables are.

    Args:
        tables: From `featcache.studies.emergence.digits.encoders.run_spoken_digits`.
    """
    for sentence in spoken_digits_answer(tables):
        print_parts(sentence.split(" "))
    console().print()
    dial = tables.dial.sort("share")
    rows = [_line(position, tables.correlations) for position in dial.iter_rows(named=True)]
    first = dial.row(0, named=True)
    title = (
        f"R, U: redundant, and unique to speech, nats, exact; CKA, kNN (k = {first['k']}): mean over "
        f"{first['models']} speech encoders; exact: CKA of exact posteriors; images, speech: accuracy"
    )
    print_fitted_table(_COLUMNS, rows, title=title.split(" "))
    print_path("Tables:", str(tables.folder))


def spoken_digits_answer(tables: "SpokenDigitsTables") -> list[str]:
    """What the study found, in sentences."""
    dial, relations = tables.dial.sort("share"), tables.correlations.filter(metric=METRIC)
    first, last = dial.row(0, named=True), dial.row(-1, named=True)
    over = [_coefficient(row) for row in relations.filter(label="").sort("method").iter_rows(named=True)]
    within = relations.filter((relations["label"] != "") & (relations["x"] == "alignment"))
    within = within.filter(within["value"].is_not_null())
    apart = within.filter(within["low"].is_not_null() & ((within["low"] > 0) | (within["high"] < 0)))
    sentences = [
        f"Debiased CKA of the most aligned layers is {decimals(first[METRIC])} where the label is the digit, which "
        f"both tell, {decimals(last[METRIC])} where it is the speaker, which speech alone tells, and "
        f"{decimals(first[f'{METRIC}_initial'])} before training.",
        f"Correlation of alignment and redundancy over encoders and labels: {', '.join(over)}.",
    ]
    if len(within):
        sentences.append(
            f"At one label, {len(apart)} of {len(within)} coefficients of alignment and accuracy have an interval "
            "without 0."
        )
    return sentences


def _coefficient(row: dict[str, Any]) -> str:
    name = str(row["method"]).capitalize()
    if row["value"] is None:
        return f"{name} – ({row['note']})"
    return f"{name} {decimals(row['value'])} {span(row['low'], row['high'])}".strip()


def _line(position: dict[str, Any], relations: "pl.DataFrame") -> list[str]:
    own = relations.filter(label=position["label"], metric=METRIC, x="alignment", method="spearman")
    rho = own.row(0, named=True) if len(own) else {"value": None}
    exact = position["posterior_cka"]
    return [
        position["label"],
        decimals(position["broja_redundancy"]),
        decimals(position["broja_unique2"]),
        decimals(position[METRIC]),
        "–" if exact is None else decimals(exact),
        decimals(position["mutual_knn"]),
        decimals(position["accuracy1"]),
        decimals(position["accuracy2"]),
        "–" if rho["value"] is None else f"{decimals(rho['value'])} {span(rho['low'], rho['high'])}".strip(),
    ]
