"""What the study of emergence says, in sentences that follow from its tables."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.names import decimals
from featcache.studies.emergence.synthetic.generators import RELEASED

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.emergence.questions.ledger import EmergenceEntry

SETTING = ("generator", "width", "architecture")  # of encoders that are compared with each other
QUESTION = "When does alignment emerge, and does it predict performance?"
U = "U, unique bits of the label"  # the axis of the released label tables
_STEPS = 27_000  # of the second modality's encoders, as released


def of_settings(table: "pl.DataFrame") -> "Iterator[tuple[str, pl.DataFrame]]":
    """The rows of each setting with what it is called: "" where there is one alone."""
    keys = table.select(SETTING).unique(maintain_order=True).rows()
    for key in keys:
        named = dict(zip(SETTING, key, strict=True))
        label = f"{named['generator']}, {named['architecture']}, width {named['width']}"
        yield label if len(keys) > 1 else "", table.filter(**named)


def emergence_answer(relations: "pl.DataFrame", entries: "Sequence[EmergenceEntry]") -> list[str]:
    """The answer in a few sentences: where alignment emerges, whether it predicts performance, what became of claims.

    Args:
        relations: Correlations of one setting.
        entries: Of the ledger; may be empty.
    """
    words, sentences = of_dial(relations), [_emerges(relations), _predicts(relations), _claims(entries)]
    return [words(sentence) for sentence in sentences if sentence]


def of_dial(table: "pl.DataFrame") -> Callable[[str], str]:
    """Turns words about U, the unique bits of the released label, into those of a dial, where a dial turned the table.

    Args:
        table: Of one generator.

    Example:
        >>> import polars as pl
        >>> of_dial(pl.DataFrame({"generator": ["planted_synergy"]}))("at U = 4; U, unique bits of the label")
        "at level 4; level of the dial 'synergy'"
        >>> of_dial(pl.DataFrame({"generator": ["released"]}))("at U = 4")
        'at U = 4'
    """
    generator = str(table["generator"][0]) if len(table) else RELEASED
    if generator == RELEASED:
        return str
    axis = f"level of the dial {generator.removeprefix('planted_')!r}"
    return lambda text: re.sub(r"\bU\b( =)?", "level", text.replace(U, axis))


def coefficient_text(row: Mapping[str, Any]) -> str:
    """A coefficient with its interval, in short.

    Example:
        >>> coefficient_text({"value": -0.95, "low": -0.981, "high": -0.893})
        '−.95 [−.98, −.89]'
    """
    value, low, high = (
        "" if row[name] is None else decimals(round(row[name], 2))[:-1] for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]" if low and high else value


def _of(relations: "pl.DataFrame", **where: Any) -> list[dict[str, Any]]:
    """Correlations over all maps that have a value, of the released metric."""
    import polars as pl

    rows = relations.filter(pl.col("metric").is_in(["cka_clipped", ""]), pl.col("value").is_not_null(), group=False)
    return rows.filter(**where).sort("uniqueness").to_dicts()


def _emerges(relations: "pl.DataFrame") -> str:
    fall = _of(relations, question="rq1", x="uniqueness", method="pearson", points="measured")
    maps = [row for row in _of(relations, question="rq1", x="phi_depth", method="pearson") if row["uniqueness"] is None]
    theory = _of(relations, question="information", x="posterior_cka", method="pearson")
    with_ = (
        (_level(fall), fall),
        ("the CKA of exact posteriors", theory),
        ("the map's depth", maps),
    )
    told = [f"{_change(rows[0])} with {what} (r = {coefficient_text(rows[0])})" for what, rows in with_ if rows]
    return f"Maximum alignment {', '.join(told)}." if fall else ""


def _level(rows: list[dict[str, Any]]) -> str:
    generator = str(rows[0]["generator"]) if rows else RELEASED
    dial = generator.removeprefix("planted_")
    return "U, the unique bits of the label" if generator == RELEASED else f"the level of the dial {dial!r}"


def _change(row: Mapping[str, Any]) -> str:
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return "is not known to change"
    return "rises" if row["low"] > 0 else "falls"


def _predicts(relations: "pl.DataFrame") -> str:
    own = _of(relations, question="rq2", x="alignment", y="accuracy", method="spearman")
    if not own:
        return "Too few models at each U to say whether alignment predicts accuracy."
    beyond = {
        row["uniqueness"]: row for row in _of(relations, question="beyond depth", method="spearman", y="accuracy")
    }
    told: list[str] = []
    for row in (own[0], own[-1])[: min(len(own), 2)]:
        also = beyond.get(row["uniqueness"])
        rest = f"; beyond depth {coefficient_text(also)}" if also else ""
        told.append(f"at U = {row['uniqueness']} {_together(row)} (ρ = {coefficient_text(row)}{rest})")
    return f"Alignment and exact accuracy: {', '.join(told)}."


def _together(row: Mapping[str, Any]) -> str:
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return "no relation can be told"
    return "they rise together" if row["low"] > 0 else "one rises as the other falls"


def _claims(entries: "Sequence[EmergenceEntry]") -> str:
    source = entries[0].entry.source if entries else ""
    counts = Counter(each.entry.verdict for each in entries if each.entry.source == source)
    if not counts:
        return ""
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return f"Claims of the {source.removeprefix('emergence ')}: {told}."


def emergence_cautions(maxima: "pl.DataFrame") -> list[str]:
    """What to beware of, by what was trained.

    Args:
        maxima: Of one setting.
    """
    if maxima.is_empty():
        return []
    cautions: list[str] = []
    seeds, steps = int(maxima["seeds"][0]), int(maxima["steps"][0])
    if seeds == 1:
        cautions.append("One seed: nothing here says how other initial values would differ.")
    if steps < _STEPS:
        cautions.append(f"{steps:,} steps of training, {_STEPS:,} as released: deep encoders may be undertrained.")
    if maxima["depths"][0] < 10 or maxima["phi_depth"].n_unique() < 10:
        maps = maxima["phi_depth"].n_unique()
        cautions.append(f"{maxima['depths'][0]} depths and {maps} maps of ten each: intervals over so few are wide.")
    return [*cautions, *filter(None, [unique_bits(maxima)])]


def unique_bits(maxima: "pl.DataFrame") -> str:
    """What the last U holds by two decompositions, which differ; "" where it is not known, and of dials.

    Args:
        maxima: Of one setting.
    """
    known = maxima.sort("uniqueness").filter(maxima["broja_unique"].is_not_null())
    if known.is_empty() or known["generator"][0] != RELEASED:
        return ""
    last = known.row(-1, named=True)
    held = [
        f"{decimals(last[f'{name}_unique'])} nats unique and {decimals(last[f'{name}_synergy'])} synergy by {words}"
        for name, words in (("broja", "BROJA"), ("common", "the common part"))
    ]
    return f"U counts bits, not information: the label at U = {last['uniqueness']} holds {' and '.join(held)}."


def emergence_sizes(maxima: "pl.DataFrame") -> str:
    """What was trained, in one line.

    Args:
        maxima: Of one setting.
    """
    own = maxima.filter(metric="cka_clipped")
    if own.is_empty():
        return ""
    first = own.row(0, named=True)
    seeds = "1 seed" if first["seeds"] == 1 else f"{first['seeds']} seeds"
    return (
        f"{own['models'].sum():,} encoders of the second modality: {own['uniqueness'].n_unique()} label tables, "
        f"{own['phi_depth'].n_unique()} maps, {first['depths']} depths, {seeds}, {first['steps']:,} steps; "
        f"{first['generator']}, {first['architecture']}, width {first['width']}"
    )
