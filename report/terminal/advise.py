"""Advice on the terminal: the answers first, then effects, information and alignment; the same as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from featcache.report.names import decimals, short_names, span
from featcache.report.runs import metric_title
from featcache.report.terminal.console import console, count, print_json
from featcache.report.terminal.fitted import print_fitted_table, print_parts

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row
    from featcache.studies.advise.answers import AdviceRow
    from featcache.studies.advise.result import Advice, PairAdvice

_ORDER = ("align", "align with a private part", "keep apart", "cannot tell")
_LONGEST = 26
_NOTHING_ADDED = (
    "With the raw spaces at hand an adapter adds no label information:",
    "for the joint task alone, align is hardly ever right.",
)


def show_advice(advice: "Advice", *, as_json: bool, verbose: bool = False) -> None:
    """Shows what was found, the answers of each pair first.

    Args:
        advice: From `featcache.studies.advise.advise`.
        as_json: Print JSON, which has everything.
        verbose: Show few labels of each space alone too, the reasons, and which classifiers were chosen.
    """
    if as_json:
        print_json(_as_json(advice))
        return
    names = short_names(advice.rows.spaces, _LONGEST)
    for number, pair in enumerate(advice.pairs):
        if number:
            console().print()
        _print_answers(advice, pair, names)
    for pair in advice.pairs:
        _print_effects(pair, names, verbose=verbose)
        _print_information(advice, pair, names, verbose=verbose)
        _print_alignment(pair)
    _print_foot(advice)


def use_title(row: "AdviceRow", names: dict[str, str]) -> str:
    """One use in a few words, with the names of its spaces; "a → b": trained on a, used on b."""
    first, second = names[row.first], names[row.second]
    alone = {"first": first, "second": second}
    if row.use == "transfer":
        return f"{first} → {second}" if row.reads == "first→second" else f"{second} → {first}"
    what = alone.get(row.reads, "both together" if row.use == "joint" else "both")
    if row.use == "few":
        return f"{row.labels} label{'s' if row.labels > 1 else ''} a class, {what}"
    return what if row.use == "joint" else f"{what} alone"


def answer_lines(rows: "Sequence[AdviceRow]", names: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Each answer that is given, and the uses that it is given for; few labels of one kind are one use."""
    lines: list[tuple[str, list[str]]] = []
    for answer in _ORDER:
        own = [row for row in rows if row.answer == answer]
        uses = dict.fromkeys(_grouped(row, own, names) for row in own)
        if uses:
            lines.append((answer, list(uses)))
    return lines


def _grouped(row: "AdviceRow", own: "Sequence[AdviceRow]", names: dict[str, str]) -> str:
    if row.use != "few":
        return use_title(row, names)
    labels = ", ".join(str(each.labels) for each in own if each.use == "few" and each.reads == row.reads)
    what = {"first": names[row.first], "second": names[row.second]}.get(row.reads, "both")
    return f"few labels of {what} ({labels} a class)"


def _print_answers(advice: "Advice", pair: "PairAdvice", names: dict[str, str]) -> None:
    print_parts(
        [f"{names[pair.first]} and {names[pair.second]}", f"to tell {advice.label} of {advice.dataset}:"], style="bold"
    )
    for answer, uses in answer_lines(pair.answers, names):
        print_parts([f"{answer}:", *(f"{use}{';' if use != uses[-1] else ''}" for use in uses)])


def _print_effects(pair: "PairAdvice", names: dict[str, str], *, verbose: bool) -> None:
    shown = [row for row in pair.answers if verbose or row.use != "few" or row.reads == "both"]
    columns = ["use", "answer", "raw", "adapted alone", "beside raw", *(["why"] if verbose else [])]
    lines = [
        (use_title(row, names), row.answer.replace("align with a ", ""), decimals(row.accuracy),
         _effect(row.effect, row.ci_low, row.ci_high), _effect(row.private_effect, row.private_low, row.private_high),
         *([row.why] if verbose else []))
        for row in shown
    ]  # fmt: skip
    console().print()
    title = (
        "Held-out accuracy of the raw spaces,",
        "and what adapted ones add to it;",
        "a → b: trained on a, used on b;",
    )
    print_fitted_table(columns, lines, title=[*title, f"95 %, n = {pair.answers[0].n:,}"])


def _effect(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "–"
    return f"{'+' if value >= 0 else ''}{decimals(value)} ±{decimals((high - low) / 2)}"


def _print_information(advice: "Advice", pair: "PairAdvice", names: dict[str, str], *, verbose: bool) -> None:
    titles = {
        "information1": names[pair.first],
        "information2": names[pair.second],
        "information12": "both together",
        "redundancy": "redundancy",
        "unique1": f"only {names[pair.first]}",
        "unique2": f"only {names[pair.second]}",
        "synergy": "synergy",
    }
    lines = [
        (titles[row.quantity], decimals(row.value),
         "" if row.quantity.startswith("information") else span(row.low, row.high), span(row.ci_low, row.ci_high))
        for row in pair.information
    ]  # fmt: skip
    console().print()
    title = ["Usable information about the label in nats,", f"of {advice.entropy:.3f} there are"]
    print_fitted_table(("what knows it", "nats", "bounds", "95 %"), lines, title=title)
    if verbose:
        kinds = [", ".join(dict.fromkeys(kind)) for kind in pair.classifiers]
        print_parts([f"Classifiers: {kinds[0]};", f"{kinds[1]};", f"together {kinds[2]}."])


def _print_alignment(pair: "PairAdvice") -> None:
    print_parts(
        ["Alignment:", *(f"{_aligned(row)};" for row in pair.alignment[:-1]), f"{_aligned(pair.alignment[-1])}."]
    )


def _aligned(row: "Row") -> str:
    if row.value is None:
        return f"{metric_title(row.metric)} not measured ({row.note})"
    from featcache.metrics.measure.row import p_text

    p = p_text(row.p, row.null)
    chance = f", chance {decimals(row.chance)}" if row.chance is not None else ""
    calibrated = f", calibrated {decimals(row.calibrated)}" if row.calibrated is not None else ""
    score = f"{metric_title(row.metric)} {decimals(row.value)}{chance}{calibrated}"
    return f"{score} (p {p if p.startswith('≤') else f'= {p}'})"


def _print_foot(advice: "Advice") -> None:
    settings = advice.settings
    console().print()
    for name, features in advice.arrays.items():
        whole = f"{features.view}/{features.name}"
        if whole != name:
            console().print(f"{name}: {whole}, d = {features.width:,}")
    print_parts(_NOTHING_ADDED)
    how = f"Adapters saw pairs of other folds and no labels: {count(settings.folds, 'fold')},"
    sentences = (
        f"{how} {count(settings.seeds, 'adapter')} each.",
        "Answers are corrected within each kind of use (Holm).",
        f"Bounds hold for any decomposition; intervals allow {settings.shortfall:g} nats of shortfall.",
        "What advice is not: docs/advise.md.",
    )
    print_parts(sentences)
    for note in advice.notes:
        console().print(f"{note}.", style="bold" if note.startswith("Caveat") else None)
    if advice.table is None:
        print_parts(["Everything measured:", "--out FILE.parquet, or --json;", "a figure: --figure FILE."])
    else:
        console().print(f"Table: {advice.table}")


def _as_json(advice: "Advice") -> dict[str, object]:
    from featcache.studies.tables import identity

    return {
        "dataset": advice.dataset,
        "label": advice.label,
        "classes": list(advice.rows.classes),
        "groups": advice.rows.n,
        "entropy": advice.entropy,
        "settings": asdict(advice.settings),
        "notes": advice.notes,
        "arrays": {name: identity(features) for name, features in advice.arrays.items()},
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "answers": [asdict(row) for row in pair.answers],
                "information": [asdict(row) for row in pair.information],
                "classifiers": pair.classifiers,
                "alignment": [asdict(row) for row in pair.alignment],
            }
            for pair in advice.pairs
        ],
    }
