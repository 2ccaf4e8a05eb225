"""Answers of retrieval on the test split, query by query: the best, the worst, and some drawn by chance."""

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from featcache.metrics import Answers, retrieval
from featcache.metrics.arrays import as_float64, unit_rows
from featcache.metrics.knn.exact import paired_values
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.knn.search import tile_rows
from featcache.studies.adapters.pictures.milestones import Stages

if TYPE_CHECKING:
    import polars as pl

EXTREMES, DRAWN, SHOWN = 12, 150, 5  # best and worst queries of a direction, others, and answers to each
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Direction:
    """All queries of one side against the gallery of another, as retrieval ranks them.

    Args:
        queries: [q, d] unit rows, float64.
        gallery: [g, d] unit rows, float64.
        sets: [q] set of right answers of each query.
        right: The right gallery rows of a set.
        first_right: [q] rank of the first right answer, 1 the best; ties count against the query.
    """

    queries: Float[Array, "q d"]
    gallery: Float[Array, "g d"]
    sets: Int[np.ndarray, " q"]
    right: Answers | Exclusion
    first_right: Int[np.ndarray, " q"]


def direction(stages: Stages, query: str, gallery: str) -> Direction:
    """One direction of retrieval by the selected adapters; right is what the run's settings count as a hit."""
    sides, rows = stages.test.paired.sides, stages.selected.rows
    groups = {name: sides[name].groups.numpy() for name in (query, gallery)}
    answers = stages.test.answers[query, gallery] if stages.fitted.config.hits == "content" else None
    result = retrieval(
        rows[query], rows[gallery], query_groups=groups[query], gallery_groups=groups[gallery], answers=answers
    )
    asked, answering = (unit_rows(as_float64(rows[name], name), name) for name in (query, gallery))
    if answers is not None:
        return Direction(asked, answering, answers.sets, answers, result.ranks)
    return Direction(asked, answering, groups[query], Exclusion(groups[gallery]), result.ranks)


def answer_table(stages: Stages) -> "pl.DataFrame":
    """The five nearest rows to some queries of every direction, the best queries first.

    All queries are ranked by the rank of their first right answer, then by their margin. Stored are the 12 best, the 12
    worst, and up to 150 drawn with the run's seed.

    Returns:
        Columns direction ("a→b"), query (id of the row), group, label, first_right, margin (cosine of the best right
        answer less that of the best wrong one; null where no answer is wrong), rank (1 to 5), answer (id of the row),
        answer_group, right.
    """
    import polars as pl

    return pl.concat([_direction_table(stages, *ends) for ends in permutations(stages.test.paired.sides, 2)])


def _direction_table(stages: Stages, query: str, gallery: str) -> "pl.DataFrame":
    import polars as pl

    ranked, paired = direction(stages, query, gallery), stages.test.paired
    margin = margins(ranked)
    stored = chosen_queries(ranked.first_right, margin, stages.fitted.config.seed)
    rows, right = nearest(ranked, stored, SHOWN)
    shown, (asked, answering) = rows.shape[1], (paired.sides[name] for name in (query, gallery))
    assert asked.ids is not None and answering.ids is not None  # sides as they were paired have them
    numbers, answers = asked.groups.numpy()[stored], answering.groups.numpy()[rows.ravel()]
    known = {
        "query": asked.ids[stored].astype(str),
        "group": paired.groups[numbers],
        "label": paired.labels[numbers],
        "first_right": ranked.first_right[stored].astype(np.int64),
        "margin": margin[stored],
    }
    repeated = {name: values.repeat(shown) for name, values in known.items()}
    table = pl.DataFrame(
        {
            "direction": [f"{query}→{gallery}"] * rows.size,
            **repeated,
            "rank": np.tile(np.arange(1, shown + 1), len(stored)),
            "answer": answering.ids[rows.ravel()].astype(str),
            "answer_group": paired.groups[answers],
            "right": right.ravel(),
        }
    )
    return table.with_columns(pl.when(pl.col("margin").is_finite()).then("margin").alias("margin"))


def margins(ranked: Direction) -> Float[Array, " q"]:
    """Cosine of each query's best right answer less that of its best wrong one; infinite where none is wrong."""
    parts: list[Array] = []
    step = tile_rows(len(ranked.gallery), None)
    for start in range(0, len(ranked.queries), step):
        cosines = ranked.queries[start : start + step] @ ranked.gallery.T
        at, row = ranked.right.members(ranked.sets[start : start + step])
        right = np.maximum.reduceat(cosines[at, row], np.flatnonzero(np.diff(at, prepend=-1)))
        cosines[at, row] = -np.inf
        parts.append(right - cosines.max(axis=1))
    return np.concatenate(parts)


def chosen_queries(first_right: Int[np.ndarray, " q"], margin: Float[Array, " q"], seed: int) -> Int[np.ndarray, " m"]:
    """Numbers of the queries that are stored, best first: both ends of the ranking and a draw from all."""
    ranking = np.lexsort((-margin, first_right))
    drawn = np.random.default_rng(seed).permutation(len(ranking))[:DRAWN]
    stored = np.zeros(len(ranking), dtype=bool)
    stored[[*ranking[:EXTREMES], *ranking[-EXTREMES:], *drawn]] = True
    return ranking[stored[ranking]]


def nearest(ranked: Direction, queries: Int[np.ndarray, " m"], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest gallery rows of some queries, nearest first, and whether each is right.

    Decided in float64, pair by pair in a fixed order, as the ranks of retrieval; of equal rows the wrong ones come
    first, then the lower number.

    Returns:
        Gallery rows [m, most] and whether they are right [m, most]; fewer columns in a smaller gallery.
    """
    most = min(most, len(ranked.gallery))
    rows, right = np.empty((len(queries), most), np.int64), np.empty((len(queries), most), bool)
    step = tile_rows(len(ranked.gallery), None)
    for start in range(0, len(queries), step):
        tile = queries[start : start + step]
        cosines = ranked.queries[tile] @ ranked.gallery.T
        floors = np.partition(cosines, -most, axis=1)[:, -most] - 1e-9  # products in another order differ by less
        for place, (query, own, floor) in enumerate(zip(tile, cosines, floors, strict=True), start):
            near = np.flatnonzero(own >= floor)
            exact = paired_values(ranked.queries, ranked.gallery, np.full(len(near), query), near)
            hits = np.isin(near, ranked.right.members(ranked.sets[[query]])[1])
            order = np.lexsort((near, hits, -exact))[:most]
            rows[place], right[place] = near[order], hits[order]
    return rows, right
