"""Commands of downstream tasks: probes of labels, and pretrained heads fed with other spaces."""

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

ArraysArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARRAY",
        autocompletion=complete_array,
        help="Cached arrays: [view/]encoder[/layer.pooling][@digest]; none or more, in probe with globs, "
        "or encoder/auto: the layer that says most of the label on validation groups or inner folds.",
    ),
]
RunOption = Annotated[
    list[Path] | None,
    typer.Option("--run", metavar="DIR", help="A run folder: its raw, adapted and joint spaces; several times."),
]
WidthOption = Annotated[int, typer.Option(help="Of random projections; a run has its own.", min=1)]
HalvesOption = Annotated[
    int, typer.Option(help="Random halves of the test groups behind intervals of differences; even.", min=20)
]


def probe(
    dataset: DatasetArgument,
    arrays: ArraysArgument = None,
    run: RunOption = None,
    label: Annotated[
        str | None,
        typer.Option("--labels", "--label", metavar="NAME", help="Label column. Default: the data set's first."),
    ] = None,
    k: Annotated[
        str | None,
        typer.Option(
            metavar="K,K",
            help="Neighbours that vote; of several the best on validation is compared, and all are told. Default: "
            "DINO's 10,20,100,200, as far as there are training groups.",
        ),
    ] = None,
    shots: Annotated[
        str, typer.Option(metavar="N,N", help="Few-shot: training groups a class that have a label; none for none.")
    ] = "1,5,10",
    draws: Annotated[int, typer.Option(help="Draws of these groups.", min=2)] = 10,
    folds: Annotated[
        int, typer.Option(help="Inner folds of the training groups that choose, without a validation split.", min=3)
    ] = 5,
    label_view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW",
            help="A view that is made from the label, such as prompts of class names: no probed space may have seen "
            "it. Several times; those of the packaged data sets are known.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="ARRAY",
            help="Zero-shot by prompts of the classes: of raw arrays whose space the text encoder shares (CLIP's), and "
            "of a run by its text side's encoder, whose view prompts is found by itself.",
        ),
    ] = None,
    width: WidthOption = 256,
    halves: HalvesOption = 200,
    seed: SeedOption = 0,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the accuracies: .png or .svg.")] = None,
    out: TableOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    cache: CacheOption = None,
) -> None:
    """Read a label off cached spaces: linear probes, nearest neighbours, few-shot and zero-shot, test groups once.

    Beside each run stand its raw sides, its reference, the same adapters untrained and random projections. A space that
    has seen a view made from the label is left out, and the output says so.
    """
    from featcache.cache import open_cache
    from featcache.report.figures.layer_map import check_figure_path
    from featcache.report.terminal.downstream import show_task
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.downstream.probe import probe as probe_spaces
    from featcache.studies.downstream.settings import ProbeSettings, parse_numbers

    check_figure_path(figure)
    settings = ProbeSettings(
        label, parse_numbers(k, "--k"), label_views=tuple(label_view or ()), width=width, halves=halves, seed=seed,
        shots=parse_numbers(shots, "--shots") or (), draws=draws, folds=folds, prompts=prompts,
    )  # fmt: skip
    with step_progress("probing") as on_space:
        result = probe_spaces(open_cache(cache), dataset, arrays or (), run or (), settings, out=out, on_space=on_space)
    show_task(result, as_json=json, verbose=verbose)
    if figure is not None:
        from featcache.report.figures.probe import draw_probe

        draw_probe(result, figure)
        echo(f"Figure: {figure}", err=json)


def heads(
    dataset: DatasetArgument,
    backbone: Annotated[
        str, typer.Argument(metavar="BACKBONE", help="[view/]encoder that the head was trained on, every layer cached.")
    ],
    head: Annotated[
        Path,
        typer.Argument(metavar="HEAD", help="DINOv2's published .pth, a .safetensors, or a folder as transformers'."),
    ],
    arrays: ArraysArgument = None,
    run: RunOption = None,
    norm: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Checkpoint of the backbone with its final norm, for heads of four layers. Default: the head's own "
            "file if it has it, else solved from the cached last block.",
        ),
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(help="Blocks that the head reads, from 1, as in 3,6,9,12. Default: the published.")
    ] = None,
    untrained: Annotated[
        str | None,
        typer.Option(
            metavar="ENCODER", help="The backbone with random weights, a control. Default: BACKBONE-random0, if cached."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Label column that numbers the head's outputs. Default: index, if there."),
    ] = None,
    width: WidthOption = 256,
    halves: HalvesOption = 200,
    seed: SeedOption = 0,
    out: TableOption = None,
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Feed a pretrained linear head with other spaces: a ridge map to its input, then the head.

    Shows how often it decides as on its own features, beside a random map, shuffled pairs, unimodal spaces and an
    untrained backbone; with labels, its accuracy too.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.downstream import show_task
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.downstream.heads import HeadSettings, feed_head, parse_blocks

    settings = HeadSettings(norm, parse_blocks(blocks), untrained, label, width=width, halves=halves, seed=seed)
    spaces = arrays or (), run or ()
    with step_progress("feeding the head from") as on_space:
        result = feed_head(open_cache(cache), dataset, backbone, head, *spaces, settings, out=out, on_space=on_space)
    show_task(result, as_json=json, verbose=True)
