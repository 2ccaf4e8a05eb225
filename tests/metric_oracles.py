"""The published algorithms as they are defined: dense, slow and obvious, on the device and in the dtype of x.

Written from the formulas (Huh et al. 2024; Song et al. 2012, eq. 5) in the way in which the published code computes
them: whole n x n matrices, a full sort of every row, matrix products of kernels. Tests check the fast forms against
these; the benchmark measures against them.
"""

import torch
from torch import Tensor


def dense_mutual_knn(x: Tensor, y: Tensor, *, k: int = 10) -> float:
    """Mean shared fraction of the k nearest by cosine: full matrices, full sorts, masks [n, n] in the features' dtype.

    Some 21 bytes n^2 in float32, as the published code takes.
    """
    masks = []
    for values in (x, y):
        unit = torch.nn.functional.normalize(values, dim=1)
        similarities = (unit @ unit.T).fill_diagonal_(-1e8)
        nearest = similarities.argsort(dim=1, descending=True)[:, :k]
        masks.append(torch.zeros_like(similarities).scatter_(1, nearest, 1.0))
    return ((masks[0] * masks[1]).sum(dim=1) / k).mean().item()


def dense_unbiased_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of Song et al.'s unbiased HSIC, the third term from the matrix product of the kernels."""

    def hsic(k: Tensor, q: Tensor) -> Tensor:
        n = len(k)
        k, q = k.clone().fill_diagonal_(0), q.clone().fill_diagonal_(0)
        first = (k * q.T).sum()
        second = k.sum() * q.sum() / ((n - 1) * (n - 2))
        third = 2 * (k @ q).sum() / (n - 2)
        return (first + second - third) / (n * (n - 3))

    kx, ky = x @ x.T, y @ y.T
    return (hsic(kx, ky) / (hsic(kx, kx) * hsic(ky, ky)).sqrt()).item()


def best_dense_debiased_cka(x: Tensor, y: Tensor) -> float:
    """The same from n x n kernels without a product of kernels: 1' K L 1 is an inner product of row sums."""
    n = len(x)
    kernels = [(values @ values.T).fill_diagonal_(0) for values in (x, y)]
    sums = [kernel.sum(dim=1, dtype=torch.float64) for kernel in kernels]

    def hsic(i: int, j: int) -> Tensor:
        first = (kernels[i] * kernels[j]).sum(dtype=torch.float64)
        second = sums[i].sum() * sums[j].sum() / ((n - 1) * (n - 2))
        return first + second - 2 * (sums[i] @ sums[j]) / (n - 2)

    return (hsic(0, 1) / (hsic(0, 0) * hsic(1, 1)).sqrt()).item()


def dense_cka(kx: Tensor, ky: Tensor) -> float:
    """Kornblith et al. 2019, eq. 3: tr(K H L H) over the norms, from kernels [n, n]."""
    return (dense_hsic(kx, ky) / (dense_hsic(kx, kx) * dense_hsic(ky, ky)) ** 0.5).item()


def dense_hsic(kx: Tensor, ky: Tensor) -> Tensor:
    """tr(K H L H), the centring matrix H written out."""
    n = len(kx)
    h = torch.eye(n, dtype=kx.dtype, device=kx.device) - 1 / n
    return torch.trace(kx @ h @ ky @ h)


def dense_rbf(x: Tensor, sigma: float) -> Tensor:
    """exp(-d^2 / (2 sigma^2)) of every pair of rows, [n, n]."""
    return torch.exp(-((x[:, None] - x[None]) ** 2).sum(dim=-1) / (2 * sigma**2))


def dense_cknna(x: Tensor, y: Tensor, *, k: int, unbiased: bool) -> float:
    """CKNNA of inner products: HSIC of kernels masked to the k largest entries of each row that both have.

    Unbiased, the diagonal is no candidate; biased, it is.
    """
    n = len(x)

    def mask(kernel: Tensor) -> Tensor:
        candidates = kernel.clone().fill_diagonal_(-torch.inf) if unbiased else kernel
        return torch.zeros_like(kernel).scatter_(1, candidates.topk(k, dim=1).indices, 1.0)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        both = mask(a) * mask(b)
        a, b = a * both, b * both
        if not unbiased:
            return dense_hsic(a, b)
        a, b = a.fill_diagonal_(0), b.fill_diagonal_(0)
        total = (a * b.T).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a @ b).sum() / (n - 2)
        return total / (n * (n - 3))

    kx, ky = x @ x.T, y @ y.T
    return (hsic(kx, ky) / (hsic(kx, kx) * hsic(ky, ky)).sqrt()).item()
