"""The study of emergence on the terminal: the answer first, then a line for each U, the claims, and the files."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.emergence import (
    coefficient_text,
    emergence_answer,
    emergence_cautions,
    emergence_sizes,
    of_settings,
)
from featcache.report.names import decimals
from featcache.report.terminal.console import console
from featcache.report.terminal.fitted import print_fitted_table, print_parts, print_path

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.emergence.questions.answers import Answers
    from featcache.studies.emergence.questions.ledger import EmergenceEntry

_COLUMNS = ("U", "max CKA", "exact", "theory", "R", "unique", "S", "ρ align, acc", "ρ depth, acc")


def show_answers(answers: "Answers") -> None:
    """Prints what the study of encoders trained apart says.

    Args:
        answers: From `featcache.studies.emergence.questions.answers.answer_emergence`.
    """
    for setting, maxima in of_settings(answers.maxima):
        if setting:
            console().print(f"\n{setting}", style="bold")
        own = {name: maxima[name][0] for name in ("generator", "width", "architecture")}
        relations = answers.relations.filter(**own)
        entries = [
            each for each in answers.entries
            if (each.entry.dataset, each.entry.reference)
            == (own["generator"], f"{own['architecture']}, width {own['width']}")
        ]  # fmt: skip
        for sentence in emergence_answer(relations, entries):
            print_parts(sentence.split(" "))
        rows = _rows(maxima, relations)
        title = "Maximum over layers, depths and seeds at D_φ = {}; information in nats (BROJA)".format(
            maxima["phi_depth"].min()
        )
        print_fitted_table(_COLUMNS, rows, title=(f"\n{title}",))
        _show_claims(entries)
        for caution in emergence_cautions(maxima):
            print_parts(f"Beware: {caution}".split(" "))
        print_parts(f"Of {emergence_sizes(maxima)}.".split(" "))
    print_path("Tables and ledger:", str(answers.folder))
    print_path("Figures and page: featcache report", str(answers.folder))


def _rows(maxima: "pl.DataFrame", relations: "pl.DataFrame") -> list[list[str]]:
    """A line a U: at the first map the maximum, its exact value and theory; what the label holds; both coefficients."""
    first = maxima.filter(metric="cka_clipped", phi_depth=maxima["phi_depth"].min()).sort("uniqueness")
    own = relations.filter(question="rq2", y="accuracy", method="spearman", group=False)
    coefficients = {
        (row["x"], row["uniqueness"]): coefficient_text(row)
        for row in own.filter(own["metric"].is_in(["cka_clipped", ""])).iter_rows(named=True)
        if row["value"] is not None
    }
    return [
        [
            str(row["uniqueness"]),
            *(_text(row[name]) for name in ("value", "population_maximum", "posterior_cka")),
            *(_text(row[name]) for name in ("broja_redundancy", "broja_unique", "broja_synergy")),
            *(coefficients.get((x, row["uniqueness"]), "–") for x in ("alignment", "depth")),
        ]
        for row in first.iter_rows(named=True)
    ]


def _text(value: Any) -> str:
    return "–" if value is None else decimals(round(value, 2))[:-1]


def _show_claims(entries: "Sequence[EmergenceEntry]") -> None:
    """How many claims of each source have which verdict, and those that failed."""
    for source in dict.fromkeys(each.entry.source for each in entries):
        own = [each.entry for each in entries if each.entry.source == source]
        counts = Counter(entry.verdict for entry in own)
        console().print(f"\n{source}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
        for entry in own:
            if entry.verdict == "failed":
                print_parts(f"  failed: {entry.text} ({entry.effect:+.3f})".split(" "))
