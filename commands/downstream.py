"""Commands of downstream tasks: probes of labels, and pretrained heads fed with other spaces."""

from pathlib import Path
from typing import Annotated

import typer

from featcache.commands.options import CacheOption, DatasetArgument, JsonOption, SeedOption, TableOption

ArraysArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARRAY", help="Cached arrays: [view/]encoder[/layer.pooling][@digest]; none or more."),
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
    width: WidthOption = 256,
    halves: HalvesOption = 200,
    seed: SeedOption = 0,
    out: TableOption = None,
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Read a label off cached spaces: linear probe, nearest neighbours and zero-shot, test groups once.

    Beside each run stand its raw sides, its reference, the same adapters untrained and random projections. A space that
    has seen a view made from the label is left out, and the output says so.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.downstream import show_task
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.downstream.probe import ProbeSettings
    from featcache.studies.downstream.probe import probe as probe_spaces

    settings = ProbeSettings(label, k, label_views=tuple(label_view or ()), width=width, halves=halves, seed=seed)
    with step_progress("probing") as on_space:
        result = probe_spaces(open_cache(cache), dataset, arrays or (), run or (), settings, out=out, on_space=on_space)
    show_task(result, as_json=json)


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
    show_task(result, as_json=json)
