"""Linear CKA of many subsets of the rows from one pass over the kernels, in tiles."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from featcache.metrics.errors import ConstantSpace
from featcache.metrics.knn.precision import full_precision
from featcache.metrics.scores.gram import NOISE, LinearKernel, RowKernel

_SINGLE = 1 << 32  # multiply-adds of a kernel [n, n] from which on its products are in float32
_PANEL_ENTRIES = 1 << 21


def linear_on_subsets(
    spaces: Sequence[LinearKernel], other: LinearKernel, masks: np.ndarray, *, debiased: bool, epsilon: float = 0.0
) -> np.ndarray:
    """CKA of each space with another on each subset of their rows, as if both were centred anew there.

    With the subsets' indicators H [n, r], the sums over pairs of rows of a subset are those of (K o L) H, and their row
    sums are K H and L H. Each kernel is multiplied once, half of it, a panel at a time; products in float32 where they
    are many, sums in float64.

    Args:
        spaces: Prepared spaces of n rows.
        other: The space that each is compared with.
        masks: [r, n], True for the rows of a subset.
        debiased: Whether the spaces are prepared for Song et al.'s estimate.
        epsilon: Added to the denominator.

    Returns:
        Scores [spaces, r].

    Raises:
        ConstantSpace: If a kernel is constant on a subset, and epsilon 0.
    """
    kernels = [_Subsets(space, masks, debiased=debiased) for space in (*spaces, other)]
    *firsts, last = kernels
    inner, owns = np.zeros((len(firsts), len(masks))), np.zeros((len(kernels), len(masks)))
    for part in _panels(len(other)):
        right = last.panel(part)
        owns[-1] += last.pair_sums(right * right, part)
        for place, first in enumerate(firsts):
            left = first.panel(part)
            inner[place] += first.pair_sums(left * right.to(left.dtype), part)
            owns[place] += first.pair_sums(left.square_(), part)
    products = np.array([first.centred(total, last) for first, total in zip(firsts, inner, strict=True)])
    norms = np.array([one.norm(total, check=epsilon == 0) for one, total in zip(kernels, owns, strict=True)])
    scale = np.sqrt(norms[:-1] * norms[-1])
    if not epsilon:
        return products / scale
    sizes = masks.sum(axis=1)
    unit = last.scale * np.array([one.scale for one in firsts])[:, None] / (sizes * (sizes - 3) if debiased else 1)
    return products * unit / (scale * unit + epsilon)


class _Subsets:
    """One linear kernel, over its norm, and its row sums within each subset."""

    def __init__(self, space: LinearKernel, masks: np.ndarray, *, debiased: bool) -> None:
        n, self.name, self.debiased = len(space), space.name, debiased
        self.scale = (space.own * (n * (n - 3) if debiased else 1)) ** 0.5 or 1.0
        self.source = space.rows if isinstance(space, RowKernel) else space.matrix
        self.low_rank = isinstance(space, RowKernel)
        wide = self.source.double() / (self.scale**0.5 if self.low_rank else self.scale)
        members = torch.from_numpy(np.ascontiguousarray(masks.T, dtype=np.float64)).to(wide)  # [n, r]
        with full_precision():
            sums = wide @ (wide.T @ members) if self.low_rank else wide @ members
        if debiased and isinstance(space, RowKernel):
            sums -= torch.from_numpy(space.lengths / self.scale).to(wide)[:, None]
        self.noise = NOISE[self.source.dtype]
        # A row that is no member has no part in its subset's sums.
        self.sums, self.totals = (sums := sums * members), sums.sum(dim=0).cpu().numpy()
        single = n * n * self.source.shape[1] > _SINGLE or self.source.dtype == torch.float32
        self.values = wide.float() if single else wide
        self.members = members.to(self.values.dtype)
        self.sizes = masks.sum(axis=1)

    def panel(self, part: slice) -> Tensor:
        """Rows `part` of the kernel from their own column on, the diagonal left out if debiased."""
        if not self.low_rank:
            return self.values[part, part.start :].clone()
        with full_precision():
            made = self.values[part] @ self.values[part.start :].T
        if self.debiased:
            made.diagonal().fill_(0)
        return made

    def pair_sums(self, products: Tensor, part: slice) -> np.ndarray:
        """Sum of a panel's products over the pairs of rows of each subset, both orders of a pair counted, [r]."""
        own, rest = self.members[part].to(products.dtype), self.members[part.start :].to(products.dtype)
        products[:, : len(own)] /= 2  # pairs within the panel stand there in both orders
        with full_precision():
            sums = products @ rest
        return 2 * torch.sum(sums * own, dim=0, dtype=torch.float64).cpu().numpy()

    def centred(self, total: np.ndarray, other: "_Subsets") -> np.ndarray:
        """Inner product of the kernels, both centred (or U-centred) on each subset, from that of the kernels as is."""
        m, cross = self.sizes, (self.sums * other.sums.to(self.sums)).sum(dim=0).cpu().numpy()
        both = self.totals * other.totals
        if self.debiased:
            return total + both / ((m - 1) * (m - 2)) - 2 * cross / (m - 2)
        return total + both / m**2 - 2 * cross / m

    def norm(self, total: np.ndarray, *, check: bool) -> np.ndarray:
        """Inner product of the centred kernel with itself on each subset; 0 where nothing but rounding is left."""
        own = self.centred(total, self)
        own = np.where(own > self.noise * total, own, 0.0)
        if check and not own.all():
            raise ConstantSpace(f"{self.name}: the centred linear kernel is zero: all rows look alike")
        return own


def _panels(n: int) -> Iterator[slice]:
    step = max(16, _PANEL_ENTRIES // n)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
