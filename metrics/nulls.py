"""Could a score be chance? Permutation nulls on cached neighbour graphs and on kernels, whole groups permuted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from metrics.arrays import Graph, Groups, X, Y, group_codes, plain_pair
from metrics.comparison import GraphScore
from metrics.errors import BadChoice
from metrics.kernels import Kernel, centred, cka, squared_distances
from metrics.overlap import check_ids, graph_pair, mutual_knn_graphs
from metrics.search import full_precision

_PRODUCTS_PER_ROW = 100  # d x d products cost less than gathering n x n up to about dx * dy = 100 n
_BATCH_ENTRIES = 1 << 22  # 16 MB of float32 moved at a time: many permutations a call where they are small
_LARGEST_KERNEL = 8192  # 256 MB of float32 a kernel


@dataclass(frozen=True)
class Null:
    """A score and what it would be if the rows of the second space were matched at random.

    Args:
        observed: The score itself.
        mean: Mean over permutations.
        std: Standard deviation over permutations.
        low: 2.5 % point of the permuted scores.
        high: 97.5 % point.
        p: (1 + permutations that score at least as high) / (permutations + 1).
        permutations: How many were drawn.
        method: What was permuted.
    """

    observed: float
    mean: float
    std: float
    low: float
    high: float
    p: float
    permutations: int
    method: str


def permutation_null_knn(
    a_ids: Graph,
    b_ids: Graph,
    *,
    groups: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
    score: GraphScore = mutual_knn_graphs,
) -> Null:
    """Permutation null of a neighbour-graph score, on graphs that are already there: O(permutations * n k^2) compares.

    Row i of both graphs is the same sample. The second graph is relabelled, which is what permuting its features
    would give. With groups, whole groups change places, among those of equal size, and keep their inner order: rows
    of one group are not exchangeable one by one.

    Args:
        a_ids: Neighbour graph [n, k] of the first space.
        b_ids: Neighbour graph [n, k] of the second, made with the same groups.
        groups: The group of each row, or None.
        permutations: How many to draw.
        seed: Seed of the draws.
        score: Per-row score of two graphs; any `..._graphs` function of `metrics.overlap`.

    Returns:
        The observed score and its null.

    Raises:
        BadShape: If the graphs differ in shape or groups are not n.
        BadChoice: If ids are out of range, permutations < 1, or no two groups have the same size.

    Example:
        >>> ring = np.array([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4]])
        >>> null = permutation_null_knn(ring, ring, permutations=200)
        >>> null.observed, 0.3 < null.mean < 0.5
        (1.0, True)
    """
    a, b = graph_pair(a_ids, b_ids)
    check_ids(a, "a_ids")
    check_ids(b, "b_ids")
    inverse = np.empty(len(a), dtype=a.dtype)
    own = np.arange(len(a), dtype=a.dtype)

    def permuted(orders: np.ndarray) -> np.ndarray:
        scores = np.empty(len(orders))
        for draw, order in enumerate(orders):
            inverse[order] = own
            scores[draw] = score(a, inverse[b[order]]).mean()
        return scores

    observed = float(score(a, b).mean())
    return _null(observed, permuted, len(a), groups, permutations, seed)


def permutation_null_cka(
    x: X,
    y: Y,
    *,
    kernel: Kernel = "linear",
    debiased: bool = False,
    groups: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> Null:
    """Permutation null of `cka` (rbf: sigma = 1). Only the cross term is computed again: the norms stay.

    Each permutation takes one d x d product, or one pass over n x n where that is less. Products in float32, on the
    device of x; sums in float64. For mean and standard deviation alone `moments_cka` is exact and immediate.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples in the second space.
        kernel: "linear" or "rbf"; "rbf" keeps two n x n float32 matrices.
        debiased: As in `cka`.
        groups: The group of each row, or None; whole groups of equal size change places.
        permutations: How many to draw.
        seed: Seed of the draws.

    Returns:
        The observed score and its null.

    Raises:
        As `cka`; BadChoice also if permutations < 1 or no two groups have the same size.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((30, 4))
        >>> permutation_null_cka(x, x, permutations=99).p
        0.01
    """
    observed = cka(x, y, kernel=kernel, debiased=debiased)
    a, b = (centred(values) for values in plain_pair(x, y))
    n, products = len(a), a.shape[1] * b.shape[1]
    device = x.device if isinstance(x, torch.Tensor) else torch.device("cpu")
    if kernel == "linear" and (products < _PRODUCTS_PER_ROW * n or n > _LARGEST_KERNEL):
        permuted, entries = _feature_cross(a, b, debiased, device), n * b.shape[1]
    else:
        normal = [_normal_kernel(values, kernel, debiased) for values in (a, b)]
        permuted, entries = _kernel_cross(*(torch.from_numpy(values).to(device) for values in normal)), n * n
    return _null(observed, permuted, n, groups, permutations, seed, batch=max(1, _BATCH_ENTRIES // entries))


Permuted = Callable[[np.ndarray], np.ndarray]  # orders [b, n] -> scores [b]


def _feature_cross(a: np.ndarray, b: np.ndarray, debiased: bool, device: torch.device) -> Permuted:
    """Linear CKA of a and b[order] from |a^T b[order]|^2, which is all that depends on the order."""
    n = len(a)
    a, b = (values / np.sqrt(np.linalg.norm(values.T @ values)) for values in (a, b))
    pa, pb = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    left = torch.from_numpy(a.T.astype(np.float32, order="C")).to(device)
    right = torch.from_numpy(b.astype(np.float32)).to(device)

    def corrected(total: np.ndarray | float, pq: np.ndarray | float, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        # Song et al. eq. 5 for centred rows, as in metrics.kernels.
        return np.asarray(total - n / (n - 2) * pq + float(p.sum() * q.sum()) / ((n - 1) * (n - 2)))

    scale = np.sqrt(corrected(1.0, pa @ pa, pa, pa) * corrected(1.0, pb @ pb, pb, pb)) if debiased else 1.0

    def permuted(orders: np.ndarray) -> np.ndarray:
        # All orders of the batch side by side, [n, b, dy]: one large product instead of b small ones.
        moved = right[torch.from_numpy(orders.T.copy()).to(device)].view(n, -1)
        with full_precision():
            cross = left @ moved
        cross = (cross * cross).view(len(left), len(orders), -1).sum(dim=2)
        total = cross.cpu().sum(dim=0, dtype=torch.float64).numpy()
        return (corrected(total, pb[orders] @ pa, pa, pb) if debiased else total) / scale

    return permuted


def _kernel_cross(left: torch.Tensor, right: torch.Tensor) -> Permuted:
    """Inner product of two normal kernels [n, n], the second permuted."""

    def permuted(orders: np.ndarray) -> np.ndarray:
        at = torch.from_numpy(orders).to(left.device)
        moved = right[at[:, :, None], at[:, None, :]]
        moved *= left
        return moved.sum(dim=2).cpu().sum(dim=1, dtype=torch.float64).numpy()

    return permuted


def _normal_kernel(a: np.ndarray, kernel: Kernel, debiased: bool) -> np.ndarray:
    """The centred kernel of norm 1, [n, n] float32: two of them have their CKA as inner product.

    Debiased means U-centred: Song et al.'s estimate is the inner product of U-centred kernels (Szekely & Rizzo 2014).
    """
    n = len(a)
    matrix = a @ a.T if kernel == "linear" else np.exp(squared_distances(a, slice(0, n)) / -2)
    if debiased:
        np.fill_diagonal(matrix, 0)
    rows = matrix.sum(axis=1)
    means = rows / (n - 2 if debiased else n)
    matrix -= means[:, None]
    matrix -= means
    matrix += rows.sum() / ((n - 1) * (n - 2) if debiased else n * n)
    if debiased:
        np.fill_diagonal(matrix, 0)
    return (matrix / np.linalg.norm(matrix)).astype(np.float32)


def _null(
    observed: float, permuted: Permuted, n: int, groups: Groups | None, permutations: int, seed: int, *, batch: int = 1
) -> Null:
    if permutations < 1:
        raise BadChoice(f"permutations = {permutations}: wanted 1 or more")
    draws = _row_orders(groups, n, seed)
    parts = [min(batch, permutations - start) for start in range(0, permutations, batch)]
    scores = np.concatenate([permuted(np.stack([next(draws) for _ in range(part)])) for part in parts])
    # A permutation that changes nothing must count as reaching the observed score despite float32.
    reached = int(np.sum(scores >= observed - 1e-6 * abs(observed)))
    low, high = np.quantile(scores, [0.025, 0.975])
    return Null(
        observed=observed,
        mean=float(scores.mean()),
        std=float(scores.std()),
        low=float(low),
        high=float(high),
        p=(1 + reached) / (permutations + 1),
        permutations=permutations,
        method="rows permuted" if groups is None else "groups permuted among those of equal size",
    )


def _row_orders(groups: Groups | None, n: int, seed: int) -> Iterator[np.ndarray]:
    """Random orders of n rows: each group's rows go, in their order, to a random group of the same size.

    Raises:
        BadChoice: If no two groups have the same size, so that nothing can change places.
    """
    codes = group_codes(groups, n)[0]
    by_group = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    classes = [by_group[starts[sizes == size, None] + np.arange(size)] for size in np.unique(sizes)]
    if max(len(rows) for rows in classes) < 2:
        raise BadChoice(f"no two of the {len(sizes)} groups have the same size; whole groups cannot change places")
    rng = np.random.default_rng(seed)

    def draw() -> np.ndarray:
        order = np.arange(n)
        for rows in classes:
            order[rows] = rows[rng.permutation(len(rows))]
        return order

    return (draw() for _ in iter(int, 1))
