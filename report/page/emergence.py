"""The page of the study of emergence: which tables stand in which chapter, and what follows from them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featcache.metrics.measure.row import p_text
from featcache.report.emergence import (
    QUESTION,
    SETTING,
    emergence_answer,
    emergence_cautions,
    emergence_sizes,
    of_dial,
    of_settings,
)
from featcache.report.figures.emergence import (
    agreement_figure,
    bias_figure,
    generators_figure,
    information_axis,
    rq1_curve,
)
from featcache.report.figures.emergence_claims import emergence_claims
from featcache.report.figures.emergence_performance import (
    depth_figure,
    law_figure,
    performance_figure,
    slopes_figure,
)
from featcache.report.figures.figure import Figure, reworded
from featcache.report.names import finite
from featcache.report.page.chapters import Chapter, Part
from featcache.report.page.emergence_others import OTHER_KINDS, other_chapters
from featcache.report.page.html import folded, table
from featcache.report.page.study import StudyPage
from featcache.studies.emergence.questions.claims import Published, load_emergence_claims
from featcache.studies.emergence.questions.ledger import EmergenceEntry, emergence_entries

if TYPE_CHECKING:
    import polars as pl

    from featcache.report.inputs import InputTable

_LEDGER = "emergence claims"
_APART = ("maxima", "by depth", "bias", "metric agreement", "relations", "depth law")
KINDS = (_LEDGER, *_APART, *OTHER_KINDS)


@dataclass(frozen=True, eq=False)
class _Apart:
    """The tables of encoders trained apart, of one folder and setting; a kind that is not there has no rows."""

    label: str
    tables: "Mapping[str, pl.DataFrame]"
    entries: Sequence[EmergenceEntry]
    published: Mapping[str, Published]

    def drawn(self, draw: Callable[..., Figure | None], *kinds: str, published: bool = False) -> Figure | None:
        """A figure of some tables, in the words of their dial; None where one of them is not there."""
        if any(kind not in self.tables for kind in kinds):
            return None
        tables = [self.tables[kind] for kind in kinds]
        words = of_dial(tables[0])
        more = (self.published if words is str else {},) if published else ()  # published are the released tables
        figure = draw(*tables, *more, self.label)
        return figure if figure is None or words is str else reworded(figure, words)


def emergence_study(tables: "Sequence[InputTable]", slopes: "pl.DataFrame | None" = None) -> StudyPage | None:
    """The page of the tables of emergence among some tables; None where there are none.

    Args:
        tables: Of any kinds; those of one folder belong together.
        slopes: Over the parts of the label's information, from `part_slopes` of every table of maxima.
    """
    studies, others = _studies(tables), other_chapters(tables)
    if not studies:
        return _named_apart(StudyPage(QUESTION, [], chapters=others)) if others else None
    first = studies[0]
    maxima, relations = (first.tables.get(kind) for kind in ("maxima", "relations"))
    answer = emergence_answer(relations, first.entries) if relations is not None else []
    facts: dict[str, str | Sequence[str]] = {"How sure?": _SURE}
    if maxima is not None:
        facts |= {"Trained": emergence_sizes(maxima), "Beware": emergence_cautions(maxima)}
    hero = first.drawn(rq1_curve, "maxima", "relations", published=True)
    generators = _generators(tables, slopes)
    return _named_apart(StudyPage(QUESTION, answer, facts, hero, [*_chapters(studies, generators), *others]))


_SURE = (
    "Intervals are over depths, label tables or maps, each left out once, not over models: models of one depth are no "
    "independent draws. Claims are corrected (Holm) within their source. No coefficient is of fewer than 12 models."
)


def _studies(tables: "Sequence[InputTable]") -> list[_Apart]:
    """The tables of each folder and setting, the one of most models first."""
    folders = dict.fromkeys(one.path.parent for one in tables if one.kind in (_LEDGER, *_APART))
    _, published = load_emergence_claims()
    found: list[_Apart] = []
    for folder in folders:
        own = {one.kind: one.rows for one in tables if one.path.parent == folder and one.kind in _APART}
        ledgers = [one for one in tables if one.path.parent == folder and one.kind == _LEDGER]
        entries = [entry for one in ledgers for entry in emergence_entries(one.rows, one.path)]
        found += _settings(own, entries, published, folder.name if len(folders) > 1 else "")
    return sorted(found, key=lambda one: -max((len(rows) for rows in one.tables.values()), default=0))


def _settings(
    own: "dict[str, pl.DataFrame]", entries: Sequence[EmergenceEntry], published: Mapping[str, Published], folder: str
) -> Iterable[_Apart]:
    if not own:
        yield _Apart(folder, {}, entries, published)
        return
    first = next(iter(own.values()))
    for label, rows in of_settings(first):
        key = {name: rows[name][0] for name in SETTING}
        where = (str(key["generator"]), f"{key['architecture']}, width {key['width']}")
        name = ", ".join(filter(None, (folder, label)))
        of_it = [each for each in entries if (each.entry.dataset, each.entry.reference) == where]
        yield _Apart(name, {kind: table.filter(**key) for kind, table in own.items()}, of_it, published)


def _generators(tables: "Sequence[InputTable]", slopes: "pl.DataFrame | None") -> Part:
    """What several generators say together, if there are several."""
    own = [one.rows for one in tables if one.kind == "maxima"]
    figure = generators_figure(own, slopes) if own and slopes is not None else None
    return Part("All generators", (figure,), ())


def _chapters(studies: Sequence[_Apart], generators: Part) -> list[Chapter]:
    makers: dict[str, Callable[[_Apart], Part]] = {
        "Claims": _claims,
        "When does alignment emerge?": _emerges,
        "Which information moves it?": _information,
        "Does alignment predict performance?": _performance,
        "Does only the difference of depths count?": _law,
    }
    chapters: list[Chapter] = []
    for number, (title, make) in enumerate(makers.items(), 1):
        parts = tuple(part for one in studies if any((part := make(one)).figures) or part.widgets)
        parts += (generators,) if make is _information and any(generators.figures) else ()
        if parts:
            chapters.append(Chapter(f"emergence-{number}", title, parts))
    return chapters


def _claims(one: _Apart) -> Part:
    figures = tuple(emergence_claims(one.entries))
    widgets = (folded("Every claim, with what was published", _claims_table(one.entries)),) if one.entries else ()
    return Part(one.label, figures, (), widgets)


def _claims_table(entries: Sequence[EmergenceEntry]) -> str:
    columns = ("claim", "effect", "95 % interval, unadjusted", "published", "p, Holm", "verdict")
    rows = [
        (
            f"{each.entry.source}: {each.entry.text}",
            "–" if finite(each.entry.effect) is None else f"{each.entry.effect:+.3f}",
            _interval(each),
            each.published or "–",
            p_text(each.entry.p_holm) or "–",
            each.entry.verdict + (f": {each.entry.note}" if each.entry.note else ""),
        )
        for each in entries
    ]
    return table(columns, rows, css="claims")


def _interval(each: EmergenceEntry) -> str:
    low, high = finite(each.entry.low), finite(each.entry.high)
    return each.entry.interval or "–" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"


def _emerges(one: _Apart) -> Part:
    figures = (
        one.drawn(rq1_curve, "maxima", "relations", published=True) if one.label else None,
        one.drawn(depth_figure, "by depth"),
        one.drawn(bias_figure, "bias"),
        one.drawn(agreement_figure, "metric agreement"),
    )
    return Part(one.label, figures, ())


def _information(one: _Apart) -> Part:
    return Part(one.label, (one.drawn(information_axis, "maxima", "relations"),), ())


def _performance(one: _Apart) -> Part:
    return Part(one.label, (one.drawn(performance_figure, "relations", published=True),), ())


def _law(one: _Apart) -> Part:
    figures = (one.drawn(law_figure, "depth law", "by depth"), one.drawn(slopes_figure, "depth law"))
    return Part(one.label, figures, ())


def _named_apart(page: StudyPage) -> StudyPage:
    """The page with figures of names that no run's figure has, and no two share: each is a file."""
    taken: dict[str, int] = {}

    def apart(figure: Figure | None) -> Figure | None:
        if figure is None:
            return None
        name = f"emergence-{figure.name}"
        taken[name] = taken.get(name, 0) + 1
        return replace(figure, name=name if taken[name] == 1 else f"{name}-{taken[name]}")

    first = apart(page.first)
    chapters = [
        replace(each, parts=tuple(replace(part, figures=tuple(map(apart, part.figures))) for part in each.parts))
        for each in page.chapters
    ]
    return replace(page, first=first, chapters=chapters)
