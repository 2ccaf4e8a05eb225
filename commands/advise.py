"""The command that answers whether cached spaces should be aligned."""

from pathlib import Path
from typing import Annotated

import typer

from featcache.commands.completion import complete_array
from featcache.commands.options import (
    CacheOption,
    DatasetArgument,
    JsonOption,
    SeedOption,
    TableOption,
    VerboseOption,
    echo,
)


def advise(
    dataset: DatasetArgument,
    arrays: Annotated[
        list[str],
        typer.Argument(
            metavar="ARRAY", autocompletion=complete_array, help="[view/]encoder[/layer.pooling][@digest]; two or more."
        ),
    ],
    label: Annotated[
        str | None,
        typer.Option("--labels", "--label", metavar="NAME", help="Label column. Default: the data set's first."),
    ] = None,
    label_view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW",
            help="A view that is made from the label, such as prompts of class names: it is refused. Several times; "
            "those of the packaged data sets are known.",
        ),
    ] = None,
    use: Annotated[
        list[str] | None,
        typer.Option(
            metavar="joint|alone|few|transfer", help="A use to answer for; several times for several. Default: all."
        ),
    ] = None,
    groups: Annotated[
        int, typer.Option(help="Groups that take part, at most; drawn where there are more.", min=60)
    ] = 5000,
    folds: Annotated[int, typer.Option(help="Parts of the groups that are held out in turn.", min=3)] = 5,
    adapters: Annotated[int, typer.Option(help="Adapters trained for each fold.", min=2)] = 3,
    steps: Annotated[int, typer.Option(help="Training steps of each adapter.", min=1)] = 200,
    width: Annotated[int, typer.Option(help="Dimensions that adapters map into.", min=2)] = 256,
    seed: SeedOption = 0,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw effects and information: .png or .svg.")
    ] = None,
    out: TableOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    cache: CacheOption = None,
) -> None:
    """Answer whether cached spaces should be aligned, use by use: align, keep apart, with a private part, cannot tell.

    Uses: both read together, each alone, few labels (1, 5, 10 a class), trained on one and used on the other. Behind
    the answers stand usable information with bounds of redundancy, uniqueness and synergy, and what contrastive
    adapters do to held-out accuracy. Three arrays are judged by pairs.
    """
    from featcache.cache import open_cache
    from featcache.report.figures.layer_map import check_figure_path
    from featcache.report.terminal.advise import show_advice
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.advise.advise import advise as advise_on
    from featcache.studies.advise.settings import USES, AdviseSettings

    check_figure_path(figure)
    views = tuple(label_view or ())
    sizes = {"groups": groups, "folds": folds, "seeds": adapters, "steps": steps, "width": width}
    settings = AdviseSettings(label, tuple(use or USES), views, **sizes, seed=seed)
    with step_progress("training") as on_step:
        advice = advise_on(open_cache(cache), dataset, arrays, settings, out=out, on_step=on_step)
    show_advice(advice, as_json=json, verbose=verbose)
    if figure is not None:
        from featcache.report.figures.advice import draw_advice

        draw_advice(advice, figure)
        echo(f"Figure: {figure}", err=json)
