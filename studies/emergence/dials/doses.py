"""Dials: alignment of the layers of two views while one of them is spoilt by known doses."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.cache import Cache
from featcache.errors import FeaturesNotCached
from featcache.features import Features
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import Row
from featcache.metrics.measure.settings import MeasureSettings, NullKind
from featcache.metrics.measure.space import Space
from featcache.provenance import provenance
from featcache.selectors import Selector
from featcache.studies.alignment.common_rows import common_rows
from featcache.studies.alignment.grid import layers_of
from featcache.studies.tables import identity, table, write_table
from featcache.trainer.errors import NotPaired

if TYPE_CHECKING:
    import polars as pl

OnStep = Callable[[str], None]
_LAYER = re.compile(r"(\d+|last)\.")


@dataclass(frozen=True)
class DialSettings:
    """How every dose of a dial is measured.

    Args:
        metrics: Of every pair of layers, as `MeasureSettings`.
        fixed_metrics: Of pairs with a default layer alone, since they cost more.
        k: Neighbours.
        rows: Groups that are measured, drawn from those that all arrays have; None for all. The published scores are of
            1,024.
        null: As `MeasureSettings`.
        permutations: As `MeasureSettings`.
        repeats: Random halves behind each interval.
        seed: Of that draw, of permutations and halves.
    """

    metrics: tuple[str, ...] = ("mutual_knn",)
    fixed_metrics: tuple[str, ...] = ()
    k: int = 10
    rows: int | None = 1024
    null: NullKind = "auto"
    permutations: int = 200
    repeats: int = 100
    seed: int = 0

    def measure(self, metrics: tuple[str, ...]) -> MeasureSettings:
        """The settings of `measure`."""
        how: dict[str, Any] = {"null": self.null, "permutations": self.permutations, "repeats": self.repeats}
        return MeasureSettings(metrics, self.k, interval="samples", seed=self.seed, **how)


@dataclass(frozen=True)
class DialViews:
    """The two views of a data set that a dial compares.

    Args:
        dataset: Data set name.
        x: View of images.
        y: View of texts, or of speech.
        x_encoders: As `layers_of_view`; () for all that are cached.
        y_encoders: As x_encoders.
    """

    dataset: str
    x: str = "images"
    y: str = "captions"
    x_encoders: tuple[str, ...] = ()
    y_encoders: tuple[str, ...] = ()

    def layers(self, cache: Cache) -> "tuple[Layers, Layers]":
        """The layers of both, as `layers_of_view`."""
        return (
            layers_of_view(cache, self.dataset, self.x, self.x_encoders),
            layers_of_view(cache, self.dataset, self.y, self.y_encoders),
        )


@dataclass(frozen=True, eq=False)
class Dose:
    """One setting of a dial.

    Args:
        share: How much is spoilt, 0 to 1.
        words: The same in words, as in "2 of 5 captions".
        draw: Seed of what was spoilt.
        x: Layers of the first view.
        y: Layers of the second view.
    """

    share: float
    words: str
    draw: int
    x: Sequence[Features]
    y: Sequence[Features]


@dataclass(frozen=True)
class DialRow:
    """What one dose adds to a measured row.

    Args:
        dial: "swapped", "graded" or a kind of perturbation, as "delete".
        comparison: "image–text", "image–audio" or "text–text".
        dataset: Of the arrays.
        dose: Share that is spoilt, 0 to 1.
        dose_words: The same in words.
        draw: Seed of what was spoilt.
        x_depth: Blocks below the layer of x, 0 for the embedding; the last layer has one more than the last block.
        x_share: The same as a share of the encoder's depth.
        y_depth: As x_depth.
        y_share: As x_share.
        x_default: Whether x is the default layer of its encoder.
        y_default: As x_default.
        fixed: Which of both is the default layer of the first encoder of its view: "x", "y", "xy" or "".
    """

    dial: str
    comparison: str
    dataset: str
    dose: float
    dose_words: str
    draw: int
    x_depth: int
    x_share: float
    y_depth: int
    y_share: float
    x_default: bool
    y_default: bool
    fixed: str


@dataclass(frozen=True, eq=False)
class DialResult:
    """The tables of one dial.

    Args:
        alignment: From `measure_doses`.
        performance: From `probe_doses`; None where nothing may be probed.
        correlations: From `dial_correlations`.
        bits: From `bits_per_byte`; None where the dial has no text to score.
        notes: What was left out, and what is to be said of the labels.
        paths: Table -> where it was written.
    """

    alignment: "pl.DataFrame"
    performance: "pl.DataFrame | None"
    correlations: "pl.DataFrame"
    bits: "pl.DataFrame | None"
    notes: tuple[str, ...]
    paths: Mapping[str, Path]


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of one view that a dial compares.

    Args:
        arrays: All, encoder by encoder, in the order of the networks.
        defaults: Encoder -> its default layer, the first encoder first.
        notes: What was left out.
    """

    arrays: tuple[Features, ...]
    defaults: Mapping[str, str]
    notes: tuple[str, ...] = ()


def layers_of_view(cache: Cache, dataset: str, view: str, encoders: Sequence[str] = ()) -> Layers:
    """Every cached layer of some encoders of a view.

    Args:
        cache: The cache.
        dataset: Data set name.
        view: View name.
        encoders: Names, or names with a layer, which then is the only one; the first one's default layer is the fixed
            one. () for all that are cached, by name.

    Raises:
        FeaturesNotCached: If the view has none, or a named encoder is not cached for it.
        Ambiguous: If a layer is cached several times.
    """
    arrays: list[Features] = []
    defaults: dict[str, str] = {}
    notes: list[str] = []
    for encoder in encoders or _encoders(cache, dataset, view):
        try:
            own = layers_of(cache, dataset, f"{view}/{encoder}")
        except FeaturesNotCached:
            if encoders:
                raise
            notes.append(f"{view}/{encoder}: no layer is complete, left out")
            continue
        arrays += own
        defaults[own[0].encoder] = _default_layer(cache, dataset, view, encoder, own)
    if not arrays:
        raise cache.not_cached(dataset, Selector("ENCODER", view))
    return Layers(tuple(arrays), defaults, tuple(notes))


def _default_layer(cache: Cache, dataset: str, view: str, encoder: str, own: Sequence[Features]) -> str:
    """The encoder's default layer; its last where that is not cached."""
    try:
        layer = cache.find(dataset, f"{view}/{encoder}").name.layer
    except FeaturesNotCached:
        return own[-1].layer
    return layer if any(each.layer == layer for each in own) else own[-1].layer


def _encoders(cache: Cache, dataset: str, view: str) -> list[str]:
    """Names of the encoders whose layers a view has: no graphs, no embeddings of runs."""
    arrays = [array for array in cache.arrays(dataset, view) if _LAYER.match(array.name.layer)]
    return sorted({array.name.encoder for array in arrays})


def depths_of(arrays: Sequence[Features]) -> dict[tuple[str, str], int]:
    """(encoder, layer) -> its depth: the number of the block, and for "last" one more than the largest.

    Example:
        >>> from types import SimpleNamespace as Array
        >>> named = [Array(encoder="vit", layer=layer) for layer in ("0.cls", "11.cls", "last.cls", "last.patch-mean")]
        >>> depths_of(named)[("vit", "last.cls")], depths_of(named)[("vit", "last.patch-mean")]
        (12, 12)
    """
    blocks: dict[str, int] = {}
    for each in arrays:
        first = each.layer.partition(".")[0]
        blocks[each.encoder] = max(blocks.get(each.encoder, -1), int(first) if first.isdecimal() else -1)
    return {
        (each.encoder, each.layer): int(first) if (first := each.layer.partition(".")[0]).isdecimal()
        else blocks[each.encoder] + 1
        for each in arrays
    }  # fmt: skip


def drawn_groups(arrays: Sequence[Features], rows: int | None, seed: int) -> set[Any]:
    """Groups that every array has; a seeded draw of so many where there are more.

    Raises:
        NotPaired: If they share no group.
    """
    shared = set.intersection(*(set(each.groups.tolist()) for each in arrays))
    if not shared:
        raise NotPaired(f"the layers of {arrays[0].dataset} share no groups; extract views of the same rows")
    ordered = [group for group in dict.fromkeys(arrays[0].groups.tolist()) if group in shared]
    if rows is None or len(ordered) <= rows:
        return set(ordered)
    chosen = np.random.default_rng(seed).choice(len(ordered), rows, replace=False)
    return {ordered[place] for place in chosen.tolist()}


def kept_groups(features: Features, groups: set[Any]) -> Features:
    """The rows of some groups."""
    mask = np.fromiter((group in groups for group in features.groups.tolist()), bool, len(features))
    return features if mask.all() else features.take(mask)


def measure_doses(
    dial: str,
    doses: Iterable[Dose],
    defaults: tuple[Mapping[str, str], Mapping[str, str]],
    settings: DialSettings,
    *,
    comparison: str = "image–text",
    on_step: OnStep | None = None,
) -> "pl.DataFrame":
    """Alignment of every layer of x with every layer of y at every dose, each with chance, null and interval.

    Rows of a group are averaged first. At every dose the same groups are measured, and pairs of layers are the same.

    Args:
        dial: Name of the dial.
        doses: One after the other; only one is held at a time.
        defaults: Encoder -> default layer, of x and of y; those of the first encoders are the fixed layers, with which
            `settings.fixed_metrics` are measured.
        settings: How.
        comparison: What is compared, in words.
        on_step: Called with each dose in words.

    Returns:
        One row a pair of layers, metric and dose: the columns of `Row` and `DialRow`, and which arrays they are of.

    Raises:
        NotPaired, MetricError: As `common_rows` and `measure`.
    """
    rows: list[Row] = []
    context: list[dict[str, Any]] = []
    shared = provenance()
    kept: dict[str, Space] = {}
    for dose in doses:
        if on_step is not None:
            on_step(f"{dial}: {dose.words}, draw {dose.draw}")
        xs, ys = _spaces(dose, kept)
        depths = depths_of(dose.x), depths_of(dose.y)
        for row in _measured(xs, ys, defaults, settings):
            x, y = xs[row.space][1], ys[row.against][1]
            own = DialRow(
                dial, comparison, x.dataset, dose.share, dose.words, dose.draw, *_depth(x, depths[0]),
                *_depth(y, depths[1]), *_defaults(x, y, defaults), _fixed(x, y, defaults),
            )  # fmt: skip
            rows.append(row)
            context.append({**vars(own), **_identities(x, y), "overlay": x.overlay, "pairing": "mean", **shared})
    return table(rows, context)


def _spaces(
    dose: Dose, kept: dict[str, Space]
) -> tuple[dict[str, tuple[Space, Features]], dict[str, tuple[Space, Features]]]:
    """Spaces of both sides by name; those of arrays that earlier doses had keep their neighbours."""
    arrays = [*dose.x, *dose.y]
    common = common_rows(arrays, pairing="mean")
    named: list[tuple[str, tuple[Space, Features]]] = []
    for features, space in zip(arrays, common.spaces, strict=True):
        name = _name(features)
        key = f"{name} {id(features.values)}"
        if key not in kept:
            kept[key] = replace(space, name=name)
        named.append((name, (kept[key], features)))
    current = {f"{name} {id(features.values)}" for name, (_, features) in named}
    for key in [key for key in kept if key not in current]:
        del kept[key]
    return dict(named[: len(dose.x)]), dict(named[len(dose.x) :])


def _measured(
    xs: dict[str, tuple[Space, Features]], ys: dict[str, tuple[Space, Features]],
    defaults: tuple[Mapping[str, str], Mapping[str, str]], settings: DialSettings,
) -> list[Row]:  # fmt: skip
    spaces = {name: space for side in (xs, ys) for name, (space, _) in side.items()}
    every = [(x, y) for x in xs for y in ys]
    rows = list(measure(spaces, None, settings.measure(settings.metrics), pairs=every).rows)
    if settings.fixed_metrics:
        some = [(x, y) for x, y in every if _fixed(xs[x][1], ys[y][1], defaults)]
        rows += measure(spaces, None, settings.measure(settings.fixed_metrics), pairs=some).rows
    return rows


def _name(features: Features) -> str:
    return f"{features.view}/{features.encoder}/{features.layer}"


def _fixed(x: Features, y: Features, defaults: tuple[Mapping[str, str], Mapping[str, str]]) -> str:
    """Which of both are the fixed layers; a spoilt view has another name than the view itself."""
    first = [next(iter(own.items())) for own in defaults]
    same = [(each.encoder, each.layer) == own for each, own in zip((x, y), first, strict=True)]
    return "".join(side for side, is_fixed in zip("xy", same, strict=True) if is_fixed)


def _defaults(x: Features, y: Features, defaults: tuple[Mapping[str, str], Mapping[str, str]]) -> tuple[bool, bool]:
    return defaults[0].get(x.encoder) == x.layer, defaults[1].get(y.encoder) == y.layer


def _depth(features: Features, depths: dict[tuple[str, str], int]) -> tuple[int, float]:
    depth = depths[features.encoder, features.layer]
    deepest = max(own for (encoder, _), own in depths.items() if encoder == features.encoder)
    return depth, depth / deepest if deepest else 0.0


def _identities(x: Features, y: Features) -> dict[str, str | int]:
    both = {f"{role}_{name}": value for role, each in (("x", x), ("y", y)) for name, value in identity(each).items()}
    return {name: value for name, value in both.items() if not name.endswith("_d")}


def write_tables(folder: Path | None, tables: "dict[str, pl.DataFrame]") -> dict[str, Path]:
    """Writes tables as NAME.parquet into a folder; {} for nowhere.

    Raises:
        OutputFailed: If they cannot be written.
    """
    if folder is None:
        return {}
    paths = {name: folder / f"{name}.parquet" for name in tables}
    for name, frame in tables.items():
        write_table(frame, paths[name])
    return paths
