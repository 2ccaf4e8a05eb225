"""The Hilbert-Schmidt independence criterion (HSIC), in each convention that is in use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from featcache.metrics.arrays import X, Y
from featcache.metrics.comparison import Comparison, check_flag
from featcache.metrics.scores.gram import LinearKernel
from featcache.metrics.scores.kernels import (
    KERNELS,
    Kernel,
    LinearCka,
    RbfCka,
    RbfKernel,
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

    0 or more if biased; higher is more dependent. Symmetric; no upper bound, and it grows with the features' scale:
    `cka` is the form that may be compared between spaces. Debiased, it is signed: negative by chance for unrelated
    spaces. Spaces, kernel, sigma and errors as `cka`.

    Args:
        x: Features [n, dx].
        y: Features [n, dy] of the same samples.
        kernel: "linear" or "rbf".
        debiased: Song et al.'s unbiased estimate, which divides by n (n - 3) whatever the divisor; needs n >= 4.
        sigma: Width of "rbf".
        divisor: Of tr(KHLH), biased: "(n-1)^2" (Gretton et al. 2005), "n^2" (the V-statistic, Gretton et al. 2008) or
            "1" (the trace itself: platonic-rep's `hsic_biased`).

    Example:
        >>> x = np.array([[0.0], [2.0], [4.0]])
        >>> hsic(x, x), hsic(x, x, divisor="1")
        (16.0, 64.0)

    Source: Gretton et al. 2005, Algorithmic Learning Theory, eq. 9; debiased: Song et al. 2012, JMLR 13, eq. 5.
    """
    return HsicComparison(kernel, debiased, sigma, divisor)(x, y)


@dataclass(frozen=True)
class HsicComparison(Comparison[LinearKernel | RbfKernel]):
    """`hsic` in two steps."""

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

    def prepare(self, x: X, name: str = "x") -> LinearKernel | RbfKernel:
        """As the CKA of this kernel."""
        return self._cka.prepare(x, name)

    def compare(self, a: LinearKernel | RbfKernel, b: LinearKernel | RbfKernel) -> float:
        """0 where a kernel is constant."""
        return self._cka.product(a, b) * self._unit(a, b)

    def take(self, space: LinearKernel | RbfKernel, rows: np.ndarray) -> LinearKernel | RbfKernel:
        """As the CKA of this kernel."""
        return self._cka.take(space, rows)

    def permuted(self, a: LinearKernel | RbfKernel, b: LinearKernel | RbfKernel, orders: np.ndarray) -> np.ndarray:
        """As the CKA of this kernel, times the norms."""
        unit = self.of_cosine(a, b)
        return self._cka.permuted(a, b, orders) * unit if unit else np.zeros(len(orders))

    def self_score(self, space: LinearKernel | RbfKernel) -> float:
        """From the norm, which is known."""
        return self.of_cosine(space, space)

    def permutation_cost(self, a: LinearKernel | RbfKernel, b: LinearKernel | RbfKernel) -> float | None:
        """As the CKA of this kernel."""
        return self._cka.permutation_cost(a, b)

    def of_cosine(self, a: LinearKernel | RbfKernel, b: LinearKernel | RbfKernel) -> float:
        """The criterion of two spaces whose CKA is 1: what turns moments of CKA into those of HSIC."""
        return float(np.sqrt(a.own * b.own)) * self._unit(a, b)
