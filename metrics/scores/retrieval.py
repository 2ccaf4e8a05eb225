"""Retrieval by cosine: ranks, recall at k, chance level and interval."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from featcache.metrics.arrays import Groups, X, Y, as_float64, group_codes, labels, unit_rows
from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.knn.exact import paired_values, relative_bound
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.knn.precision import full_precision
from featcache.metrics.knn.search import tile_rows
from featcache.metrics.scores.answers import Answers
from featcache.metrics.scores.reaching import count_reaching


@dataclass(frozen=True, eq=False)
class Retrieval:
    """How well queries find the gallery rows of their group."""

    ranks: Int[np.ndarray, " q"]  # rank of each query's best match, [q]; 1 is best, ties counted against it
    recall: dict[int, float]  # k -> share of queries with rank <= k
    low: dict[int, float]  # k -> lower end of the 95 % interval of recall
    high: dict[int, float]  # k -> upper end
    chance: dict[int, float]  # k -> recall of a random order
    median_rank: float  # median of `ranks`
    chance_median_rank: int  # median rank of a random order
    gallery: int  # number of rows
    estimand: str = "recall of other query groups against this gallery (95 %, clustered by group)"


def retrieval(
    queries: X,
    gallery: Y,
    *,
    query_groups: Groups,
    gallery_groups: Groups,
    ks: Sequence[int] = (1, 5, 10),
    answers: Answers | None = None,
    tile: int | None = None,
) -> Retrieval:
    """Rank of the best right answer to each query, by cosine, and recall at k.

    Right are the gallery rows of the query's group, or those of `answers`. A rank is 1 + the other rows that are at
    least as similar as the best right one: ties count against the query, so a collapsed space is at the bottom, not at
    the top. Near ties are decided in float64: the ranks do not depend on tile, threads or device. Memory: O(tile * g).

    Args:
        queries: [q, d] features.
        gallery: [g, d] features of the same width.
        query_groups: The group of each query, which its interval is clustered by.
        gallery_groups: The group of each gallery row.
        ks: Cut-offs, each 1 or more.
        answers: From `right_answers` of the same groups, where rows of several groups may have the same content (a
            caption that two photos share); None: a hit is any gallery row of the query's group.
        tile: Queries at a time; None chooses.

    Raises:
        BadShape: If widths differ, or groups or answers do not fit.
        BadDtype, NotFinite, ZeroRow: As `mutual_knn`.
        BadChoice: If a cut-off is no whole number of 1 or more, or a query's group is not in the gallery; names the
            query.

    Example:
        >>> x = torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> result = retrieval(x, x, query_groups="abc", gallery_groups="abc", ks=(1,))
        >>> result.recall, result.chance[1]
        ({1: 1.0}, 0.3333333333333333)

    Source: Faghri et al. 2018, arXiv:1707.05612 (recall at k, five captions a photo); interval: `clustered_wilson`.
    """
    q, g = unit_rows(as_float64(queries, "queries"), "queries"), unit_rows(as_float64(gallery, "gallery"), "gallery")
    if q.shape[1] != g.shape[1]:
        raise BadShape(f"queries are {q.shape[1]} wide and the gallery {g.shape[1]}: map both into one space first")
    if not isinstance(ks, Iterable) or not len(ks) or not all(_is_count(k) for k in ks):
        raise BadChoice(f"ks = {ks!r}: wanted one or more cut-offs, each a whole number of 1 or more")
    query_codes, own = _coded(query_groups, gallery_groups, len(q), len(g))
    if answers is not None and (len(answers.sets), len(answers.rows.codes)) != (len(q), len(g)):
        fits = f"{len(answers.sets)} queries and {len(answers.rows.codes)} gallery rows"
        raise BadShape(f"answers are of {fits}; there are {len(q)} and {len(g)}")
    sets, matches = (query_codes, own) if answers is None else (answers.sets, answers)
    sizes = matches.sizes[sets]
    device = queries.device if isinstance(queries, torch.Tensor) else torch.device("cpu")
    ranks = np.concatenate(list(_rank_tiles(q, g, sets, matches, tile, device)))
    bounds = {k: clustered_wilson(ranks <= k, query_codes) for k in ks}
    return Retrieval(
        ranks=ranks,
        recall={k: float(np.mean(ranks <= k)) for k in ks},
        low={k: low for k, (low, _) in bounds.items()},
        high={k: high for k, (_, high) in bounds.items()},
        chance={k: chance_recall(sizes, len(g), k) for k in ks},
        median_rank=float(np.median(ranks)),
        chance_median_rank=_chance_median(sizes, len(g)),
        gallery=len(g),
    )


def _coded(query_groups: Groups, gallery_groups: Groups, q: int, g: int) -> tuple[np.ndarray, Exclusion]:
    sides = (query_groups, q, "query_groups"), (gallery_groups, g, "gallery_groups")
    both: Any = [groups for groups, n, _ in sides if isinstance(groups, np.ndarray) and groups.shape == (n,)]
    if len(both) == 2 and all(groups.dtype.kind == "i" for groups in both):
        both = np.concatenate(both)
    else:
        both = [label for side in sides for label in labels(*side)]
    codes, order = group_codes(both, q + g)
    matches = Exclusion(codes[q:], len(order))
    alone = np.flatnonzero(matches.sizes[codes[:q]] == 0)
    if len(alone):
        raise BadChoice(
            f"{len(alone)} of {q} queries have no gallery row of their group; the first is query {alone[0]}, "
            f"group {[*query_groups][alone[0]]}. Drop them, or add their rows to the gallery"
        )
    return codes[:q], matches


def _rank_tiles(
    q: np.ndarray,
    g: np.ndarray,
    sets: np.ndarray,
    matches: Exclusion | Answers,
    tile: int | None,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Ranks of each tile of queries: float32 where it is certain, float64 within the error bound of the best match."""
    left = torch.from_numpy(q.astype(np.float32)).to(device)
    right = torch.from_numpy(g.astype(np.float32)).to(device)
    bound = relative_bound(q.shape[1])
    step = tile_rows(len(g), tile)
    for start in range(0, len(q), step):
        part = np.arange(start, min(start + step, len(q)))
        position, rows = matches.members(sets[part])
        with full_precision():
            scores = left[start : start + step] @ right.T
        at, other = torch.from_numpy(position).to(device), torch.from_numpy(rows).to(device)
        best = _best(q, g, start, position, rows, scores[at, other].cpu().numpy())
        scores[at, other] = -torch.inf
        high, low = ((best + shift).astype(np.float32) for shift in (bound, -bound))
        above, at, other = _counted(scores, high, low)
        reached = paired_values(q, g, part[at], other) >= best[at]
        yield 1 + above + np.bincount(at[reached], minlength=len(part))


def _counted(
    scores: torch.Tensor, high: np.ndarray, low: np.ndarray
) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, " close"], Int[np.ndarray, " close"]]:
    """How many scores of each row are `high` or more; row and column of those from `low` to below `high`."""
    if scores.device.type == "cpu":
        return count_reaching(scores.numpy(), high, low)
    above, near = (scores >= torch.from_numpy(floor).to(scores.device)[:, None] for floor in (high, low))
    at, other = (near & ~above).nonzero(as_tuple=True)
    return above.sum(dim=1).cpu().numpy(), at.cpu().numpy(), other.cpu().numpy()


def _best(
    q: np.ndarray, g: np.ndarray, start: int, position: np.ndarray, rows: np.ndarray, proposed: np.ndarray
) -> np.ndarray:
    """The float64 similarity of each query's best match, of those that float32 does not rule out."""
    first = np.flatnonzero(np.diff(position, prepend=-1))
    values = proposed.astype(np.float64)
    floor = np.maximum.reduceat(values, first) - 2 * relative_bound(q.shape[1])
    left = values >= floor[position]
    position, rows = position[left], rows[left]
    first = np.flatnonzero(np.diff(position, prepend=-1))
    return np.maximum.reduceat(paired_values(q, g, start + position, rows), first)


def chance_recall(matches: Int[np.ndarray, " q"] | Sequence[int], gallery: int, k: int) -> float:
    """Recall at k of a random order of the gallery: the hypergeometric mean of 1 - C(g - m, k) / C(g, k).

    `matches` are the gallery rows m that count as a hit, for each query, of `gallery` rows g. BadChoice if k < 1 or a
    query has no match, or more than there are rows.

    Example:
        >>> round(chance_recall([5], 5000, 10), 5)
        0.00996
    """
    m = np.asarray(matches, dtype=np.float64)
    if not _is_count(k) or m.min() < 1 or m.max() > gallery:
        values_given = f"k = {k}, {m.min():g} to {m.max():g}"
        raise BadChoice(f"wanted a whole k >= 1 and 1 to {gallery} matches a query, got {values_given}")
    missed = np.ones_like(m)
    for drawn in range(min(k, gallery)):
        missed *= np.maximum(gallery - m - drawn, 0) / (gallery - drawn)
    return float(np.mean(1 - missed))


def _is_count(k: object) -> bool:
    return isinstance(k, int | np.integer) and not isinstance(k, bool) and int(k) >= 1


def _chance_median(matches: np.ndarray, gallery: int) -> int:
    sizes, counts = np.unique(matches, return_counts=True)
    missed = np.ones(len(sizes))
    for drawn in range(gallery):
        missed *= np.maximum(gallery - sizes - drawn, 0) / (gallery - drawn)
        if missed @ counts <= len(matches) / 2:
            return drawn + 1
    return gallery


def clustered_wilson(
    hits: Bool[np.ndarray, " q"] | Float[np.ndarray, " q"], clusters: Groups, *, z: float = 1.959964
) -> tuple[float, float]:
    """Ends of the Wilson interval of a mean of hits whose queries come in clusters (five captions of one photo).

    The effective number of queries is p (1 - p) over the variance of p between clusters, at most q and at least the
    number of clusters where nothing varies; queries are the sampling unit, never gallery rows.

    Args:
        hits: 0 or 1 a query.
        clusters: The cluster of each query; clusters are independent. BadShape if there is not one a query.
        z: Normal quantile; 1.96 for 95 %.

    Example:
        >>> low, high = clustered_wilson(np.repeat([1, 0], 50), range(100))
        >>> round(low, 3), round(high, 3)
        (0.403, 0.597)

    Source: Wilson 1927, JASA 22; effective sample size: Kish 1965, Survey Sampling, section 8.2.
    """
    values = np.asarray(hits, dtype=np.float64)
    q = len(values)
    codes = group_codes(clusters, q, "clusters")[0]
    sizes = np.bincount(codes)
    count, p = len(sizes), float(values.mean())
    off = np.bincount(codes, weights=values) - p * sizes
    variance = float(off @ off) / q**2 * (count / (count - 1) if count > 1 else 1.0)
    effective = min(float(q), p * (1 - p) / variance) if variance > 0 else float(count)
    middle = (p + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * float(np.sqrt(p * (1 - p) / effective + z * z / (4 * effective**2)))
    # Rounding must not push an end past the value itself.
    return max(0.0, min(middle - half, p)), min(1.0, max(middle + half, p))
