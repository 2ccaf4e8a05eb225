"""How does the terminal show alignment: scores with their chance, layers, curves and ceilings? The same as Parquet."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from featcache.report.console import console, print_json, print_table

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.features import Features
    from featcache.studies.alignment.align import Alignment, AlignSettings
    from featcache.studies.alignment.common_rows import CommonRows
    from featcache.studies.alignment.curves import Ceilings, Curves
    from featcache.studies.alignment.grid import LayerGrids, LayerScore

_PAIRINGS = {
    "mean": "one row a group: the mean of its rows",
    "first": "one row a group: its first",
    "random": "one row a group, drawn at random",
    "all": "every row; rows of one group are no neighbours and are permuted together",
}
Say = Callable[[str], None]
_ROLES = ("x", "y", "reference")
_OPTION = re.compile(r" (?=\w+=)")


def show_alignment(
    common: "CommonRows",
    settings: "AlignSettings",
    measure: "Callable[[Say], list[Alignment]]",
    *,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measures two arrays and shows one line a metric.

    Args:
        common: The two arrays on their common rows.
        settings: What is measured.
        measure: Gives the scores; tells its argument what it is at.
        out: Where a tidy table is written; None for nowhere.
        as_json: Print JSON.
    """
    found = _measured(measure, out)
    _write(found, common, [{"command": "align"}] * len(found), settings, out)
    if as_json:
        print_json(_head(common, settings) | {"alignment": [asdict(row) for row in found]})
        return
    _say_head(common, settings)
    rows = [row for row in found if row.value is not None]
    columns: dict[str, Callable[[Alignment], object]] = {
        "metric": lambda row: row.metric,
        "score": lambda row: _number(row.value),
        "chance": lambda row: _number(row.chance),
        "null range": lambda row: _range(row.null_low, row.null_high),
        "calibrated": lambda row: _number(row.calibrated, 3),
        "p": lambda row: _p(row.p, row.null),
        "95 % interval": lambda row: _range(row.ci_low, row.ci_high),
        "n": lambda row: row.n,
        "k": lambda row: row.k or "–",
        "convention": lambda row: _convention(row.metric, row.convention),
        "null from": lambda row: row.null,
        "computed by": lambda row: row.backend,
        "time": lambda row: f"{row.seconds:.2f} s",
    }
    if settings.interval == "none":
        del columns["95 % interval"]
    print_table(tuple(columns), [tuple(cell(row) for cell in columns.values()) for row in rows])
    _say_floor([(row.p, row.null) for row in rows])
    for estimand in dict.fromkeys(row.estimand.replace(row.metric, "score") for row in rows if row.estimand):
        console().print(f"Interval: {estimand}.")
    lower = ", ".join(row.metric for row in rows if not row.higher_is_better)
    if lower:
        console().print(f"Lower is more aligned: {lower}.")
    for row in found:
        if row.note:
            console().print(f"{'Not measured: ' if row.value is None else ''}{row.metric}: {row.note}")
    _say_foot(common, out)


def show_layers(
    cache: "Cache",
    dataset: str,
    encoders: Sequence[str],
    settings: "AlignSettings",
    *,
    both_ways: bool = True,
    out: Path | None = None,
    figure: Path | None = None,
    as_json: bool = False,
) -> None:
    """Measures every pair of layers of some encoders and shows the best pair of each two, and small grids whole.

    Args:
        cache: Where the features are.
        dataset: Data set name.
        encoders: Two or more.
        settings: What is measured.
        both_ways: Compute metrics that are not symmetric both ways.
        out: Where a tidy table is written; None for nowhere.
        figure: Where heat maps are drawn, .png or .svg; None for nowhere.
        as_json: Print JSON.
    """
    from featcache.report.layer_map import check_figure_path, draw_layers
    from featcache.studies.alignment.grid import align_layers
    from featcache.studies.tables import beside, circumstances, identity, table, write_table

    check_figure_path(figure)
    grids = _measured(lambda _: align_layers(cache, dataset, encoders, settings, both_ways=both_ways), out)
    if out is not None:
        settled = circumstances()
        sides = [
            {role: grids.arrays[getattr(row, f"encoder_{role}"), getattr(row, f"layer_{role}")] for role in "xy"}
            for row in grids.scores
        ]
        doubled = ("encoder_x", "layer_x", "encoder_y", "layer_y")  # x_encoder, x_layer ... and the views stand beside
        more = [{"command": "grid" if both_ways else "align"} | beside(settings, settled, **side) for side in sides]
        write_table(table(grids.scores, more).drop(doubled), out)
    if figure is not None:
        draw_layers(grids.scores, dataset, figure, rows=_PAIRINGS[settings.pairing])
    if as_json:
        arrays = [identity(features) for features in grids.arrays.values()]
        print_json({"dataset": dataset, "arrays": arrays, "layers": [asdict(row) for row in grids.scores]})
        return
    _say_layers(grids, dataset, settings)
    if out is None:
        console().print("Every pair of layers, not the best alone: --out FILE.parquet, or --json.")
    for path, what in ((out, "Table of every pair of layers"), (figure, "Figure")):
        if path is not None:
            console().print(f"{what}: {path}")


def _say_layers(grids: "LayerGrids", dataset: str, settings: "AlignSettings") -> None:
    console().print(f"{dataset}: every pair of layers; {_PAIRINGS[settings.pairing]}")
    best = [row for row in grids.scores if row.best]
    rows = [
        (
            row.metric,
            f"{_encoder(row.encoder_x, grids)}/{row.layer_x}",
            f"{_encoder(row.encoder_y, grids)}/{row.layer_y}",
            _number(row.value),
            _number(row.chance),
            _range(row.null_low, row.null_high),
            _p(row.p, row.null),
            row.n,
            row.k or "–",
            _convention(row.metric, row.convention),
            row.backend,
            f"{row.seconds:.1f} s",
        )
        for row in best
    ]
    columns = ("metric", "best of x", "best of y", "score", "chance", "null of best", "p", "n", "k", "convention")
    print_table((*columns, "computed by", "time"), rows)
    if any(row.p is not None for row in best):
        console().print(f"p and null: {best[0].null}, corrected for the search; chance: of one pair.")
    _say_floor([(row.p, row.null) for row in best])
    pairs = {(row.metric, row.k, row.convention, row.encoder_x, row.encoder_y) for row in grids.scores}
    if len(pairs) == 1:
        _say_grid(grids.scores)
    for note in grids.notes:
        console().print(f"{note}.")


def _encoder(name: str, grids: "LayerGrids") -> str:
    """An encoder's name, with its view where that tells it from another."""
    names = {encoder for encoder, _ in grids.arrays}
    short = name.rpartition("/")[2]
    return name if sum(other.rpartition("/")[2] == short for other in names) > 1 else short


def _say_grid(scores: "Sequence[LayerScore]") -> None:
    """Every score of one pair of encoders, where it fits."""
    columns = list(dict.fromkeys(row.layer_y for row in scores))
    if len(columns) > 14:
        return
    first = scores[0]
    values = {(row.layer_x, row.layer_y): f"{row.value:.3f}" for row in scores}
    lines = [
        (layer, *(values[layer, column] for column in columns))
        for layer in dict.fromkeys(row.layer_x for row in scores)
    ]
    console().print()
    print_table((f"{first.encoder_x} \\ {first.encoder_y}", *columns), lines)


def show_curves(
    common: "CommonRows", settings: "AlignSettings", measure: "Callable[[], Curves]", *, out: Path | None, as_json: bool
) -> None:
    """Shows a score against the size of the gallery and against k; arguments as `show_alignment`."""
    found = _measured(lambda _: measure(), out)
    points = [*found.gallery, *found.ks]
    _write(points, common, [{"command": "curve"} | _how(settings, point.metric) for point in points], settings, out)
    if as_json:
        points = {"gallery": [asdict(p) for p in found.gallery], "ks": [asdict(p) for p in found.ks]}
        print_json(_head(common, settings) | {"depth": found.depth, "backend": found.backend} | points)
        return
    _say_head(common, settings)
    metric, k = found.gallery[0].metric, found.gallery[0].k
    by_size = {p.size: [q for q in found.gallery if q.size == p.size] for p in found.gallery}
    rows = [
        (
            size,
            _number(fmean(p.value for p in points)),
            _range(min(p.value for p in points), max(p.value for p in points)) if len(points) > 1 else "–",
            _number(points[0].chance),
            len(points),
            sum(p.short_rows for p in points) or "–",
        )
        for size, points in by_size.items()
    ]
    title = f"{metric} at k = {k}, from graphs {found.depth} deep ({found.backend})"
    print_table(("gallery", "score", "least–greatest", "chance", "draws", "short rows"), rows, title=title)
    console().print()
    rows = [(p.k, _number(p.value), _number(p.chance), p.short_rows or "–") for p in found.ks]
    print_table(("k", "score", "chance", "short rows"), rows, title=f"{metric} at all {found.ks[0].size} rows")
    _say_foot(common, out)


def show_ceilings(
    common: "CommonRows",
    settings: "AlignSettings",
    measure: "Callable[[], Ceilings]",
    *,
    out: Path | None,
    as_json: bool,
) -> None:
    """Shows what linear maps and kernel mixtures reach of a reference; arguments as `show_alignment`."""
    found = _measured(lambda _: measure(), out)
    _write_ceilings(found, common, settings, out)
    if as_json:
        points = {"ridge": [asdict(p) for p in found.ridge], "mixing": [asdict(p) for p in found.mixing]}
        print_json(_head(common, settings) | points)
        return
    _say_head(common, settings)
    cells: dict[tuple[str, str], list[Any]] = {}
    for point in found.ridge:
        cells.setdefault((point.metric, point.source), []).append(point)
    metrics = list(dict.fromkeys(metric for metric, _ in cells))
    sources = list(dict.fromkeys(source for _, source in cells))
    rows = [
        (metric, *(_folds(cells[metric, source]) for source in sources), _number(cells[metric, sources[0]][0].chance))
        for metric in metrics
    ]
    held, folds = found.ridge[0].n, len(cells[metrics[0], sources[0]])
    title = f"Ridge to the reference, {folds} held-out folds of about {held} rows: mean (lowest–highest)"
    print_table(("held-out score", *(f"from {source}" for source in sources), "chance"), rows, title=title)
    console().print()
    weights = list(dict.fromkeys(point.weight for point in found.mixing))
    values = {(point.metric, point.weight): point.value for point in found.mixing}
    mixed = [
        (metric, *(f"{values[metric, weight]:.3f}" for weight in weights))
        for metric in dict.fromkeys(point.metric for point in found.mixing)
    ]
    title = f"w K_x + (1 - w) K_y against the reference, all {found.mixing[0].n} rows"
    print_table(("w", *(f"{weight:g}" for weight in weights)), mixed, title=title)
    _say_foot(common, out)


# -- what they share ---------------------------------------------------------------------------------------------------


def _measured(measure: "Callable[[Say], Any]", out: Path | None) -> Any:
    """What is measured, under a sign of life; a name that no table is written to is refused before."""
    from featcache.studies.tables import check_table_path

    check_table_path(out)
    with console(stderr=True).status("measuring") as status:
        return measure(lambda what: status.update(f"measuring {what}"))


def _arrays(common: "CommonRows") -> "dict[str, Features]":
    return {role: space.features for role, space in zip(_ROLES, common.spaces, strict=False)}


def _write(
    rows: Sequence[Any],
    common: "CommonRows",
    each: Sequence[Mapping[str, str | int]],
    settings: "AlignSettings",
    out: Path | None,
) -> None:
    from featcache.studies.tables import beside, circumstances, table, write_table

    if out is not None:
        more = beside(settings, circumstances(), **_arrays(common))
        write_table(table(rows, [{**one, **more} for one in each]), out)


def _write_ceilings(found: "Ceilings", common: "CommonRows", settings: "AlignSettings", out: Path | None) -> None:
    """Both tables in one: a column says which."""
    import polars as pl

    from featcache.studies.tables import beside, circumstances, table, write_table

    if out is None:
        return
    more = beside(settings, circumstances(), **_arrays(common))
    frames: list[pl.DataFrame] = []
    for kind, rows in {"ridge": found.ridge, "mixing": found.mixing}.items():
        told = [{"command": "ceiling", "kind": kind} | _how(settings, row.metric) | more for row in rows]
        frames.append(table(rows, told))
    write_table(pl.concat(frames, how="diagonal"), out)


def _how(settings: "AlignSettings", label: str) -> dict[str, str | int]:
    """Convention and direction of one of the metrics that were settings for, by its label in a table."""
    from featcache.metrics import METRICS
    from featcache.studies.alignment.align import chosen_metrics, convention, parse_metric

    name, typed = parse_metric(label)
    if name not in METRICS:  # R^2 of a ridge
        return {"convention": "", "higher_is_better": True}
    [*_, (metric, options)] = [one for one in chosen_metrics(settings) if one[0].name == name]
    return {"convention": convention(metric, options | typed), "higher_is_better": metric.higher_is_better}


def _head(common: "CommonRows", settings: "AlignSettings") -> dict[str, Any]:
    from featcache.studies.tables import identity

    arrays = _arrays(common)
    sides = {role: identity(features) for role, features in arrays.items()}
    rows = {
        "pairing": settings.pairing,
        "rows": _PAIRINGS[settings.pairing],
        "split": settings.split,
        "seed": settings.seed,
    }
    return {"dataset": arrays["x"].dataset, **sides, **rows, "notes": common.notes}


def _say_head(common: "CommonRows", settings: "AlignSettings") -> None:
    arrays = list(_arrays(common).values())
    names = [f"{features.name} ({features.view}, d = {features.width})" for features in arrays]
    against = f" against {names[2]}" if len(names) > 2 else ""
    split = f"; split {settings.split}" if settings.split else ""
    console().print(f"{arrays[0].dataset}: {names[0]} and {names[1]}{against}")
    console().print(
        f"{common.spaces[0].n:,} rows, {_PAIRINGS[settings.pairing]}{split}. Neighbours: self excluded by id."
    )


def _say_foot(common: "CommonRows", out: Path | None) -> None:
    for note in common.notes:
        console().print(f"{note}.")
    for role, space in zip(_ROLES, common.spaces, strict=False):
        for metric, origin in space.origins.items():
            console().print(f"Neighbour graph of {role} ({metric}): {origin}.")
    if out is not None:
        console().print(f"Table: {out}")


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _range(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.4f}–{high:.4f}"


def _p(value: float | None, null: str) -> str:
    """A p; at its floor, marked as such, and of a closed form its order of magnitude."""
    if value is None:
        return "–"
    if value == _floor(null):
        return f"≤ {value:.3f}"
    if value < 1e-300:  # beyond what a float can hold
        return "< 1e-300"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _floor(null: str) -> float | None:
    """The least p that a null can give: 1 / (permutations + 1); None where permutations are not behind it."""
    found = re.search(r"(\d+) permutations", null)
    return 1 / (int(found[1]) + 1) if found else None


def _say_floor(found: Sequence[tuple[float | None, str]]) -> None:
    for null in dict.fromkeys(null for p, null in found if p is not None and p == _floor(null)):
        draws = re.search(r"(\d+) permutations", null)
        n = draws[1] if draws else ""
        console().print(f"≤: p of {n} permutations cannot be below 1/({n} + 1); more: --permutations.")


def _convention(metric: str, convention: str) -> str:
    """What tells a convention apart: options that are not the default, and the measure or kernel in any case."""
    from featcache.metrics import METRICS
    from featcache.studies.alignment.align import convention as every

    usual = set(_OPTION.split(every(METRICS[metric], {})))
    return " ".join(
        one for one in _OPTION.split(convention) if one not in usual or one.startswith(("metric=", "kernel="))
    )


def _folds(points: Sequence[Any]) -> str:
    values = [point.value for point in points]
    return f"{fmean(values):.3f} ({min(values):.3f}–{max(values):.3f})"
