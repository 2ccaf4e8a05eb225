"""Alignment on the terminal: scores with their chance, layer grids, curves and ceilings; the same as JSON."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from featcache.report.answer import against_unrelated
from featcache.report.names import decimals, span
from featcache.report.runs import metric_title, number
from featcache.report.terminal.console import console, print_json, print_table
from featcache.report.terminal.fitted import print_fitted_table, print_fitting, print_parts

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row
    from featcache.studies.alignment.curves import Ceilings, Curves
    from featcache.studies.alignment.grid import LayerGrids, LayerScore
    from featcache.studies.alignment.result import Result
    from featcache.studies.alignment.settings import AlignSettings

PAIRINGS = {
    "mean": "one row a group: the mean of its rows",
    "first": "one row a group: its first",
    "random": "one row a group, drawn at random",
    "all": "every row; rows of one group are no neighbours and are permuted together",
}


def show_alignment(result: "Result[list[Row]]", *, as_json: bool, verbose: bool = False) -> None:
    """Shows the first metric in one line, then a line a metric.

    Args:
        result: What was measured.
        as_json: Print JSON, which has everything.
        verbose: Show also the null ranges, conventions, what computed them and how long it took.
    """
    scores = result.values
    if as_json:
        print_json(_head(result) | {"alignment": [asdict(row) for row in scores]})
        return
    rows = [row for row in scores if row.value is not None]
    if rows:
        print_fitting(_answers(rows[0]), style="bold")
    _print_head(result, verbose=verbose)
    _print_scores(rows, interval=result.settings.interval != "none", verbose=verbose)
    _print_floor([(row.p, row.null) for row in rows], result.settings)
    for estimand in dict.fromkeys(row.estimand.replace(row.metric, "score") for row in rows if row.estimand):
        console().print(f"Interval: {estimand}.")
    lower = ", ".join(row.metric for row in rows if not row.higher_is_better)
    if lower:
        console().print(f"Lower is more aligned: {lower}.")
    for row in scores:
        if row.note:
            console().print(f"{'Not measured: ' if row.value is None else ''}{row.metric}: {row.note}")
    _print_foot(result, verbose=verbose)


def _answers(row: "Row") -> list[str]:
    """A score in words, as in "mutual-kNN .174, chance .009: above unrelated features (p ≤ .005)"; then shorter."""
    title = metric_title(row.metric)
    score = f"{title} {decimals(number(row))} {span(row.ci_low, row.ci_high)}".strip()
    chance = f", chance {decimals(row.chance)}" if row.chance is not None else ""
    p = _p(row.p, row.null).replace("0.", ".")
    p = f" (p {p if p.startswith('≤') else f'= {p}'})" if row.p is not None else ""
    place = against_unrelated(row) or _too_few(row)
    place = f": {place}" if place else "; no null" if row.null == "none" else ""
    lower = "; lower is more aligned" if not row.higher_is_better else ""
    return [f"{score}{chance}{place}{p}{lower}", f"{score}{chance}{place}{p}", f"{score}{place}{p}", f"{score}{p}"]


def _too_few(row: "Row") -> str:
    """That a null of few permutations has no range to stand in; "" of others."""
    draws = re.search(r"(\d+) permutations", row.null)
    return f"{draws[1]} permutations are too few to place it" if draws and row.null_low is None else ""


def _print_scores(rows: "Sequence[Row]", *, interval: bool, verbose: bool) -> None:
    from featcache.metrics.measure.settings import unusual_options

    columns: dict[str, Callable[[Row], object]] = {
        "metric": lambda row: row.metric if verbose else _metric(row.metric, row.convention),
        "score": lambda row: _number(row.value),
        "chance": lambda row: _number(row.chance),
        "null range": lambda row: _range(row.null_low, row.null_high),
        "calibrated": lambda row: _number(row.calibrated, 3),
        "p": lambda row: _p(row.p, row.null),
        "95 % interval": lambda row: _range(row.ci_low, row.ci_high),
        "n": lambda row: row.n,
        "k": lambda row: row.k or "–",
        "convention": lambda row: unusual_options(row.metric, row.convention),
        "null from": lambda row: row.null,
        "computed by": lambda row: row.backend,
        "time": lambda row: f"{row.seconds:.2f} s",
    }
    details = ("null range", "convention", "null from", "computed by", "time")
    left_out = ({"95 % interval"} if not interval else set()) | (set(details) if not verbose else set())
    columns = {name: cell for name, cell in columns.items() if name not in left_out}
    lines = [tuple(cell(row) for cell in columns.values()) for row in rows]
    if verbose:
        print_table(tuple(columns), lines)
    else:
        names = list(columns)
        print_fitted_table(names, lines, alike=(names.index("n"), names.index("k")))


def _metric(name: str, used: str) -> str:
    """A metric with the options that are not its default."""
    from featcache.metrics.measure.settings import convention, unusual_options
    from featcache.metrics.table import METRICS

    default = unusual_options(name, convention(METRICS[name], {}))
    return f"{name} {unusual_options(name, used).removeprefix(default).strip()}".strip()


def show_layers(grids: "LayerGrids", *, as_json: bool = False, verbose: bool = False, headline: bool = False) -> None:
    """Shows the best pair of layers of each two encoders, and a small grid whole.

    Args:
        grids: What was measured.
        as_json: Print JSON, which has everything.
        verbose: Show also the nulls, conventions, what computed them and how long it took.
        headline: Open with the best pair of the first two encoders in words.
    """
    if as_json:
        from featcache.studies.tables import identity

        arrays = [identity(features) for features in grids.arrays.values()]
        head = {"dataset": grids.dataset, "split": grids.settings.split, "notes": grids.notes}
        print_json({**head, "arrays": arrays, "layers": [asdict(row) for row in grids.scores]})
        return
    if headline:
        print_fitting(_best_answers(next(row for row in grids.scores if row.best), grids), style="bold")
    _print_layers(grids, verbose=verbose)
    if grids.table is None:
        console().print("Every pair of layers, not the best alone: --out FILE.parquet, or --json.")
    else:
        console().print(f"Table of every pair of layers: {grids.table}")


def _print_layers(grids: "LayerGrids", *, verbose: bool) -> None:
    from featcache.studies.alignment.protocol import protocol_words

    split, best = _split(grids.settings), [row for row in grids.scores if row.best]
    protocol = grids.settings.protocol
    prepared = [f"protocol {protocol}: {protocol_words(protocol)}, rows of length 1"] if protocol else []
    rows = f"{PAIRINGS[grids.settings.pairing]}{split}{';' if protocol else ''}"
    print_parts([f"{grids.dataset}: every pair of layers;", rows, *prepared])
    _print_best(best, grids, verbose=verbose)
    if any(row.p is not None for row in best):
        print_parts([f"p and null: {best[0].null},", "corrected for the search;", "chance: of one pair."])
    without = dict.fromkeys(metric_title(row.metric) for row in best if row.p is None)
    if without and grids.settings.null == "auto":
        parts = [f"No chance, p or calibrated score of {', '.join(without)}:", "without neighbour graphs"]
        print_parts([*parts, "each permutation costs as much as the grid;", "--null permutation gives them."])
    _print_floor([(row.p, row.null) for row in best], grids.settings)
    pairs = {(row.metric, row.k, row.convention, row.encoder_x, row.encoder_y) for row in grids.scores}
    if len(pairs) == 1:
        _print_grid(grids.scores)
    _print_notes(grids.notes)


def _best_answers(row: "LayerScore", grids: "LayerGrids") -> list[str]:
    """The best pair of layers in words; then shorter."""
    pairs = sum((one.metric, one.convention) == (row.metric, row.convention) for one in grids.scores)
    layers = [f"{_encoder(name, grids)}/{layer}" for name, layer in
              ((row.encoder_x, row.layer_x), (row.encoder_y, row.layer_y))]  # fmt: skip
    score, of, best = f"{metric_title(row.metric)} {decimals(row.value)}", "", "unrelated features"
    if pairs > 1:
        of, best = f", the best of {pairs:,} pairs of layers", "the best pairs of unrelated features"
    place = against_unrelated(row).replace("unrelated features", best)
    p = _p(row.p, row.null).replace("0.", ".")
    p = "" if row.p is None else f" (p {p if p.startswith('≤') else f'= {p}'})"
    place = f": {place}" if place else "; no null" if row.null == "none" else ""
    return [f"{score} ({' with '.join(layers)}){of}{place}{p}", f"{score}{of}{place}{p}", f"{score}{p}"]


def _print_best(best: "Sequence[LayerScore]", grids: "LayerGrids", *, verbose: bool) -> None:
    from featcache.metrics.measure.settings import unusual_options

    columns: dict[str, Callable[[LayerScore], object]] = {
        "metric": lambda row: row.metric if verbose else _metric(row.metric, row.convention),
        "best of x": lambda row: f"{_encoder(row.encoder_x, grids)}/{row.layer_x}",
        "best of y": lambda row: f"{_encoder(row.encoder_y, grids)}/{row.layer_y}",
        "score": lambda row: _number(row.value),
        "chance": lambda row: _number(row.chance),
        "null of best": lambda row: _range(row.null_low, row.null_high),
        "calibrated": lambda row: _number(row.calibrated, 3),
        "p": lambda row: _p(row.p, row.null),
        "n": lambda row: row.n,
        "k": lambda row: row.k or "–",
        "convention": lambda row: unusual_options(row.metric, row.convention),
        "computed by": lambda row: row.backend,
        "time": lambda row: f"{row.seconds:.1f} s",
    }
    if not verbose:
        columns = {
            name: cell
            for name, cell in columns.items()
            if name not in ("null of best", "convention", "computed by", "time")
        }
    lines, names = [tuple(cell(row) for cell in columns.values()) for row in best], list(columns)
    if verbose:
        print_table(names, lines)
    else:
        alike = [names.index(name) for name in ("n", "k", "chance", "metric")]
        print_fitted_table(names, lines, names=(1, 2), alike=alike)


def _encoder(name: str, grids: "LayerGrids") -> str:
    """An encoder's name, with its view where that tells it from another."""
    names = {encoder for encoder, _ in grids.arrays}
    short = name.rpartition("/")[2]
    return name if sum(other.rpartition("/")[2] == short for other in names) > 1 else short


def _print_grid(scores: "Sequence[LayerScore]") -> None:
    """Every score of one pair of encoders, where it fits."""
    columns = list(dict.fromkeys(row.layer_y for row in scores))
    if len(columns) > 14:
        return
    first = scores[0]
    values = {(row.layer_x, row.layer_y): f"{row.value:.3f}" for row in scores}
    layers = list(dict.fromkeys(row.layer_x for row in scores))
    lines = [(layer, *(values[layer, column] for column in columns)) for layer in layers]
    corner, heads = f"{first.encoder_x} \\ {first.encoder_y}", columns
    console().print()
    if len(corner) + sum(len(column) + 2 for column in columns) > console().width:
        pooling = {layer.partition(".")[2] for layer in columns}
        shared = f".{pooling.pop()}" if len(pooling) == 1 else ""
        corner, heads = "", [column.removesuffix(shared) for column in columns]
        across = f"{first.encoder_y} across" + (f" (layers {shared})" if shared else "")
        print_parts([f"{first.encoder_x} down,", across], style="bold")
    print_table((corner, *heads), lines)


def show_curves(result: "Result[Curves]", *, as_json: bool) -> None:
    """Shows a score against the size of the gallery and against k."""
    curves = result.values
    if as_json:
        points = {"gallery": [asdict(p) for p in curves.gallery], "ks": [asdict(p) for p in curves.ks]}
        print_json(_head(result) | {"depth": curves.depth, "backend": curves.backend} | points)
        return
    _print_head(result)
    metric, k = curves.gallery[0].metric, curves.gallery[0].k
    by_size = {p.size: [q for q in curves.gallery if q.size == p.size] for p in curves.gallery}
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
    title = f"{metric} at k = {k}, from graphs {curves.depth} deep ({curves.backend})"
    print_table(("gallery", "score", "least–greatest", "chance", "draws", "short rows"), rows, title=title)
    console().print()
    rows = [(p.k, _number(p.value), _number(p.chance), p.short_rows or "–") for p in curves.ks]
    print_table(("k", "score", "chance", "short rows"), rows, title=f"{metric} at all {curves.ks[0].size} rows")
    _print_foot(result)


def show_ceilings(result: "Result[Ceilings]", *, as_json: bool) -> None:
    """Shows what linear maps and kernel mixtures reach of a reference."""
    ceilings = result.values
    if as_json:
        points = {"ridge": [asdict(p) for p in ceilings.ridge], "mixing": [asdict(p) for p in ceilings.mixing]}
        print_json(_head(result) | points)
        return
    _print_head(result)
    cells: dict[tuple[str, str], list[Any]] = {}
    for point in ceilings.ridge:
        cells.setdefault((point.metric, point.source), []).append(point)
    metrics = list(dict.fromkeys(metric for metric, _ in cells))
    every = list(dict.fromkeys(source for _, source in cells))
    sources = [source for source in every if source in ("x", "y", "both")]
    rows = [
        (metric, *(_folds(cells[metric, source]) for source in sources), _number(cells[metric, sources[0]][0].chance))
        for metric in metrics
    ]
    held, folds = ceilings.ridge[0].n, len(cells[metrics[0], sources[0]])
    title = f"Ridge to the reference, {folds} held-out folds of about {held} rows: mean (low–high)"
    print_table(("held-out score", *(f"from {source}" for source in sources), "chance"), rows, title=title)
    print_parts(["Ridge gives a lower bound of what is linearly there;", "a raw space may score higher:"])
    console().print()
    raw = [source for source in ("raw y", *(s for s in every if s.startswith("mixed ")), "raw x") if source in every]
    held_out = [
        (metric, *(decimals(fmean(point.value for point in cells[metric, source])) for source in raw))
        for metric in metrics
        if (metric, "raw x") in cells
    ]
    heads = [source.removeprefix("mixed ") for source in raw]
    title, narrow = "Without training", console().width < 14 + sum(len(head) + 2 for head in heads)
    if narrow:
        title, heads = f"{title}, mixed with weight w of x", [head.removeprefix("w=") for head in heads]
    print_table(("same folds", *heads), held_out, title=title)
    console().print()
    weights = list(dict.fromkeys(point.weight for point in ceilings.mixing))
    values = {(point.metric, point.weight): point.value for point in ceilings.mixing}
    mixed = [
        (metric, *(decimals(values[metric, weight]) for weight in weights))
        for metric in dict.fromkeys(point.metric for point in ceilings.mixing)
    ]
    title = f"w K_x + (1 - w) K_y against the reference, all {ceilings.mixing[0].n} rows"
    print_table(("w", *(f"{weight:g}" for weight in weights)), mixed, title=title)
    _print_foot(result)


# -- what they share ---------------------------------------------------------------------------------------------------


def _head(result: "Result[Any]") -> dict[str, Any]:
    from featcache.studies.alignment.result import arrays_by_role
    from featcache.studies.tables import identity

    arrays, settings = arrays_by_role(result.common), result.settings
    sides = {role: identity(features) for role, features in arrays.items()}
    rows = {"pairing": settings.pairing, "rows": PAIRINGS[settings.pairing]}
    rows |= {"split": settings.split, "seed": settings.seed}
    return {"dataset": arrays["x"].dataset, **sides, **rows, "notes": result.common.notes}


def _print_head(result: "Result[Any]", *, verbose: bool = True) -> None:
    spaces, settings = result.common.spaces, result.settings
    names = [f"{space.features.name} ({space.features.view}, d = {space.features.width})" for space in spaces]
    against = f"against {names[2]}" if len(names) > 2 else ""
    print_parts([f"{spaces[0].features.dataset}:", names[0], f"and {names[1]}", against])
    rows, *more = f"{spaces[0].n:,} rows, {PAIRINGS[settings.pairing]}{_split(settings)}.".split("; ")
    neighbours = "Neighbours: self excluded by id." if verbose else ""
    print_parts([rows + (";" if more else ""), "; ".join(more), neighbours])


def _print_foot(result: "Result[Any]", *, verbose: bool = True) -> None:
    _print_notes(result.common.notes)
    for role, space in zip(("x", "y", "reference"), result.common.spaces, strict=False) if verbose else ():
        for metric, origin in space.origins.items():
            console().print(f"Neighbour graph of {role} ({metric}): {origin}.")
    if result.table is not None:
        console().print(f"Table: {result.table}")


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        console().print(f"{note}.", style="bold" if note.startswith("Caveat") else None)


def _split(settings: "AlignSettings") -> str:
    return f"; split {settings.split}" if settings.split else ""


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _range(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.4f}–{high:.4f}"


def _p(value: float | None, null: str) -> str:
    """A p, marked where it is as low as its null can give."""
    from featcache.metrics.measure.row import p_floor

    if value is None:
        return "–"
    return f"≤ {value:.3f}" if value <= (p_floor(null) or 0) else f"{value:.3f}"


def _print_floor(nulls: Sequence[tuple[float | None, str]], settings: "AlignSettings") -> None:
    from featcache.metrics.measure.row import p_floor

    for null in dict.fromkeys(null for p, null in nulls if p is not None and p <= (p_floor(null) or 0)):
        draws = re.search(r"(\d+) permutations", null)
        if draws:
            fewer = settings.null == "auto" and int(draws[1]) < settings.permutations  # each costs too much unasked
            parts = [f"≤: p of {draws[1]} permutations cannot be below 1/({draws[1]} + 1);"]
            parts.append(f"more: {'--null permutation' if fewer else '--permutations'}.")
        else:
            parts = [f"≤: the tail of a closed form ({null})", "is not read below 0.001;"]
            parts.append("lower: --null permutation.")
        print_parts(parts)


def _folds(points: Sequence[Any]) -> str:
    values = [point.value for point in points]
    return f"{decimals(fmean(values))} ({decimals(min(values))}–{decimals(max(values))})"
