"""The figure of an advice: what aligning does to accuracy use by use, and who knows what of the label."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.report.figures import point_charts, theme
from featcache.report.figures.figure import Figure
from featcache.report.names import short_names, shorten
from featcache.report.terminal.advise import answer_lines, use_title

if TYPE_CHECKING:
    from featcache.report.inputs import InputTable
    from featcache.studies.advise.result import Advice, PairAdvice

Rows = list[dict[str, Any]]
ALONE, BESIDE, KNOWN = "adapted spaces alone", "adapted beside raw", "information: point and bounds"
_COLOURS = {ALONE: theme.series(0)[0], BESIDE: theme.series(1)[0], KNOWN: theme.series(5)[0]}
_LONGEST = 20


def draw_advice(advice: "Advice", path: Path) -> None:
    """Draws an advice as .png or .svg; a name that ends otherwise is refused by `check_figure_path` before."""
    advice_figure(advice).draw(path)


def advice_figure(advice: "Advice") -> Figure:
    """The figure: two panels a pair of spaces.

    Args:
        advice: From `featcache.studies.advise.advise`.
    """
    return _figure(advice.dataset, advice.label, advice.entropy, advice.pairs)


def advice_table_figure(table: "InputTable") -> Figure:
    """The same figure of a table that `featcache advise --out` wrote."""
    from featcache.studies.advise.tables import pairs_of

    first = table.rows.row(0, named=True)
    return _figure(first["dataset"], first["label"], first["entropy"], pairs_of(table.rows))


def _figure(dataset: str, label: str, entropy: float, pairs: "Sequence[PairAdvice]") -> Figure:
    names = short_names(dict.fromkeys(name for pair in pairs for name in pair.spaces), _LONGEST)
    panels: list[point_charts.Panel] = []
    for pair in pairs:
        of = f"{names[pair.first]} and {names[pair.second]}"
        panels += [
            ([of, "what aligning does to accuracy"], _effects(pair, names)),
            (
                [f"what they know of {shorten(label)}", f"in nats; all there is: {entropy:.2f}"],
                _information(pair, names),
            ),
        ]
    spec = point_charts.named_points(panels, columns=2, colours=_COLOURS, title="", key="")
    told = "; ".join(
        f"{answer}: {', '.join(uses)}" for pair in pairs for answer, uses in answer_lines(pair.answers, names)
    )
    caption = (
        f"{told}. Left: paired differences of held-out accuracy with 95 % intervals over groups and adapters; the "
        "answer stands before each use; dashed: no effect. Right: usable information; points by BROJA, lines from the "
        "lowest to the highest that any decomposition allows, without sampling error."
    )
    rows = [{"panel": title[0], **row} for title, own in panels for row in own]
    title = f"Should they be aligned? {dataset}, label {label}"
    return Figure("advice", title, caption, told, rows, spec)


def _effects(pair: "PairAdvice", names: dict[str, str]) -> Rows:
    rows: Rows = []
    for row in pair.answers:
        label = f"{row.answer.replace('align with a ', '')}: {use_title(row, names)}"
        ends: list[tuple[str, float, float | None, float | None]] = [(ALONE, row.effect, row.ci_low, row.ci_high)]
        if row.private_effect is not None:
            ends.append((BESIDE, row.private_effect, row.private_low, row.private_high))
        rows += [
            {"label": label, "series": series, "metric": f"accuracy {pair.first} {pair.second}", "value": value,
             "ci_low": low, "ci_high": high, "chance": 0.0, "_tip": f"{label}, {series} {value:+.3f}"}
            for series, value, low, high in ends
        ]  # fmt: skip
    return rows


def _information(pair: "PairAdvice", names: dict[str, str]) -> Rows:
    titles = {
        "information1": names[pair.first],
        "information2": names[pair.second],
        "information12": "both together",
        "unique1": f"only {names[pair.first]}",
        "unique2": f"only {names[pair.second]}",
    }
    return [
        {"label": titles.get(row.quantity, row.quantity), "series": KNOWN, "metric": f"nats {pair.first} {pair.second}",
         "value": row.value, "ci_low": row.low, "ci_high": row.high, "chance": 0.0,
         "_tip": f"{titles.get(row.quantity, row.quantity)} {row.value:.3f} nats"}
        for row in pair.information
    ]  # fmt: skip
