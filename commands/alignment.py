"""Commands that measure alignment: of two encoders, of all their layers, along a curve, and its ceilings."""

from pathlib import Path
from typing import Annotated, Literal

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

XArgument = Annotated[str, typer.Argument(metavar="X", help="[view/]encoder[/layer.pooling][@digest].")]
YArgument = Annotated[str, typer.Argument(metavar="Y", help="The other one.")]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="A metric, or all; with options as in cka_rbf:sigma=median. Several times for several. "
        "Default: mutual_knn; align without --layers and ceiling add cka_debiased.",
    ),
]
KOption = Annotated[int, typer.Option(help="Neighbours, for the metrics that have them.", min=1)]
PairingOption = Annotated[
    Literal["mean", "first", "random", "all"],
    typer.Option(
        "--pairing", "--groups", help="Rows of a group: their mean, the first, one at random, or all, groups excluded."
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="Only the groups of this split; all: every group. Default: all, but of the embeddings of a run the test "
        "groups alone."
    ),
]
ProtocolOption = Annotated[
    Literal["huh2024", "huh2024-exact"] | None,
    typer.Option(
        help="Huh et al. 2024: entries clamped at the .95 quantile of their magnitudes, one threshold an encoder; "
        "class tokens behind each block, or token means of every hidden state. exact: of all entries; else, as "
        "published, the mean of each row's quantile."
    ),
]
PermutationsOption = Annotated[int, typer.Option(help="Permutations behind each null.", min=19)]


def align(
    dataset: DatasetArgument,
    x: XArgument,
    y: YArgument,
    metric: MetricOption = None,
    k: KOption = 10,
    layers: Annotated[
        Literal["all"] | None, typer.Option(help="Every layer of X with every layer of Y, and the null of the best.")
    ] = None,
    protocol: ProtocolOption = None,
    null: Annotated[
        str,
        typer.Option(
            metavar="auto|permutation|closed|none|within:LABEL",
            help="What the score is compared with: permuted groups, a closed form, nothing, or groups permuted within "
            "equal labels, which leaves only agreement finer than the label. auto: permuted where that costs seconds, "
            "else closed (exact moments), else fewer permutations.",
        ),
    ] = "auto",
    permutations: PermutationsOption = 200,
    interval: Annotated[
        Literal["none", "samples", "queries"],
        typer.Option(help="Where the score of other samples, as many, would lie; or of all queries, of which some."),
    ] = "none",
    queries: Annotated[
        int | None,
        typer.Option(
            help="How many queries are drawn; with --interval queries, which needs it, and only there.", min=2
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Halves of the groups that --interval samples scores; an even number.", min=20)
    ] = 100,
    pairing: PairingOption = "mean",
    split: SplitOption = None,
    seed: SeedOption = 0,
    out: TableOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    cache: CacheOption = None,
) -> None:
    """Measure the alignment of two cached encoders, and how much of it is chance.

    Neighbour graphs are kept in the cache and travel with it; a deeper one serves every smaller k.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.alignment import show_alignment, show_layers
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.alignment.align import align_cached
    from featcache.studies.alignment.grid import LayerGrids, align_layers
    from featcache.studies.alignment.settings import DEFAULT_METRICS, AlignSettings, parse_null

    every = layers is not None or protocol is not None
    metrics = tuple(metric or (DEFAULT_METRICS[:1] if every else DEFAULT_METRICS))
    kind, within = parse_null(null)
    settings = AlignSettings(
        metrics, k, pairing, split, kind, permutations, interval, queries, repeats, seed, within, protocol
    )
    store = open_cache(cache)
    with step_progress("measuring") as on_metric:
        if every:
            result = align_layers(store, dataset, [x, y], settings, both_ways=False, out=out)
        else:
            result = align_cached(store, dataset, x, y, settings, out=out, on_metric=on_metric)
    if isinstance(result, LayerGrids):
        show_layers(result, as_json=json, verbose=verbose, headline=True)
    else:
        show_alignment(result, as_json=json, verbose=verbose)


def grid(
    dataset: DatasetArgument,
    encoders: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER", autocompletion=complete_array, help="[view/]encoder[/layer.pooling]; two or more."
        ),
    ],
    metric: MetricOption = None,
    k: KOption = 10,
    protocol: ProtocolOption = None,
    null: Annotated[
        Literal["auto", "permutation", "none"],
        typer.Option(help="Null of each best pair. auto: for metrics of neighbour graphs, which are quick to permute."),
    ] = "auto",
    permutations: PermutationsOption = 200,
    pairing: PairingOption = "mean",
    split: SplitOption = None,
    seed: SeedOption = 0,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the grids as heat maps, .png or .svg; of a protocol with language models the best pairs over "
            "bits per byte.",
        ),
    ] = None,
    out: TableOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    cache: CacheOption = None,
) -> None:
    """Compare every layer of several encoders with every layer of the others."""
    from featcache.cache import open_cache
    from featcache.report.figures.convergence import draw_convergence
    from featcache.report.figures.layer_map import check_figure_path, draw_layers
    from featcache.report.terminal.alignment import show_layers
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.alignment.grid import align_layers
    from featcache.studies.alignment.settings import DEFAULT_METRICS, AlignSettings

    check_figure_path(figure)
    metrics = tuple(metric or DEFAULT_METRICS[:1])
    settings = AlignSettings(metrics, k, pairing, split, null, permutations, seed=seed, protocol=protocol)
    with step_progress("measuring"):
        grids = align_layers(open_cache(cache), dataset, encoders, settings, out=out)
    show_layers(grids, as_json=json, verbose=verbose)
    if figure is not None:
        why = draw_layers(grids, figure) if protocol is None else draw_convergence(grids, figure)
        echo(f"Figure: {figure}{f'. {why}' if why else ''}", err=json)


def curve(
    dataset: DatasetArgument,
    x: XArgument,
    y: YArgument,
    metric: Annotated[str, typer.Option(help="A metric of neighbour graphs.")] = "mutual_knn",
    k: KOption = 10,
    sizes: Annotated[
        str | None, typer.Option(help="Galleries, as in 500,1000,5000. Default: all, half, down to a sixteenth.")
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(help="Galleries drawn of each size: their mean is shown, and least to greatest of them.", min=1),
    ] = 5,
    pairing: PairingOption = "mean",
    split: SplitOption = None,
    seed: SeedOption = 0,
    out: TableOption = None,
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Show how a score depends on the size of the gallery, and on k.

    Scores of neighbours fall as galleries grow: compare encoders only at one size.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.alignment import show_curves
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.alignment.curves import curves_cached, parse_sizes
    from featcache.studies.alignment.settings import AlignSettings

    settings = AlignSettings((metric,), k, pairing, split, seed=seed)
    galleries = parse_sizes(sizes) if sizes else None
    with step_progress("measuring"):
        result = curves_cached(open_cache(cache), dataset, x, y, settings, sizes=galleries, repeats=repeats, out=out)
    show_curves(result, as_json=json)


def ceiling(
    dataset: DatasetArgument,
    x: XArgument,
    y: YArgument,
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="The stronger encoder to be approached (target, teacher).")
    ],
    metric: MetricOption = None,
    k: KOption = 10,
    folds: Annotated[int, typer.Option(help="Parts of the groups that are held out in turn.", min=3)] = 5,
    pairing: PairingOption = "mean",
    split: SplitOption = None,
    seed: SeedOption = 0,
    out: TableOption = None,
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Show what of a reference two encoders hold: is it absent, or did training miss it?

    Ridge maps from X, from Y and from both to the reference, scored on held-out groups; and the mixtures of the two
    kernels, which need no training.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.alignment import show_ceilings
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.alignment.curves import ceilings_cached
    from featcache.studies.alignment.settings import AlignSettings

    settings = AlignSettings(tuple(metric or ("mutual_knn", "cka_debiased")), k, pairing, split, seed=seed)
    with step_progress("measuring"):
        result = ceilings_cached(open_cache(cache), dataset, (x, y, reference), settings, folds=folds, out=out)
    show_ceilings(result, as_json=json)


def competence(
    dataset: DatasetArgument,
    encoders: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER",
            autocompletion=complete_array,
            help="Three or more: [view/]encoder[/layer.pooling][@digest].",
        ),
    ],
    performance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENCODER=NUMBER",
            help="How well an encoder does on a task, higher is better; one of each. Default: the accuracy of a linear "
            "probe.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="NAME", help="Label column that is probed. Default: the data set's first.")
    ] = None,
    metric: Annotated[str, typer.Option(help="A metric of alignment.")] = "mutual_knn",
    k: KOption = 10,
    skip_uncached: Annotated[
        bool, typer.Option("--skip-uncached", help="Leave out encoders that are not cached, and say which.")
    ] = False,
    out: TableOption = None,
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Show whether encoders that do better on a task stand closer to the others.

    Each encoder's mean alignment with the others against its performance, with Spearman's correlation and the exact p
    of a permutation test.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.competence import show_competence
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.competence import cached_encoders, parse_performance
    from featcache.studies.competence import competence as measure_competence

    place, given = open_cache(cache), parse_performance(performance or ())
    kept, left = cached_encoders(place, dataset, encoders) if skip_uncached else (list(encoders), [])
    with step_progress("measuring") as on_step:
        result = measure_competence(
            place, dataset, kept, performance=given, label=label, metric=metric, k=k, out=out, on_step=on_step
        )
    show_competence(result, left_out=left, as_json=json)
