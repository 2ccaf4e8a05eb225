"""Figures of a ledger: the claims of each source as forest plots, each short enough to be read."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.report.figures import theme
from featcache.report.figures.figure import Figure, require_renderer
from featcache.report.names import file_stem, finite, shorten

if TYPE_CHECKING:
    from featcache.studies.ledger.ledger import Entry

Rows = list[dict[str, Any]]
# verdict -> colour and shape: either tells them apart
VERDICTS = {"held": ("#009E73", "triangle-up"), "failed": ("#D55E00", "square")}
_UNKNOWN = (theme.MUTED, "circle")
_MOST = 36  # lines of one figure: about the height of a screen
_LONGEST = 34


def write_ledger_figures(entries: "Sequence[Entry]", folder: Path) -> list[str]:
    """Draws the claims of each source as forest plots, as PNG, SVG and CSV; returns the PNGs' names.

    Raises:
        UsageError: If what draws is not installed.
    """
    require_renderer()
    figures = ledger_figures(entries)
    for figure in figures:
        figure.write(folder, formats=("png", "svg"))
    return [f"{figure.name}.png" for figure in figures]


def ledger_figures(entries: "Sequence[Entry]") -> list[Figure]:
    """The forest plots of every source, in the order of the ledger."""
    sources = dict.fromkeys(entry.source for entry in entries)
    return [figure for one in sources for figure in claims_figures([e for e in entries if e.source == one], one)]


def claims_figures(entries: "Sequence[Entry]", source: str) -> list[Figure]:
    """The forest plots of a source's claims: effects that are differences of scores, some 36 a figure.

    Trends and rank correlations have units of their own and are left to the table.

    Args:
        entries: Of one source, in the order of the ledger.
        source: Its name.
    """
    shown = [entry for entry in entries if finite(entry.effect) is not None]
    shown = [entry for entry in shown if entry.estimator in ("contrast", "difference")]
    claims = [[e for e in shown if e.claim == claim] for claim in dict.fromkeys(entry.claim for entry in shown)]
    rows = [_lines(claim) for claim in claims]
    ends = [end for own in rows for row in own for end in (row["value"], row["ci_low"], row["ci_high"])]
    ends = [end for end in ends if end is not None]
    pages = _pages(rows)
    return [_figure(page, source, number, len(pages), (min(ends), max(ends))) for number, page in enumerate(pages, 1)]


def _pages(claims: Sequence[Rows]) -> list[Rows]:
    """Claims in figures of about as many lines each; the lines of a claim stay together."""
    lines = sum(map(len, claims))
    most = lines / -(-lines // _MOST) if lines else _MOST
    pages: list[Rows] = []
    for claim in claims:
        if not pages or len(pages[-1]) + len(claim) / 2 > most:
            pages.append([])
        pages[-1] += claim
    return pages


def _lines(entries: "Sequence[Entry]") -> Rows:
    """The lines of a claim; the first has its name."""
    rows: Rows = []
    for place, entry in enumerate(entries):
        colour, shape = VERDICTS.get(entry.verdict, _UNKNOWN)
        on = " · ".join(filter(None, (entry.dataset, *entry.reference.split("/")[1:2])))
        claim = shorten(entry.claim, _LONGEST)
        rows.append(
            {
                "claim": entry.claim,
                "label": shorten(on, _LONGEST + 8) or "everywhere",
                "value": entry.effect,
                "ci_low": finite(entry.low),
                "ci_high": finite(entry.high),
                "verdict": shorten(entry.verdict),
                "metric": entry.metric,
                "expected": entry.expect,
                "_head": "" if place else claim,
                "_colour": colour,
                "_shape": shape,
                "_tip": f"{claim}, {on}: {entry.effect:+.3f}, {shorten(entry.verdict)}",
            }
        )
    return rows


def _figure(rows: Rows, source: str, number: int, pages: int, ends: tuple[float, float]) -> Figure:
    from featcache.report.figures import point_charts

    told = ", ".join(f"{count} {verdict}" for verdict, count in Counter(row["verdict"] for row in rows).most_common())
    part = f", part {number} of {pages}" if pages > 1 else ""
    return Figure(
        f"claims-{file_stem(source, 'claims')}" + (f"-{number}" if number > 1 else ""),
        f"Claims: {shorten(source, 80)}{part}",
        f"{told[0].upper()}{told[1:]}. Effect of each claim with its 95 % interval, not adjusted; the word is the "
        "verdict, a test after Holm's correction within the claim's family (▲ held, ■ failed, ● cannot tell).",
        f"Forest plot of {len(rows)} effects around zero: {told}",
        rows,
        point_charts.forest(rows, title="effect (difference of scores)", ends=ends),
    )
