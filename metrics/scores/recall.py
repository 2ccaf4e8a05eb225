"""Retrieval recall as one score of two spaces of one width."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from featcache.metrics.arrays import Groups, X, Y, check_same_width, checked, group_codes, is_whole
from featcache.metrics.comparison import RowComparison
from featcache.metrics.errors import BadChoice, TooFewRows
from featcache.metrics.scores.retrieval import retrieval


def retrieval_recall(x: X, y: Y, *, k: int = 10, groups: Groups | None = None) -> float:
    """Recall at k: share of x's rows whose partner in y is among the k rows of y nearest to them by cosine.

    In [0, 1]; higher is better; chance is k / n without groups, see `chance_recall`. Both spaces have one width, as
    behind two adapters. Ties count against the query. With groups any row of the group is a partner, else row i alone
    of row i. Not symmetric: swap x and y for the other direction. `retrieval` takes queries and galleries of unlike
    sizes (five captions a photo), several k at once, and gives ranks and intervals. Spaces and errors as
    `modality_gap`; 1 <= k < n.

    Example:
        >>> retrieval_recall(np.eye(4), np.eye(4)[[0, 1, 3, 2]], k=1)
        0.5

    Source: Faghri et al. 2018, arXiv:1707.05612.
    """
    return RecallComparison(k, groups)(x, y)


class Rows(NamedTuple):
    """One space, prepared: features [n, d] and the group number of each row [n]."""

    values: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True)
class RecallComparison(RowComparison[Rows]):
    """`retrieval_recall` in two steps."""

    k: int = 10
    groups: Groups | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.k) or self.k < 1:
            raise BadChoice(f"k = {self.k!r}: wanted a whole number, 1 or more")

    def prepare(self, x: X, name: str = "x") -> Rows:
        """The checked features and their groups."""
        values = checked(x, name)
        return Rows(values, group_codes(self.groups, len(values))[0])

    def rows(self, a: Rows, b: Rows) -> Float[np.ndarray, " n"]:
        """1 for a row that finds its partner, else 0; a partner is a row at a place of the same group."""
        check_same_width(a.values, b.values)
        if self.k >= len(a.values):
            raise TooFewRows(
                f"k = {self.k}: wanted fewer than the {len(a.values)} rows, or every row finds its partner"
            )
        result = retrieval(a.values, b.values, query_groups=a.codes, gallery_groups=a.codes, ks=(int(self.k),))
        return (result.ranks <= self.k).astype(np.float64)

    def take(self, space: Rows, rows: np.ndarray) -> Rows:
        """The rows, in that order."""
        return Rows(space.values[rows], space.codes[rows])
