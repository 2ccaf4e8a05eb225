"""The report: one HTML page that answers first, then shows and proves, and loads nothing."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from featcache.errors import UsageError
from featcache.report.answer import question
from featcache.report.certainty import certainty, choice, warnings, whole_answer
from featcache.report.figures.figure import Figure, escape, require_renderer
from featcache.report.figures.render import Renderers
from featcache.report.page.appendix import appendix
from featcache.report.page.chapters import COLUMNS, Chapter, Part, chapters
from featcache.report.page.citations import citations_bibtex, citations_html
from featcache.report.page.comparison import comparison_html
from featcache.report.page.html import bullets, figure_html, folded, resource
from featcache.report.page.leaks import clean_html
from featcache.report.page.provenance import provenance_html, setup_html
from featcache.report.page.reading import reading_html
from featcache.report.page.runs_table import runs_table
from featcache.report.page.samples import Samples
from featcache.report.page.study import StudyPage, brief_html, figures_of
from featcache.report.page.tables import alignment_html, headline_first, retrieval_html, run_heading, verdicts_html
from featcache.report.page.widgets import page_script
from featcache.report.runs import RunResults, known_formats, load_runs
from featcache.report.seeds import headline_run, pool_seeds
from featcache.report.sentences import findings, listed
from featcache.storage.outputs import named_output_errors, write_output

if TYPE_CHECKING:
    from featcache.studies.adapters.comparison import Comparison
    from featcache.studies.exhibits import Exhibits

PAGE = "index.html"
BIBTEX, APPENDIX = "citations.bib", "appendix.md"
_PLACES = (  # of page.html, but for style and script
    *("title", "answer", "hero", "brief", "contents", "comparison", "runs", "chapters", "studies"),
    *("tables", "sources", "pictures"),
)
# of a page of ours: the second is that of pages before the first
_MARKS = (b'<meta name="generator" content="featcache">', b'<p class="eyebrow">Alignment report</p>')
TABLES = "Tables"  # heading of the figures of tables that speak for themselves
_HEAD_BYTES = 65_536
_FEW = 4  # names of studies in a title


def write_report(
    runs: Sequence[Path | str | RunResults],
    out: Path,
    *,
    formats: Sequence[str] = ("png", "svg"),
    exhibits: "Exhibits | None" = None,
    comparison: "Comparison | None" = None,
    studies: Mapping[str, Sequence[Figure]] | None = None,
    study: StudyPage | None = None,
) -> Path:
    """Writes the page of runs, and of what else was measured, its figures and the data behind each figure.

    Args:
        runs: Run folders, or loaded runs; none, where there are `studies` or a `study`.
        out: Folder to write to; made if missing. Files of the same names are replaced.
        formats: Figure files to write beside the page, of "png" and "svg"; the data is always written as CSV.
        exhibits: Captions and thumbnails of the headline run.
        comparison: Of two of the runs, from `featcache.studies.adapters.comparison`; its section comes first.
        studies: Heading -> figures of sweeps, ledgers and other tables.
        study: A page of its own: without runs its question and answer come first; below runs, its chapters.

    Returns:
        The path of the page, `out`/index.html; the figures stand in `out`/figures, the BibTeX of what the runs rest on
        in `out`/citations.bib, and the tables of a paper's appendix in `out`/appendix.md.

    Raises:
        RunMissing: If a folder is not there, or `runs` is empty and there is nothing else.
        RunDamaged: If a folder is not a whole run.
        UsageError: If a format is unknown, the libraries that draw are not installed, or somebody else's page stands
            in `out`.
        OutputFailed: If the files cannot be written.
    """
    formats = known_formats(formats)
    check_page_place(out)
    loaded = pool_seeds(load_runs(runs)) if runs or not (studies or study) else []
    require_renderer()
    folder = Path(out) / "figures"
    with named_output_errors(Path(out)), Renderers(formats) as renderers:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = _Drawn(folder, formats, renderers)
        parts = dict.fromkeys(_PLACES, "") | {"style": _style(), "script": page_script()}
        if loaded:
            parts |= _of_runs(loaded, drawn, exhibits, comparison)
            (Path(out) / BIBTEX).write_text(citations_bibtex(loaded), encoding="utf-8")
        parts = _joined(parts, _of_study(study, drawn, alone=not loaded) if study else {})
        parts = _joined(parts, _of_studies(studies or {}, drawn, alone=not (loaded or study)))
        if loaded:
            text = appendix(loaded, drawn.files(), comparison)
            (Path(out) / APPENDIX).write_text(text, encoding="utf-8")
    page = Path(out) / PAGE
    write_output(page, Template(resource("page.html")).substitute(parts).encode())
    return page


class _Drawn:
    """Draws and writes figures, and keeps them in page order."""

    def __init__(self, folder: Path, formats: Sequence[str], renderers: Renderers) -> None:
        self.folder = folder
        self.formats = formats
        self.renderers = renderers
        self.figures: list[Figure] = []

    def begun(self, figures: Iterable[Figure | None]) -> list[Figure]:
        """The figures that there are; they begin to be drawn."""
        there = [figure for figure in figures if figure is not None]
        for figure in there:
            self.renderers.start(figure)
        return there

    def files(self) -> list[tuple[str, str, str]]:
        """Title, caption and picture of each figure, as its CSV where no picture is written."""
        suffix = "svg" if "svg" in self.formats else "png" if "png" in self.formats else "csv"
        return [(one.title, one.caption, f"figures/{one.name}.{suffix}") for one in self.figures]

    def html(self, figure: Figure | None, instead: str = "") -> str:
        """The figure for the page, what stands instead of its drawing if anything does; "" for None."""
        if figure is None:
            return ""
        self.figures.append(figure)
        self.renderers.finish(figure)
        return figure_html(figure, self.folder, self.formats, instead)


def _style() -> str:
    return resource("page.css") + resource("widgets.css")


def _of_runs(
    runs: Sequence[RunResults], drawn: _Drawn, exhibits: "Exhibits | None", comparison: "Comparison | None"
) -> dict[str, str]:
    """What stands in the places of page.html of runs."""
    from featcache.report.figures.verdicts import hero

    first, _ = headline_run(runs)
    samples, every = Samples(exhibits), list[Chapter]()
    lead, compared = drawn.begun([hero(runs)]), drawn.begun(_figures_compared(runs))
    for chapter in chapters(runs, samples):
        drawn.begun(figure for part in chapter.parts for figure in part.figures)
        every.append(chapter)
    # words and tables while figures are drawn, then the figures in page order
    return {
        "title": escape(question(runs)),
        "answer": f'<p class="lead" id="verdict">{escape(whole_answer(first))}</p>',
        "brief": f'<dl class="brief">{_brief(runs, first)}</dl>',
        "contents": _contents(every, several=len(runs) > 1),
        "tables": _section("tables", "Tables", _tables(runs)),
        "sources": _section("sources", "How to read this, and sources", _sources(runs)),
        "hero": "".join(drawn.html(figure) for figure in lead),
        "comparison": _comparison(comparison, drawn),
        "runs": _compared(runs, compared, drawn),
        "chapters": "\n".join(_chapter(each, drawn) for each in every),
        "pictures": samples.html(),
    }


def _contents(every: Sequence[Chapter], *, several: bool) -> str:
    links = {"runs": "Runs compared"} if several else {}
    links |= {each.identity: each.title for each in every} | {"tables": "Tables", "sources": "Reading and sources"}
    return "".join(f'<li><a href="#{identity}">{title}</a></li>' for identity, title in links.items())


def _sources(runs: Sequence[RunResults]) -> str:
    """Metrics and terms, settings, provenance, licences and citations: all folded."""
    return "\n".join(
        [
            folded("Metrics and terms", reading_html(runs), identity="reading"),
            folded("What was asked: features, groups, settings", setup_html(runs), identity="setup"),
            folded("Provenance: folders, hashes, versions", provenance_html(runs), identity="provenance"),
            folded("Licences and citations", citations_html(runs), identity="citations"),
        ]
    )


def _comparison(comparison: "Comparison | None", drawn: _Drawn) -> str:
    if comparison is None:
        return ""
    from featcache.report.figures.comparison import comparison_figure

    return comparison_html(comparison, drawn.html(comparison_figure(comparison)))


def _figures_compared(runs: Sequence[RunResults]) -> list[Figure | None]:
    """Figures of all runs at once: few of few runs, none of one."""
    from featcache.report.figures.choices import adapter_bars
    from featcache.report.figures.many import many_figures

    if len(runs) < 2:
        return []
    return [*many_figures(runs)] if len(runs) > COLUMNS else [adapter_bars(runs)]


def _compared(runs: Sequence[RunResults], figures: Sequence[Figure], drawn: _Drawn) -> str:
    """The section that compares several runs: their table, and figures of all; "" for one."""
    if len(runs) < 2:
        return ""
    pieces = [runs_table(runs), *(drawn.html(figure) for figure in figures)]
    return _section("runs", "Runs compared", "\n".join(pieces))


def _joined(parts: dict[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """What stands in each place: of contents and studies both, one after the other."""
    both = ("contents", "studies")
    return parts | {name: parts[name] + text if name in both else text for name, text in more.items()}


def _of_study(study: StudyPage, drawn: _Drawn, *, alone: bool) -> dict[str, str]:
    """The chapters of a study's page; alone on a page, its question and answer too."""
    drawn.begun(figures_of(study))
    first = drawn.html(study.first)
    chapters = "\n".join(_chapter(each, drawn) for each in study.chapters)
    links = "".join(f'<li><a href="#{each.identity}">{escape(each.title)}</a></li>' for each in study.chapters)
    if not alone:
        return {"contents": links, "studies": first + chapters}
    return {
        "title": escape(study.question),
        "answer": f'<p class="lead" id="verdict">{escape(" ".join(study.answer))}</p>' if study.answer else "",
        "hero": first,
        "brief": brief_html(study),
        "contents": links,
        "studies": chapters,
    }


def _of_studies(studies: Mapping[str, Sequence[Figure]], drawn: _Drawn, *, alone: bool) -> dict[str, str]:
    """Figures of sweeps, ledgers and tables; alone on a page, its title and contents too."""
    drawn.begun(figure for figures in studies.values() for figure in figures)
    numbered = {f"study-{number}": heading for number, heading in enumerate(studies)}
    sections = "\n".join(
        _section(identity, escape(heading), "\n".join(drawn.html(figure) for figure in studies[heading]))
        for identity, heading in numbered.items()
    )
    links = "".join(f'<li><a href="#{identity}">{escape(heading)}</a></li>' for identity, heading in numbered.items())
    if not alone:
        return {"studies": sections, "contents": links}
    if [*studies] == [TABLES]:  # they have no question of their own, their figures have
        figures = studies[TABLES]
        links = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in figures)
        more = f", and {len(figures) - 1} more" if len(figures) > 1 else ""
        return {"studies": sections, "title": escape(figures[0].title + more), "contents": links}
    names = [heading.partition(": ")[0] for heading in studies]
    shown = [*names[:_FEW], f"{len(names) - _FEW} more"] if len(names) > _FEW + 1 else names
    title = next(iter(studies)) if len(studies) == 1 else f"A study: {listed(shown)}"
    return {"studies": sections, "title": escape(title), "contents": links}


def _section(identity: str, heading: str, content: str) -> str:
    return f'<section aria-labelledby="{identity}">\n<h2 id="{identity}">{heading}</h2>\n{content}\n</section>'


def _brief(runs: Sequence[RunResults], first: RunResults) -> str:
    """How sure, which run, and what to beware of, beside the hero."""
    rows = [("How sure?", escape(certainty(first)))]
    if first.seeds:
        seed = first.each[0].settings.get("seed")
        drawn = f"Scores are means over seeds; planes, maps, kernels, neighbours and queries are of seed {seed} alone."
        rows.append(("Drawn", escape(drawn)))
    rows += [("Which run?", escape(choice(runs)))] if len(runs) > 1 else []
    rows += [("Beware", bullets(warnings(runs), css="caveats"))] if warnings(runs) else []
    return "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows)


def _chapter(chapter: Chapter, drawn: _Drawn) -> str:
    parts = "\n".join(_part(part, drawn) for part in chapter.parts)
    return _section(chapter.identity, chapter.title, parts)


def _part(part: Part, drawn: _Drawn) -> str:
    figures = [drawn.html(figure, part.instead.get(figure.name, "")) for figure in part.figures if figure is not None]
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
