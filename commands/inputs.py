"""What the inputs of a report show besides its runs: the figures of sweeps, ledgers and tables, joins included."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featcache.report.figures.figure import Figure
    from featcache.report.inputs import Inputs
    from featcache.report.page.study import StudyPage


def figures_of_inputs(inputs: "Inputs") -> "dict[str, list[Figure]]":
    """The figures of everything but runs, by heading, in the order given; joins with costs are made here.

    Args:
        inputs: From `featcache.report.inputs.read_inputs`.

    Raises:
        UsageError: If costs are of several devices.
    """
    from featcache.report.figures.claims import ledger_figures
    from featcache.report.figures.quality import quality_figures
    from featcache.report.figures.study_figures import sweep_figures
    from featcache.report.figures.table_figures import competence_figure, table_figures
    from featcache.report.page.write import TABLES
    from featcache.studies.competence import correlation_of
    from featcache.studies.quality import quality_against_cost

    competences = inputs.of_kind("competence")
    costs = [table.rows for table in inputs.of_kind("cost")]
    scores = [sweep.tables.rows for sweep in inputs.sweeps]
    quality = quality_against_cost(scores, [table.rows for table in competences], costs)
    shown: dict[str, list[Figure]] = {}
    shown["Claims"] = [figure for one in inputs.ledgers for figure in ledger_figures(one.entries)]
    for sweep in inputs.sweeps:
        shown.setdefault(f"{sweep.name}: {sweep.question}", []).extend(sweep_figures(sweep))
    drawn = [competence_figure(table, correlation_of(table.rows)) for table in competences]
    shown["Competence"] = [figure for figure in drawn if figure is not None]
    shown["Quality against cost"] = quality_figures(quality)
    shown[TABLES] = table_figures(inputs.tables)
    return _named_apart({heading: figures for heading, figures in shown.items() if figures})


def emergence_of_inputs(inputs: "Inputs") -> "StudyPage | None":
    """The page of the study of emergence, what several generators say together included; None without its tables.

    Args:
        inputs: From `featcache.report.inputs.read_inputs`.
    """
    from featcache.report.page.emergence import emergence_study
    from featcache.studies.emergence.questions.parts import part_slopes

    return emergence_study(inputs.tables, part_slopes([table.rows for table in inputs.of_kind("maxima")]))


def check_drawn(inputs: "Inputs", studies: "Mapping[str, Sequence[Figure]]", study: "StudyPage | None" = None) -> None:
    """Refuses inputs of which nothing can be drawn.

    Raises:
        UsageError: If there are no runs and no figures.
    """
    from featcache.errors import UsageError
    from featcache.report.page.study import figures_of

    if not inputs.runs and not studies and not (study and figures_of(study)):
        named = ", ".join(str(table.path) for table in inputs.tables) or "what was named"
        raise UsageError(
            f"nothing to draw of {named}: costs are drawn beside the scores of a sweep or of competence\n"
            "  Name that sweep's folder too: featcache report study/references/quick costs.parquet"
        )


def _named_apart(shown: "dict[str, list[Figure]]") -> "dict[str, list[Figure]]":
    """The figures, those of a name that was taken with a number behind it: each is a file."""
    from dataclasses import replace

    taken: dict[str, int] = {}
    apart: dict[str, list[Figure]] = {}
    for heading, figures in shown.items():
        for figure in figures:
            figure = replace(figure, name=f"study-{figure.name}")  # no name of a run's figure or of the page itself
            again = taken[figure.name] = taken.get(figure.name, 0) + 1
            name = figure.name if again == 1 else f"{figure.name}-{again}"
            taken.setdefault(name, 1)
            apart.setdefault(heading, []).append(replace(figure, name=name))
    return apart
