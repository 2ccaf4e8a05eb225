"""Sums over rows, of degree 1 to 4, from which linear CKA follows; they can be moved to another origin and joined."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featcache.metrics.scores.gram import unbiased

_NOTHING = -5000  # the power of two of zeros: below any number's


class PairSums:
    """Sums over rows of two spaces: u and v are the squared lengths of the rows x and y.

    They hold from an origin, and can be moved to another: the sums of degree 4 need only those kept here.
    """

    NAMES = ("x", "y", "xy", "u", "v", "uy", "vx", "uv")
    DEGREES = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2), (2, 2))  # of x and y in each

    def __init__(self, n: int, sums: dict[str, Any]) -> None:
        self.n, self.sums = n, sums

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray | None = None) -> "PairSums":
        """Sums of rows [m, dx] and [m, dy]; of x with itself if y is None."""
        y = x if y is None else y
        u, v = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)
        values = (x.sum(axis=0), y.sum(axis=0), x.T @ y, u.sum(), v.sum(), u @ y, v @ x, u @ v)
        return cls(len(x), dict(zip(cls.NAMES, values, strict=True)))

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums(self.n + other.n, {name: self.sums[name] + other.sums[name] for name in self.NAMES})

    def scaled(self, p: int, q: int) -> "PairSums":
        """The sums of rows x * 2 ** p and y * 2 ** q."""
        powers = (i * p + j * q for i, j in self.DEGREES)
        return PairSums(
            self.n, {name: np.ldexp(self.sums[name], power) for name, power in zip(self.NAMES, powers, strict=True)}
        )

    def moved(self, a: np.ndarray, b: np.ndarray) -> "PairSums":
        """The sums of rows x + a and y + b."""
        n, (x, y, xy, u, v, uy, vx, uv) = self.n, (self.sums[name] for name in self.NAMES)
        aa, bb = a @ a, b @ b
        new_u, new_v = u + 2 * (x @ a) + n * aa, v + 2 * (y @ b) + n * bb
        values = (
            x + n * a,
            y + n * b,
            xy + np.outer(a, y) + np.outer(x + n * a, b),
            new_u,
            new_v,
            uy + 2 * (a @ xy) + aa * y + new_u * b,
            vx + 2 * (xy @ b) + bb * x + new_v * a,
            # (u + 2 x.a + a.a)(v + 2 y.b + b.b), multiplied out
            uv + 2 * (uy @ b) + 2 * (vx @ a) + 4 * (a @ xy @ b) + bb * (u + 2 * (x @ a)) + aa * (v + 2 * (y @ b))
            + n * aa * bb,
        )  # fmt: skip
        return PairSums(n, dict(zip(self.NAMES, values, strict=True)))

    def centred(self) -> "PairSums":
        """The sums around the mean."""
        return self.moved(-self.sums["x"] / self.n, -self.sums["y"] / self.n)

    def hsic(self, debiased: bool) -> float:
        """Inner product of the linear kernels, from sums around the mean."""
        product, n = float(np.sum(self.sums["xy"] ** 2)), self.n
        if not debiased:
            return product
        diagonals = float(self.sums["uv"])
        total = unbiased(n, product - diagonals, diagonals, float(self.sums["u"] * self.sums["v"]))
        return total if abs(total) * n * (n - 3) > 1e-14 * product else 0.0


Pairs = tuple[PairSums, PairSums, PairSums]


@dataclass(frozen=True, eq=False)
class Frame:
    """Origin and unit in which one space is summed: rows * 2 ** -power - origin."""

    origin: np.ndarray
    power: int


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over rows of two spaces: x with y, x with x, y with y.

    A power of two is taken out of each space so that no entry is above 1, nor any product beyond float64.
    """

    x: Frame
    y: Frame
    pairs: Pairs

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.pairs[0].n

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of x and y."""
        return len(self.x.origin), len(self.y.origin)

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, like: "Sums | None" = None) -> "Sums":
        """Sums of a batch, from its own mean, or from the origin of `like` in a unit that suits both."""
        (frame_x, a), (frame_y, b) = _shifted(x, like and like.x), _shifted(y, like and like.y)
        return cls(frame_x, frame_y, (PairSums.of(a, b), PairSums.of(a), PairSums.of(b)))

    def __add__(self, other: "Sums") -> "Sums":
        """Both together, from the origin that they share; other's unit is the larger one."""
        return replace(other, pairs=_added(self.in_units(other.x.power, other.y.power).pairs, other.pairs))

    def in_units(self, p: int, q: int) -> "Sums":
        """The same sums with 2 ** p taken out of x and 2 ** q out of y; exact unless they leave float64."""
        up, uq = self.x.power - p, self.y.power - q
        if up == uq == 0:
            return self
        x, y = Frame(np.ldexp(self.x.origin, up), p), Frame(np.ldexp(self.y.origin, uq), q)
        xy, xx, yy = self.pairs
        return Sums(x, y, (xy.scaled(up, uq), xx.scaled(up, up), yy.scaled(uq, uq)))

    def joined(self, other: "Sums") -> "Sums":
        """Both together, from the mean of all their rows."""
        units = max(self.x.power, other.x.power), max(self.y.power, other.y.power)
        a, b = self.in_units(*units), other.in_units(*units)
        means: list[np.ndarray] = []
        for name, p, q in (("x", a.x, b.x), ("y", a.y, b.y)):
            total = a.pairs[0].sums[name] + b.pairs[0].sums[name] + b.n * (q.origin - p.origin)
            means.append(p.origin + total / (a.n + b.n))
        x, y = means
        return Sums(Frame(x, units[0]), Frame(y, units[1]), _added(a.pairs_from(x, y), b.pairs_from(x, y)))

    def pairs_from(self, x: np.ndarray, y: np.ndarray) -> Pairs:
        """The sums from other origins."""
        (xy, xx, yy), a, b = self.pairs, self.x.origin - x, self.y.origin - y
        return xy.moved(a, b), xx.moved(a, a), yy.moved(b, b)


def _power(values: np.ndarray) -> int:
    """The least power of two above every entry."""
    peak = max(float(values.max()), -float(values.min()))
    return int(np.frexp(peak)[1]) if peak else _NOTHING


def _shifted(values: np.ndarray, like: Frame | None) -> tuple[Frame, np.ndarray]:
    """Rows from their own mean, or from the origin of `like` in a unit that suits both."""
    power = max(_power(values), like.power) if like else _power(values)
    scaled = np.ldexp(values.astype(np.float64), -power)
    origin = np.ldexp(like.origin, like.power - power) if like else scaled.mean(axis=0)
    return Frame(origin, power), scaled - origin


def _added(first: Pairs, second: Pairs) -> Pairs:
    (xy, xx, yy), (more_xy, more_xx, more_yy) = first, second
    return xy + more_xy, xx + more_xx, yy + more_yy
