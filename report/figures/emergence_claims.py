"""Forest plots of the emergence claims: effect and interval of each, with the published value below it."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.figures import theme
from featcache.report.figures.claims import VERDICTS
from featcache.report.figures.figure import Figure
from featcache.report.names import file_stem, finite, shorten

if TYPE_CHECKING:
    from featcache.studies.emergence.questions.ledger import EmergenceEntry

Rows = list[dict[str, Any]]
_LONGEST = 34
_COEFFICIENTS = ("relation", "coefficients")  # one scale; slopes, nats and CKA stand in the table


def emergence_claims(entries: "Sequence[EmergenceEntry]") -> list[Figure]:
    """The claims of each source whose effects are coefficients, one figure a source.

    Args:
        entries: Of the ledger, in its order.
    """
    from featcache.report.figures import point_charts

    shown = [
        each for each in entries if each.entry.estimator in _COEFFICIENTS and finite(each.entry.effect) is not None
    ]
    several = len({(each.entry.dataset, each.entry.reference) for each in shown}) > 1
    figures: list[Figure] = []
    for source in dict.fromkeys(each.entry.source for each in shown):
        own = [each for each in shown if each.entry.source == source]
        rows = [row for each in own for row in _lines(each, several)]
        ends = [row[name] for row in rows for name in ("value", "ci_low", "ci_high") if row[name] is not None]
        counts = Counter(each.entry.verdict for each in own)
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
        figures.append(
            Figure(
                f"claims-{file_stem(source, 'claims')}",
                f"Claims: {shorten(source, 80)}",
                f"{told[0].upper()}{told[1:]}. Coefficient of each claim, or difference of two, with its 95 % "
                "interval, not adjusted; the word is the verdict, a test after Holm's correction (▲ held, ■ failed, "
                "● cannot tell). Diamond: published, read by eye.",
                f"Forest plot of {len(own)} coefficients: {told}",
                rows,
                point_charts.forest(rows, title="coefficient", ends=(min(ends), max(ends))),
            )
        )
    return figures


def _lines(each: "EmergenceEntry", several: bool) -> Rows:
    """The line of a claim, and one of what was published."""
    entry = each.entry
    colour, shape = VERDICTS.get(entry.verdict, (theme.MUTED, "circle"))
    on = f"{entry.dataset}, {entry.reference}" if several else f"{entry.n:,} models"
    head = shorten(entry.claim, _LONGEST)
    line = {
        "claim": entry.claim, "label": shorten(on, _LONGEST), "value": entry.effect, "ci_low": finite(entry.low),
        "ci_high": finite(entry.high), "verdict": shorten(entry.verdict), "expected": entry.expect, "_head": head,
        "_colour": colour, "_shape": shape, "_tip": f"{entry.text}: {entry.effect:+.3f}, {entry.verdict}",
    }  # fmt: skip
    if finite(each.published_value) is None:
        return [line]
    published = {
        **line, "label": "published", "value": each.published_value, "ci_low": None, "ci_high": None, "verdict": "",
        "_head": "", "_colour": "#8A5F00", "_shape": "diamond", "_tip": f"published: {shorten(each.published, 90)}",
    }  # fmt: skip
    return [line, published]
