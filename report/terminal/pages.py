"""What `report` wrote, on the terminal: the answer, where the page is, and what of the inputs it does not show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.report.terminal.console import console
from featcache.report.terminal.fitted import print_parts

if TYPE_CHECKING:
    from featcache.report.inputs import Inputs


def show_page(
    page: Path, inputs: "Inputs", studies: Mapping[str, object], *, notes: Sequence[str] = (), study: Sequence[str] = ()
) -> None:
    """Prints the answer of the headline run or of a study, and the places of the page, its figures and its appendix.

    Args:
        page: The page.
        inputs: What it was made of.
        studies: Figures of everything but runs, by heading.
        study: The answer of a study that has a page of its own, in sentences.
        notes: What else to say on stderr.
    """
    from featcache.report.answer import answer
    from featcache.report.seeds import headline_run, pool_seeds

    if inputs.runs:
        first, _ = headline_run(pool_seeds(inputs.runs))
        console().print(f"{answer(first)}.")
    for sentence in study:
        print_parts(sentence.split(" "))
    console().print(f"Page: {page}\nFigures: {page.parent / 'figures'}")
    if inputs.runs:
        console().print(f"Appendix in Markdown: {page.parent / 'appendix.md'}")
    if inputs.of_kind("cost") and "Quality against cost" not in studies:
        console(stderr=True).print(
            "Of the costs nothing is drawn: no two encoders that they are of are references or sides of a sweep here."
        )
    for note in notes:
        console(stderr=True).print(note)
