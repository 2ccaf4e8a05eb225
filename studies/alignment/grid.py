"""Alignment of every layer of some cached encoders with every layer of the others."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from pathlib import Path
from time import perf_counter
from typing import Any

from featcache.cache import Cache
from featcache.errors import Ambiguous, OutdatedRows, UsageError
from featcache.features import Features
from featcache.metrics.comparison import KnnComparison
from featcache.metrics.measure.settings import chosen_metrics, convention
from featcache.metrics.sweeps.grid import Grid, layer_grid
from featcache.metrics.table import Metric, chosen
from featcache.notices import notice
from featcache.provenance import provenance
from featcache.selectors import AUTO, Selector, parse_selector
from featcache.store.array import FeatureArray
from featcache.studies.alignment.common_rows import CachedSpace
from featcache.studies.alignment.protocol import bits_per_byte, last_layer, protocol_layers, protocol_words
from featcache.studies.alignment.result import resolved, rows_for
from featcache.studies.alignment.settings import AlignSettings
from featcache.studies.tables import check_table_path, context_columns, table, write_table


@dataclass(frozen=True)
class LayerScore:
    """One metric of one pair of layers.

    Args:
        encoder_x: The first encoder, with its view.
        layer_x: Its layer and pooling.
        encoder_y: The second encoder.
        layer_y: Its layer and pooling.
        metric: A name of METRICS.
        convention: The options it was computed with.
        value: The score.
        higher_is_better: Whether a higher score means more aligned.
        best: Whether it is the best of this pair of encoders.
        n: Rows compared.
        d_x: Width of x.
        d_y: Width of y.
        k: Neighbours, where the metric has them.
        chance: What one pair of unrelated layers scores on average, where there is a closed form for it.
        p: Share of permutations whose best pair of layers is at least as good as this one, corrected for the search.
        threshold: What the best pair of 5 % of the permutations passes.
        null_low: Lower end of the central 95 % of the best pair under permutation.
        null_high: Upper end.
        null: How the null was got: "best pair of 200 permutations", or "none".
        backend: What searched the graphs, or that they were cached.
        seconds: Time of the whole grid of this pair of encoders: preparations, comparisons and null.
        calibrated: Of the best pair: how far it is from the threshold to the best there is, in [0, 1]; None of others,
            without null, and in tables from before it.
    """

    encoder_x: str
    layer_x: str
    encoder_y: str
    layer_y: str
    metric: str
    convention: str
    value: float
    higher_is_better: bool
    best: bool
    n: int
    d_x: int
    d_y: int
    k: int | None
    chance: float | None
    p: float | None
    threshold: float | None
    null_low: float | None
    null_high: float | None
    null: str
    backend: str
    seconds: float
    calibrated: float | None = None


@dataclass(frozen=True, eq=False)
class LayerGrids:
    """Every pair of layers of some encoders.

    Args:
        scores: A row a metric, pair of encoders and pair of layers.
        arrays: (encoder, layer) -> the array.
        notes: What was left out.
        dataset: Data set name.
        settings: How they were measured.
        table: Where the tidy table was written; None for nowhere.
        bits: Bits per byte of each language model among the encoders that has them; of a protocol.
    """

    scores: list[LayerScore]
    arrays: dict[tuple[str, str], Features]
    notes: list[str]
    dataset: str
    settings: AlignSettings
    table: Path | None
    bits: Mapping[str, float] = field(default_factory=lambda: {})


def layers_of(cache: Cache, dataset: str, selector: str) -> list[Features]:
    """Every complete layer of one encoder, in the order of the network, "last" at the end.

    Layers that are there of older rows than the current ones alone are left out, and a notice says so.

    Args:
        cache: The cache.
        dataset: Data set name.
        selector: `[view/]encoder[/layer.pooling][@digest]`; with a layer, that one alone.

    Raises:
        FeaturesNotCached: If no layer is complete.
        Ambiguous: If the encoder is cached for several views, or a layer several times.
        OutdatedRows: If every layer is of older rows.
        UsageError: If the layer is "auto".
    """
    wanted = parse_selector(selector)
    if wanted.layer == AUTO:
        raise UsageError(f"{selector}: every layer is compared here\n  Leave auto out")
    arrays = [array for array in cache.arrays(dataset, wanted.view or "*", wanted.encoder, wanted.layer or "*")]
    arrays = [array for array in arrays if array.digest.startswith(wanted.digest or "")]
    whole = [
        (array.name.view, array.name.layer) for array in arrays if array.is_complete and _LAYER.match(array.name.layer)
    ]
    if not whole:
        raise cache.not_cached(dataset, wanted, incomplete=arrays[0] if arrays else None)
    views = sorted({view for view, _ in whole})
    if len(views) > 1:
        raise Ambiguous(
            f"{selector} is cached for {', '.join(views)}. Name one view, as in {views[0]}/{wanted.encoder}"
        )
    layers = sorted({layer for _, layer in whole}, key=_depth)
    exact = [Selector(wanted.encoder, views[0], layer, wanted.digest) for layer in layers]
    current, older = list[FeatureArray](), list[OutdatedRows]()
    for one in exact:
        try:
            current.append(cache.find(dataset, one))
        except OutdatedRows as error:
            older.append(error)
    if not current:
        raise older[0]
    for error in older:
        notice(f"left out, {error}")
    return [cache.load_array(array) for array in current]


_LAYER = re.compile(r"(\d+|last|adapted)\.")  # not graphs, not the scalars of a language model


def _depth(layer: str) -> tuple[float, str]:
    first = layer.partition(".")[0]
    return (float(first) if first.isdecimal() else float("inf"), layer)


def align_layers(
    cache: Cache,
    dataset: str,
    encoders: Sequence[str],
    settings: AlignSettings,
    *,
    both_ways: bool = True,
    out: Path | None = None,
) -> LayerGrids:
    """Scores of every pair of layers of every pair of encoders, and the null of each pair's best.

    The best of many pairs is high by chance alone; its p counts the permutations, the same for all pairs, whose own
    best is at least as good. Where `settings.null` is "auto", metrics without neighbours have no null: each permutation
    of each pair would cost as much as the grid.

    Args:
        cache: Where the features are, and where their neighbour graphs are kept.
        dataset: Data set name.
        encoders: Two or more, as in `layers_of`.
        settings: What is measured; without interval.
        both_ways: Compute metrics that are not symmetric both ways.
        out: Where a tidy table is written; None for nowhere.

    Raises:
        UsageError: If an interval, a closed form or a null within labels is wanted, an encoder is named twice, or no
            table can be written.
        FeaturesNotCached, Ambiguous, NotPaired, MetricError: As `layers_of`, `common_rows` and the metric.
    """
    check_table_path(out)
    every = "all layers" if settings.protocol is None else f"--protocol {settings.protocol} compares all layers"
    if settings.interval != "none":
        raise UsageError(
            f"{every}, and no interval is known for the best of many pairs\n"
            f"  Leave --interval {settings.interval} out, or compare one pair of layers"
        )
    if settings.null == "closed":
        raise UsageError(f"{every}, and no closed form is known for the best of many pairs\n  Take --null permutation")
    if settings.within is not None:
        raise UsageError(f"{every}: groups of the best of many pairs are permuted whole; compare one pair of layers")
    chosen_metrics(settings.measure())  # refused before anything is read
    layers = [layers_of(cache, dataset, encoder) for encoder in encoders]
    names = [f"{arrays[0].view}/{arrays[0].encoder}" for arrays in layers]
    if len(set(names)) < len(names) or len(names) < 2:
        raise UsageError(f"wanted two encoders or more, each once; got {', '.join(names)}")
    flat = [features for arrays in layers for features in arrays]
    common = rows_for(flat, settings, cache=cache)
    settings = resolved(settings, common)
    spaces = iter(common.spaces)
    by_name = {name: [next(spaces) for _ in arrays] for name, arrays in zip(names, layers, strict=True)}
    notes, bits = common.notes, dict[str, float]()
    if settings.protocol is not None:
        prepared = {
            name: protocol_layers(own, settings.protocol, last_layer(cache, own[0].features))
            for name, own in by_name.items()
        }
        by_name = {name: own for name, (own, _) in prepared.items()}
        found = {name: bits_per_byte(cache, own[0].features) for name, own in by_name.items()}
        bits = {name: value for name, value in found.items() if value is not None}
        notes = [*notes, *(note for _, left in prepared.values() for note in left)]
    scores: list[LayerScore] = []
    for metric, options in chosen_metrics(settings.measure()):
        pairs = combinations if metric.symmetric or not both_ways else permutations
        for x, y in pairs(by_name, 2):
            grid = _grid(by_name[x], by_name[y], metric, options, settings)
            how = f"{convention(metric, options)} {protocol_words(settings.protocol)}".strip()
            scores += _rows(grid, (x, y), (by_name[x], by_name[y]), metric, how)
    arrays = {(name, each.layer): each for name, layered in zip(names, layers, strict=True) for each in layered}
    grids = LayerGrids(scores, arrays, notes, dataset, settings, out, bits)
    if out is not None:
        _write(grids, out, command="grid" if both_ways else "align")
    return grids


def _write(grids: LayerGrids, out: Path, *, command: str) -> None:
    versions = provenance()
    context: list[dict[str, str | int]] = []
    for row in grids.scores:
        arrays = {"x": grids.arrays[row.encoder_x, row.layer_x], "y": grids.arrays[row.encoder_y, row.layer_y]}
        context.append(
            {
                "command": command,
                "protocol": grids.settings.protocol or "",
                **context_columns(grids.settings, versions, **arrays),
            }
        )
    doubled = ("encoder_x", "layer_x", "encoder_y", "layer_y")  # the same stand in x_encoder, x_layer ...
    write_table(table(grids.scores, context).drop(doubled), out)


def _grid(
    xs: Sequence[CachedSpace],
    ys: Sequence[CachedSpace],
    metric: Metric,
    options: dict[str, Any],
    settings: AlignSettings,
) -> tuple[Grid, float]:
    started = perf_counter()
    groups = xs[0].groups or ys[0].groups
    _, comparison = chosen(metric.name, groups=groups, **options)
    if isinstance(comparison, KnnComparison):
        given = [[space.graph(comparison.k, comparison.metric) for space in spaces] for spaces in (xs, ys)]
    else:
        given = [[space.values for space in spaces] for spaces in (xs, ys)]
    wanted = settings.null == "permutation" or (settings.null == "auto" and isinstance(comparison, KnnComparison))
    draws = settings.permutations if wanted and metric.paired else 0
    arguments: dict[str, Any] = {"groups": groups, "permutations": draws, "seed": settings.seed} | options
    grid = layer_grid(metric.name, given[0], given[1], **arguments)
    return grid, perf_counter() - started


def _rows(
    made: tuple[Grid, float],
    names: tuple[str, str],
    spaces: tuple[Sequence[CachedSpace], Sequence[CachedSpace]],
    metric: Metric,
    how: str,
) -> list[LayerScore]:
    grid, seconds = made
    null = grid.max_null
    about_null: dict[str, Any] = dict.fromkeys(("threshold", "null_low", "null_high")) | {"null": "none"}
    if null is not None:
        about_null = {"threshold": null.threshold, "null_low": null.null.low, "null_high": null.null.high}
        about_null["null"] = f"best pair of {null.null.permutations} permutations"
    return [
        LayerScore(
            encoder_x=names[0],
            layer_x=spaces[0][point.layer_x].features.layer,
            encoder_y=names[1],
            layer_y=spaces[1][point.layer_y].features.layer,
            metric=metric.name,
            convention=how,
            value=point.value,
            higher_is_better=metric.higher_is_better,
            best=point.best,
            calibrated=grid.calibrated if point.best else None,
            n=point.n,
            d_x=spaces[0][point.layer_x].features.width,
            d_y=spaces[1][point.layer_y].features.width,
            k=point.k,
            chance=point.chance,
            p=point.p,
            backend=grid.backend,
            seconds=seconds,
            **about_null,
        )
        for point in grid.points(*names)
    ]
