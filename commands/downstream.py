"""Commands of downstream tasks: probes of labels, and pretrained heads fed with other spaces."""

from pathlib import Path
from typing import Annotated

import typer

from featcache.commands.options import CacheOption, DatasetArgument, JsonOption

ArraysArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARRAY", help="Cached arrays: [view/]encoder[/layer.pooling][@digest]; none or more."),
]
RunOption = Annotated[
    list[Path] | None,
    typer.Option("--run", metavar="DIR", help="A run folder: its raw, adapted and joint spaces; several times."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of every draw.", min=0)]
HalvesOption = Annotated[
    int, typer.Option(help="Random halves of the test groups behind intervals of differences; even.", min=20)
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write a tidy table here, as Parquet: replaced if it is there."),
]


def probe(
    dataset: DatasetArgument,
    arrays: ArraysArgument = None,
    run: RunOption = None,
    label: Annotated[
        str | None, typer.Option(metavar="NAME", help="Label column to predict. Default: the data set's first.")
    ] = None,
    k: Annotated[int, typer.Option(help="Neighbours that vote.", min=1)] = 20,
    label_view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW",
            help="A view that is made from the label, such as prompts of class names: no probed space may have seen "
            "it. Several times; those of the packaged data sets are known.",
        ),
    ] = None,
    width: Annotated[int, typer.Option(help="Of random projections; a run has its own.", min=1)] = 256,
    halves: HalvesOption = 200,
    seed: SeedOption = 0,
    out: OutOption = None,
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Read a label off cached spaces: linear probe, nearest neighbours and zero-shot, test groups once.

    Beside each run stand its raw sides, its reference, the same adapters untrained and random projections. A space that
    has seen a view made from the label is left out, and the output says so.
    """
    from featcache.cache import open_cache
    from featcache.report.downstream import show_task
    from featcache.report.progress import step_progress
    from featcache.studies.downstream.probe import ProbeSettings
    from featcache.studies.downstream.probe import probe as probe_spaces

    settings = ProbeSettings(label, k, label_views=tuple(label_view or ()), width=width, halves=halves, seed=seed)
    with step_progress("probing") as on_space:
        result = probe_spaces(open_cache(cache), dataset, arrays or (), run or (), settings, out=out, on_space=on_space)
    show_task(result, as_json=json)
