"""Metrics of rows that arrive in batches, for the inside of a training or evaluation loop.

The methods are those of torchmetrics (update, compute, reset), without needing it. Rows are detached from autograd.
Under torch.distributed each process updates its own; the objects pickle, so gather and `merge` them.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from featcache.metrics.arrays import Groups, X, Y, checked, labels
from featcache.metrics.comparison import check_flag
from featcache.metrics.errors import BadChoice, BadShape, ConstantSpace, TooFewRows
from featcache.metrics.scores.sums import Sums
from featcache.metrics.table import chosen

Ids = Sequence[Hashable] | np.ndarray | torch.Tensor
Labels = list[Hashable] | None
Duplicates = Literal["refuse", "drop"]

_ROUNDING = 2.0**-50  # of entries up to 1: rows that differ by less are one row


class CkaSums:
    """Linear CKA in one pass over batches, in O(d^2) memory, equal to the n x n formula in float64.

    Keeps, for x with y, x with x and y with y: sums of rows, of products, of rows times squared lengths and of products
    of squared lengths, each from a point near the mean (that of the first half of the rows or more), because sums
    around 0 would cancel.

    Example:
        >>> from featcache.metrics import cka
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 8))
        >>> sums = CkaSums()
        >>> for start in range(0, 50, 20):
        ...     sums.update(x[start : start + 20], y[start : start + 20])
        >>> abs(sums.compute(debiased=True) - cka(x, y, debiased=True)) < 1e-12
        True

    Source: Song et al. 2012, JMLR 13, eq. 5, for linear kernels: rows of a centred kernel sum to 0.
    """

    def __init__(self) -> None:
        self._sums: Sums | None = None
        self._rows_at_move = 0  # rows when the origin was last moved

    def __len__(self) -> int:
        return self._sums.n if self._sums else 0

    def update(self, x: X, y: Y) -> None:
        """Adds a batch of one row or more; errors as `cka`, BadShape also if widths differ from earlier batches'."""
        a, b = _batch(x, y)
        known = self._sums
        if known is None:
            self._join(Sums.of(a, b))
            return
        _check_widths((a.shape[1], b.shape[1]), known.widths)
        # The origin moves whenever the rows have doubled: it stays near the mean even if the first rows were far away.
        if len(self) + len(a) < 2 * self._rows_at_move:
            self._sums = known + Sums.of(a, b, known)
        else:
            self._join(Sums.of(a, b))

    def merge(self, other: "CkaSums") -> None:
        """Adds the rows that another object has seen; BadShape if the widths differ."""
        if other._sums is not None:
            if self._sums is not None:
                _check_widths(other._sums.widths, self._sums.widths)
            self._join(other._sums)

    def compute(self, *, debiased: bool = False) -> float:
        """Linear CKA of all rows seen; TooFewRows below 2 rows, debiased 4, ConstantSpace if a kernel is constant."""
        if len(self) < (4 if debiased else 2) or self._sums is None:
            raise TooFewRows(f"wanted at least {4 if debiased else 2} rows, got {len(self)}")
        xy, xx, yy = (pair.centred().hsic(debiased) for pair in self._sums.pairs)
        for own, name, width in zip((xx, yy), "xy", self._sums.widths, strict=True):
            if own <= (len(self) * width * _ROUNDING**2) ** 2:
                raise ConstantSpace(f"{name}: the centred linear kernel is zero: all rows look alike")
        return float(xy / (np.sqrt(xx) * np.sqrt(yy)))

    def _join(self, more: "Sums") -> None:
        """Adds rows that were summed from another origin, and moves the origin to the mean of all."""
        self._sums = more if self._sums is None else self._sums.joined(more)
        self._rows_at_move = len(self)


class Streaming(ABC):
    """A metric of two spaces whose rows arrive in batches: update, compute, reset, merge.

    Ids guard against counting a sample twice: samplers of distributed evaluation pad the last batch with samples that
    were seen, and those would be each other's nearest neighbours. A repeated id is refused by default, because it may
    also mean that ids name groups (five captions of one photo), which go into `groups`.

    Args:
        duplicates: "refuse" a repeated id, or "drop" its row: the first one counts.
    """

    def __init__(self, duplicates: Duplicates = "refuse") -> None:
        if duplicates not in ("refuse", "drop"):
            raise BadChoice(f"duplicates {duplicates!r} is unknown; there are refuse, drop")
        self.duplicates = duplicates
        self._seen: set[Hashable] = set()
        self.reset()

    @abstractmethod
    def __len__(self) -> int:
        """Rows that count."""

    @abstractmethod
    def compute(self) -> float:
        """The score of all rows so far; raises as the metric."""

    def reset(self) -> None:
        """Forgets all rows."""
        self._seen = set()
        self._forget()

    def update(self, x: X, y: Y, *, ids: Ids | None = None, groups: Groups | None = None) -> None:
        """Adds a batch of one row or more.

        Args:
            x: Features [m, dx] of the first space.
            y: Features [m, dy] of the same samples, in the same order.
            ids: One hashable a row, always or never.
            groups: The group of each row, always or never; only neighbour metrics use them.

        Raises:
            BadShape, BadDtype, NotFinite: As the metric; BadShape also if widths change, or ids or groups do not fit.
            BadChoice: If an id was seen and duplicates are refused.
        """
        a, b = _batch(x, y)
        names = None if ids is None else labels(ids, len(a), "ids")
        kinds = None if groups is None else labels(groups, len(a), "groups")
        keep = self._unseen(names, len(a))
        if keep:
            own = [None if values is None else [values[row] for row in keep] for values in (names, kinds)]
            self._add(a[keep], b[keep], *own)
            self._seen.update(names or ())

    def _unseen(self, names: Labels, m: int) -> list[int]:
        if len(self) and (names is None) == bool(self._seen):
            raise BadShape("ids were given for some batches and not for others; give them always or never")
        if names is None:
            return list(range(m))
        first = dict(zip(reversed(names), reversed(range(m)), strict=True))
        keep = [row for row, name in enumerate(names) if first[name] == row and name not in self._seen]
        if len(keep) < m and self.duplicates == "refuse":
            again = next(name for row, name in enumerate(names) if first[name] != row or name in self._seen)
            raise BadChoice(
                f'id {again!r} came twice: what a padded sampler repeats, duplicates="drop" leaves out; rows that show '
                "the same thing are told by groups=, not by equal ids"
            )
        return keep

    @abstractmethod
    def _forget(self) -> None: ...

    @abstractmethod
    def _add(self, a: np.ndarray, b: np.ndarray, ids: Labels, groups: Labels) -> None: ...


class StreamingCka(Streaming):
    """Linear CKA of rows that arrive in batches, in O(d^2) memory whatever their number (`CkaSums`).

    Args:
        debiased: As in `cka`.
        duplicates: "refuse" a repeated id or "drop" its row; ids are kept, O(n), where they are given.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> score = StreamingCka(debiased=True)
        >>> for start in range(0, 50, 10):
        ...     score.update(x[start : start + 10], 2 * x[start : start + 10], ids=range(start, start + 10))
        >>> round(score.compute(), 6)
        1.0
    """

    def __init__(self, *, debiased: bool = False, duplicates: Duplicates = "refuse") -> None:
        check_flag("debiased", debiased)
        self.debiased = debiased
        super().__init__(duplicates)

    def __len__(self) -> int:
        return len(self._sums)

    def compute(self) -> float:
        """The score of all rows so far; raises as `CkaSums.compute`."""
        return self._sums.compute(debiased=self.debiased)

    def merge(self, other: "StreamingCka") -> None:
        """Adds what another process has seen.

        Raises:
            BadShape: If the widths differ, or one has ids and the other none.
            BadChoice: If an id is in both (a row cannot be taken out of sums), or only one is debiased.
        """
        if self.debiased != other.debiased:
            raise BadChoice("biased and debiased are not one metric")
        if len(self) and len(other) and bool(self._seen) != bool(other._seen):
            raise BadShape("one of the two was given ids and the other was not; give them always or never")
        both = self._seen & other._seen
        if both:
            raise BadChoice(
                f"{len(both)} ids are in both, among them {next(iter(both))!r}: sums cannot give a row back. Let no "
                'sampler pad (drop_last, or a sampler without padding), or use StreamingMetric("cka_debiased")'
            )
        self._sums.merge(other._sums)
        self._seen |= other._seen

    def _forget(self) -> None:
        self._sums = CkaSums()

    def _add(self, a: np.ndarray, b: np.ndarray, ids: Labels, groups: Labels) -> None:
        self._sums.update(a, b)


class StreamingMetric(Streaming):
    """Any metric of `METRICS` of rows that arrive in batches: keeps them all on the CPU, in the dtype they came in.

    Memory: 4 n (dx + dy) bytes of float32 rows; a wider dtype in one batch widens all when the score is computed.
    Options are the metric's ("k", "metric", ...), but for groups: those come with each batch. BadChoice for what does
    not exist.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> score = StreamingMetric("mutual_knn", k=5)
        >>> for start in range(0, 50, 10):
        ...     score.update(x[start : start + 10], -x[start : start + 10])
        >>> score.compute()
        1.0
    """

    def __init__(self, name: str = "mutual_knn", *, duplicates: Duplicates = "refuse", **options: Any) -> None:
        if "groups" in options:
            raise BadChoice("groups= belongs to update: the groups of a batch come with its rows")
        chosen(name, **options)
        self.name, self.options = name, options
        super().__init__(duplicates)

    def __len__(self) -> int:
        return sum(map(len, self._x))

    def compute(self) -> float:
        """The score of all rows so far; raises as the metric."""
        if not self._x:
            raise TooFewRows("no rows yet; update first")
        groups = self._groups or None
        return chosen(self.name, groups=groups, **self.options)[1](np.concatenate(self._x), np.concatenate(self._y))

    def merge(self, other: "StreamingMetric") -> None:
        """Adds the rows that another process has seen; raises as `update`, and BadChoice if the metrics differ."""
        if (self.name, self.options) != (other.name, other.options):
            raise BadChoice(f"{self.name} with {self.options} and {other.name} with {other.options} are not one metric")
        if len(other):
            x, y = np.concatenate(other._x), np.concatenate(other._y)
            self.update(x, y, ids=other._ids or None, groups=other._groups or None)

    def _forget(self) -> None:
        self._x: list[np.ndarray] = []
        self._y: list[np.ndarray] = []
        self._ids: list[Hashable] = []
        self._groups: list[Hashable] = []

    def _add(self, a: np.ndarray, b: np.ndarray, ids: Labels, groups: Labels) -> None:
        if self._x:
            if (groups is None) == bool(self._groups):
                raise BadShape("groups were given for some batches and not for others; give them always or never")
            _check_widths((a.shape[1], b.shape[1]), (self._x[0].shape[1], self._y[0].shape[1]))
        self._x.append(a)
        self._y.append(b)
        self._ids += ids or []
        self._groups += groups or []


def _check_widths(widths: tuple[int, int], known: tuple[int, int]) -> None:
    if known != widths:
        raise BadShape(f"x and y are {widths} columns wide; the rows before were {known}")


def _batch(x: X, y: Y) -> tuple[np.ndarray, np.ndarray]:
    a, b = checked(x, "x"), checked(y, "y")
    if len(a) != len(b):
        raise BadShape(f"x has {len(a)} rows and y has {len(b)}: row i of both must be the same sample")
    return a, b
