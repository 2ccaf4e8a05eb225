"""Chapters of the emergence page beside encoders trained apart: contrast, dials on real data, MultiBench, digits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featcache.report.figures.figure import Figure
from featcache.report.page.chapters import Chapter, Part

if TYPE_CHECKING:
    import polars as pl

    from featcache.report.inputs import InputTable

Tables = Sequence["InputTable"]


@dataclass(frozen=True)
class _Other:
    """A chapter: the kinds of tables that it is of, and what draws those of one folder."""

    title: str
    kinds: tuple[str, ...]
    draw: Callable[[Tables], list[Figure]]


def other_chapters(tables: Tables) -> list[Chapter]:
    """The chapters that some tables have, a part a folder.

    Args:
        tables: Of any kinds.
    """
    chapters: list[Chapter] = []
    for other in _OTHERS:
        own = [one for one in tables if one.kind in other.kinds]
        folders = dict.fromkeys(one.path.parent for one in own)
        parts = [
            Part("/".join(folder.parts[-3:]) if len(folders) > 1 else "", tuple(figures), ())
            for folder in folders
            if (figures := other.draw([one for one in own if one.path.parent == folder]))
        ]
        if parts:
            identity = f"emergence-{other.kinds[0].replace(' ', '-')}"
            chapters.append(Chapter(identity, other.title, tuple(parts)))
    return chapters


def _by_kind(tables: Tables) -> "Mapping[str, pl.DataFrame]":
    return {one.kind: one.rows for one in tables}


def _together(tables: Tables) -> list[Figure]:
    from featcache.report.figures.together import together_figures

    own = _by_kind(tables)
    return together_figures(own["together effects"], own["together kept"]) if len(own) == 2 else []


def _dial(tables: Tables) -> list[Figure]:
    from featcache.report.figures.dials import dial_figures

    own = _by_kind(tables)
    parts = (own.get(f"dial {name}") for name in ("correlations", "performance", "bits"))
    return dial_figures(own["dial alignment"], *parts) if "dial alignment" in own else []


def _multibench(tables: Tables) -> list[Figure]:
    from featcache.report.figures.multibench import multibench_figures

    return [figure for one in tables for figure in multibench_figures(one.rows)]


def _spoken_digits(tables: Tables) -> list[Figure]:
    from featcache.report.figures.spoken_digits import spoken_digits_figure

    figures = [spoken_digits_figure(one.rows) for one in tables if len(one.rows) > 1]
    return [figure for figure in figures if figure is not None]


_OTHERS = (
    _Other("What does contrast add, and what does it take away?", ("together effects", "together kept"), _together),
    _Other(
        "Dials on real captions and pictures",
        ("dial alignment", "dial correlations", "dial performance", "dial bits"),
        _dial,
    ),
    _Other("MultiBench", ("multibench",), _multibench),
    _Other("Digit images and spoken digits", ("spoken digits",), _spoken_digits),
)
OTHER_KINDS = tuple(kind for other in _OTHERS for kind in other.kinds)
