"""A page of a study without runs: its question, its answer, and chapters of figures with what follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featcache.report.figures.figure import Figure, escape
from featcache.report.page.chapters import Chapter
from featcache.report.page.html import bullets


@dataclass(frozen=True, eq=False)
class StudyPage:
    """What such a page says.

    Args:
        question: Its title.
        answer: What stands on the first screen, in sentences.
        facts: Name -> text, or several for a list, beside the first figure.
        first: The figure of the first screen.
        chapters: The rest.
    """

    question: str
    answer: Sequence[str]
    facts: Mapping[str, str | Sequence[str]] = field(default_factory=lambda: {})
    first: Figure | None = None
    chapters: Sequence[Chapter] = ()


def figures_of(study: StudyPage) -> list[Figure]:
    """Every figure of a study's page, in page order."""
    figures = [study.first, *(figure for each in study.chapters for part in each.parts for figure in part.figures)]
    return [figure for figure in figures if figure is not None]


def brief_html(study: StudyPage) -> str:
    """The facts beside the first figure."""
    rows = [
        (name, escape(text) if isinstance(text, str) else bullets(text, css="caveats"))
        for name, text in study.facts.items()
        if text
    ]
    body = "".join(f"<dt>{escape(name)}</dt><dd>{text}</dd>" for name, text in rows)
    return f'<dl class="brief">{body}</dl>' if body else ""
