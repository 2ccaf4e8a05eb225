"""How far from independent are two spaces? The Hilbert-Schmidt criterion, in each convention that is in use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from featcache.metrics.arrays import X, Y
from featcache.metrics.comparison import Comparison, check_flag
from featcache.metrics.scores.gram import LinearSide
from featcache.metrics.scores.kernels import (
    KERNELS,
    Kernel,
    LinearCka,
    RbfCka,
    RbfSide,
    Sigma,
    check_choice,
    check_sigma,
)

Divisor = Literal["(n-1)^2", "n^2", "1"]
DIVISORS: dict[str, Callable[[int], float]] = {
    "(n-1)^2": lambda n: (n - 1.0) ** 2,
    "n^2": lambda n: float(n) ** 2,
    "1": lambda n: 1.0,
}


def hsic(
    x: X,
    y: Y,
    *,
    kernel: Kernel = "linear",
    debiased: bool = False,
    sigma: Sigma = 1.0,
    divisor: Divisor = "(n-1)^2",
) -> float:
    """Hilbert-Schmidt independence criterion: how far two spaces are from independent, in units of their kernels.

    Row i of x and y is the same sample. Symmetric; no upper bound, and it grows with the features' scale: `cka` is the
    form that may be compared between spaces. Debiased, it is signed: negative by chance for unrelated spaces.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space.
        kernel: "linear" or "rbf", as in `cka`.
        debiased: Song et al.'s unbiased estimate, which divides by n (n - 3) whatever the divisor; needs n >= 4.
        sigma: Width of "rbf", as in `cka`.
        divisor: Of tr(KHLH), biased: "(n-1)^2" (Gretton et al. 2005), "n^2" (the V-statistic, Gretton et al. 2008) or
            "1" (the trace itself: platonic-rep's `hsic_biased`).

    Returns:
        The criterion; 0 or more if biased.

    Raises:
        BadShape, BadDtype, NotFinite, TooFewRows: As `mutual_knn`.
        BadChoice: If kernel, sigma or divisor is none that exists, or debiased neither True nor False.

    Example:
        >>> x = np.array([[0.0], [2.0], [4.0]])
        >>> hsic(x, x), hsic(x, x, divisor="1")
        (16.0, 64.0)

    Source:
        Gretton et al. 2005, Algorithmic Learning Theory, eq. 9; debiased: Song et al. 2012, JMLR 13, eq. 5.
    """
    return HsicComparison(kernel, debiased, sigma, divisor)(x, y)


@dataclass(frozen=True)
class HsicComparison(Comparison[LinearSide | RbfSide]):
    """HSIC; arguments as `hsic`."""

    kernel: Kernel = "linear"
    debiased: bool = False
    sigma: Sigma = 1.0
    divisor: Divisor = "(n-1)^2"

    def __post_init__(self) -> None:
        check_choice("kernel", self.kernel, KERNELS)
        check_choice("divisor", self.divisor, tuple(DIVISORS))
        check_sigma(self.sigma)
        check_flag("debiased", self.debiased)
        object.__setattr__(self, "at_least", 4 if self.debiased else 2)

    @property
    def _cka(self) -> Any:
        return LinearCka(self.debiased) if self.kernel == "linear" else RbfCka(self.debiased, self.sigma)

    def _unit(self, a: Any, b: Any) -> float:
        """What an inner product of the centred kernels is worth."""
        exponent = -2.0 * (a.exponent + b.exponent) if self.kernel == "linear" else 0.0
        divisor = 1.0 if self.debiased else DIVISORS[self.divisor](len(a))
        with np.errstate(over="ignore", under="ignore"):
            return float(np.exp2(exponent)) / divisor

    def prepare(self, x: X, name: str = "x") -> LinearSide | RbfSide:
        """As the CKA of this kernel."""
        return self._cka.prepare(x, name)

    def compare(self, a: LinearSide | RbfSide, b: LinearSide | RbfSide) -> float:
        """HSIC of two prepared spaces; 0 where a kernel is constant."""
        return self._cka.product(a, b) * self._unit(a, b)

    def take(self, side: LinearSide | RbfSide, rows: np.ndarray) -> LinearSide | RbfSide:
        """As the CKA of this kernel."""
        return self._cka.take(side, rows)

    def permuted(self, a: LinearSide | RbfSide, b: LinearSide | RbfSide, orders: np.ndarray) -> np.ndarray:
        """As the CKA of this kernel, times the norms."""
        scale = float(np.sqrt(a.own * b.own))
        return self._cka.permuted(a, b, orders) * scale * self._unit(a, b) if scale else np.zeros(len(orders))
