"""The report: one HTML page that answers first, then shows and proves, and loads nothing."""

import os
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from featcache.errors import UsageError
from featcache.report.answer import question
from featcache.report.certainty import certainty, choice, warnings, whole_answer
from featcache.report.figures.figure import Figure, escape, require_renderer
from featcache.report.page.chapters import COLUMNS, Chapter, Part, chapters
from featcache.report.page.citations import citations_bibtex, citations_html
from featcache.report.page.html import bullets, figure_html, folded, resource
from featcache.report.page.leaks import clean_html
from featcache.report.page.provenance import provenance_html, setup_html
from featcache.report.page.reading import reading_html
from featcache.report.page.samples import Samples
from featcache.report.page.tables import alignment_html, headline_first, retrieval_html, run_heading, verdicts_html
from featcache.report.page.widgets import page_script
from featcache.report.runs import RunResults, known_formats, load_runs
from featcache.report.seeds import headline_run, pool_seeds
from featcache.report.sentences import findings
from featcache.storage.outputs import named_output_errors, write_output

if TYPE_CHECKING:
    from featcache.studies.exhibits import Exhibits

PAGE = "index.html"
BIBTEX = "citations.bib"
# of a page of ours: the second is that of pages before the first
_MARKS = (b'<meta name="generator" content="featcache">', b'<p class="eyebrow">Alignment report</p>')
_HEAD_BYTES = 65_536


def write_report(
    runs: Sequence[Path | str | RunResults],
    out: Path,
    *,
    formats: Sequence[str] = ("png", "svg"),
    exhibits: "Exhibits | None" = None,
) -> Path:
    """Writes the page of one or several runs, its figures and the data behind each figure.

    Args:
        runs: Run folders, or loaded runs.
        out: Folder to write to; made if missing. Files of the same names are replaced.
        formats: Figure files to write beside the page, of "png" and "svg"; the data is always written as CSV.
        exhibits: Captions and thumbnails of the headline run.

    Returns:
        The path of the page, `out`/index.html; the figures stand in `out`/figures, the BibTeX of what the runs rest on
        in `out`/citations.bib.

    Raises:
        RunMissing: If a folder is not there or `runs` is empty.
        RunDamaged: If a folder is not a whole run.
        UsageError: If a format is unknown, the libraries that draw are not installed, or somebody else's page stands
            in `out`.
        OutputFailed: If the files cannot be written.
    """
    formats = known_formats(formats)
    check_page_place(out)
    loaded = pool_seeds(load_runs(runs))
    require_renderer()
    folder = Path(out) / "figures"
    with named_output_errors(Path(out)):
        folder.mkdir(parents=True, exist_ok=True)
        drawn = _Drawn(folder, formats)
        parts = _parts(loaded, drawn, exhibits)
        (Path(out) / BIBTEX).write_text(citations_bibtex(loaded), encoding="utf-8")
    page = Path(out) / PAGE
    write_output(page, Template(resource("page.html")).substitute(parts).encode())
    return page


class _Drawn:
    """Writes figures and keeps them in page order."""

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self.folder = folder
        self.formats = formats
        self.figures: list[Figure] = []

    def html(self, figure: Figure | None) -> str:
        """The figure for the page; "" for None."""
        if figure is None:
            return ""
        self.figures.append(figure)
        return figure_html(figure, self.folder, self.formats)


def _parts(runs: Sequence[RunResults], drawn: _Drawn, exhibits: "Exhibits | None") -> dict[str, str]:
    """What stands in the places of page.html."""
    from featcache.report.figures.verdicts import hero

    first, _ = headline_run(runs)
    samples = Samples(exhibits)
    every = chapters(runs, samples)
    return {
        "title": escape(question(runs)),
        "style": resource("page.css") + resource("widgets.css"),
        "script": page_script(),
        "answer": escape(whole_answer(first)),
        "hero": drawn.html(hero(runs)),
        "brief": _brief(runs, first),
        "contents": "".join(f'<li><a href="#{each.identity}">{each.title}</a></li>' for each in every),
        "chapters": "\n".join(_chapter(each, drawn) for each in every),
        "pictures": samples.html(),
        "tables": _tables(runs),
        "setup": setup_html(runs),
        "reading": reading_html(runs),
        "provenance": provenance_html(runs),
        "citations": citations_html(runs),
    }


def _brief(runs: Sequence[RunResults], first: RunResults) -> str:
    """How sure, which run, and what to beware of, beside the hero."""
    rows = [("How sure?", escape(certainty(first)))]
    rows += [("Which run?", escape(choice(runs)))] if len(runs) > 1 else []
    rows += [("Beware", bullets(warnings(runs), css="caveats"))] if warnings(runs) else []
    return "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows)


def _chapter(chapter: Chapter, drawn: _Drawn) -> str:
    parts = "\n".join(_part(part, drawn) for part in chapter.parts)
    return (
        f'<section aria-labelledby="{chapter.identity}">\n<h2 id="{chapter.identity}">{chapter.title}</h2>\n'
        f"{parts}\n</section>"
    )


def _part(part: Part, drawn: _Drawn) -> str:
    figures = [drawn.html(figure) for figure in part.figures]
    lead, *others = [html for html in figures if html] or [""]
    sentences = f"<p>{escape(' '.join(part.sentences))}</p>" if part.sentences else ""
    heading = f'<h3 class="part">{escape(part.title)}</h3>' if part.title else ""
    return "\n".join(filter(None, [heading, lead, sentences, *part.widgets, *others]))


def _tables(runs: Sequence[RunResults]) -> str:
    """Every table, folded; of many runs those of the headline run."""
    shown = runs if len(runs) <= COLUMNS else [headline_run(runs)[0]]
    against = any(run.reference for run in shown)
    clean = "".join(clean_html(run, run_heading(run, runs) if len(runs) > 1 else "") for run in headline_first(shown))
    blocks = [
        folded("Verdicts, test split", verdicts_html(shown) if against else "", identity="verdicts-table"),
        folded("Alignment of every space, test split", alignment_html(shown), identity="alignment-table"),
        folded("Retrieval, test split", retrieval_html(shown), identity="retrieval-table"),
        folded("The clean part of the test split", clean, identity="clean-table"),
        folded("Everything in sentences", bullets(findings(shown)), identity="findings"),
    ]
    return "\n".join(filter(None, blocks))


def check_page_place(out: Path) -> None:
    """Refuses, before anything is read or measured, a folder whose page is not one of ours.

    Raises:
        UsageError: If such a page stands there, or `out` is a file.
    """
    page = Path(out) / PAGE
    try:
        head = page.read_bytes()[:_HEAD_BYTES]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"no page can be written to {out}: {os.strerror(error.errno or 0)}. Name a folder") from error
    if not any(mark in head for mark in _MARKS):
        raise UsageError(
            f"{page} is no page of featcache, and was left as it is\n  Name another folder, or move that page away"
        )
