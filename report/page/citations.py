"""Licences and citations of what the runs of a page rest on, as a table and as BibTeX."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featcache.data.citations import HUH_2024
from featcache.data.datasets import known_entry, source_text
from featcache.provenance import library_version
from featcache.report.figures.figure import escape
from featcache.report.runs import RunResults, metric_title, metrics_of

if TYPE_CHECKING:
    from featcache.encoders.spec import EncoderSpec

_ENTRY = re.compile(r"@[A-Za-z]+\s*\{\s*([^\s,{}]+)\s*,")
_RANDOM = re.compile(r"-random\d+$")
_NONE = "none declared"
METRIC_SOURCES = {  # of those that runs have, as featcache.metrics.METRICS says; that would import torch
    "mutual_knn": "Huh et al. 2024, arXiv:2405.07987",
    "cka_debiased": "Song et al. 2012, JMLR 13",
    "cka_linear": "Kornblith et al. 2019, arXiv:1905.00414",
}
# as CITATION.cff at the root of the repository has it, which is no part of the installed package
_FEATCACHE = """@software{{featcache,
  title = {{featcache: a feature cache and lightweight trainer for representational alignment}},
  author = {{{{The featcache authors}}}},
  version = {{{version}}}
}}
"""


@dataclass(frozen=True)
class Source:
    """Something that the runs rest on.

    Args:
        kind: "encoder", "data set", "metric" or "software".
        name: What the runs call it.
        licence: Its terms, or why they are not known.
        citation: BibTeX, or "".
        note: What else to know of the citation.
    """

    kind: str
    name: str
    licence: str
    citation: str = ""
    note: str = ""


def citations_html(runs: Sequence[RunResults]) -> str:
    """A table of the licence and the citation keys of everything that the runs rest on, and the BibTeX folded below.

    Args:
        runs: From `load_runs` or `pool_seeds`.
    """
    head = "".join(f'<th scope="col">{name}</th>' for name in ("source", "what", "licence", "cite as"))
    lines = "".join(_line(source) for source in sources(runs))
    return (
        f'<div class="scroll"><table class="sources"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>\n"
        f'<details class="bibtex"><summary>BibTeX of all of them</summary>\n'
        f"<pre>{escape(citations_bibtex(runs))}</pre></details>"
    )


def citations_bibtex(runs: Sequence[RunResults]) -> str:
    """BibTeX of everything that the runs rest on, each key once: of two entries of one key, the first.

    Text that is no BibTeX entry, as an entry of the user's own may have, is left out: it would break the file.
    """
    entries: dict[str, str] = {}
    for source in sources(runs):
        for key, text in bibtex_entries(source.citation):
            entries.setdefault(key, text)
    return "\n".join(f"{text}\n" for text in entries.values())


def bibtex_entries(text: str) -> list[tuple[str, str]]:
    """Key and text of each entry of a BibTeX text whose braces are balanced; what lies between entries is passed over.

    Example:
        >>> bibtex_entries("@misc{a, title = {One {T}wo}} and @misc{b, title = {never closed}")
        [('a', '@misc{a, title = {One {T}wo}}')]
    """
    entries: list[tuple[str, str]] = []
    start = 0
    while match := _ENTRY.search(text, start):
        end = _closing(text, match.start())
        if end is None:
            start = match.end()
        else:
            entries.append((match[1], text[match.start() : end]))
            start = end
    return entries


def sources(runs: Sequence[RunResults]) -> list[Source]:
    """What the runs rest on: encoders of sides and references, data sets, metrics, featcache; each once."""
    return list(dict.fromkeys([*_encoders(runs), *_data_sets(runs), *_metrics(runs), _software()]))


def _encoders(runs: Sequence[RunResults]) -> Iterator[Source]:
    specs = _declared()
    arrays = [array for run in runs for array in (*run.config["sides"].values(), run.reference) if array]
    for name in dict.fromkeys(str(array["encoder"]) for array in arrays):
        spec = specs.get(name) or specs.get(_RANDOM.sub("", name))
        if spec is None:
            yield Source("encoder", name, "not known here: no encoder of this name is declared, or any more")
        else:
            note = "" if spec.name == name else f"its architecture with random weights: {spec.name}"
            yield Source("encoder", name, spec.licence, spec.citation, note)


def _declared() -> "dict[str, EncoderSpec]":
    from featcache.encoders.spec import encoder_specs, packaged_specs
    from featcache.errors import UsageError

    try:
        return encoder_specs()
    except UsageError:  # of the user's own entries, which `featcache encoders` shows
        return packaged_specs()


def _data_sets(runs: Sequence[RunResults]) -> Iterator[Source]:
    for name in dict.fromkeys(str(run.config.get("dataset", "")) for run in runs):
        entry = known_entry(name)
        if entry is None and source_text(name).startswith("hub:"):
            yield Source("data set", name, f"a data set of the Hub, {source_text(name)}; its card states its terms")
        elif entry is None or entry.name == "folder":
            yield Source("data set", name, "a folder of somebody's own; its terms are theirs")
        else:
            yield Source("data set", name, entry.licence, entry.citation)


def _metrics(runs: Sequence[RunResults]) -> Iterator[Source]:
    for name in metrics_of(runs):
        if name in METRIC_SOURCES:
            source = METRIC_SOURCES[name]
            citation = HUH_2024 if "arXiv:2405.07987" in source else ""
            yield Source("metric", metric_title(name), "", citation, source)


def _software() -> Source:
    version = library_version("featcache") or "unknown"
    return Source("software", "featcache", "MIT", _FEATCACHE.format(version=version))


def _line(source: Source) -> str:
    keys = ", ".join(f"<code>{escape(key)}</code>" for key, _ in bibtex_entries(source.citation))
    note = f"<small>{escape(source.note)}</small>" if source.note else ""
    cite = (keys or (_NONE if not source.note else "")) + note
    return (
        f'<tr><th scope="row">{escape(source.name)}</th><td>{source.kind}</td><td>{escape(source.licence)}</td>'
        f"<td>{cite}</td></tr>"
    )


def _closing(text: str, start: int) -> int | None:
    """Place behind the brace that closes the first one from `start` on; None where none does."""
    depth = 0
    for place in range(text.index("{", start), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return None
