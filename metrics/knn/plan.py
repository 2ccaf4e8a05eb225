"""How a graph is searched: with which products, and how long the lists of proposals are."""

from dataclasses import dataclass

import numpy as np
import torch

from featcache.metrics.knn import bfloat16
from featcache.metrics.knn.bfloat16 import Operands
from featcache.metrics.knn.exact import SearchRows

SMALL = 2_048  # rows up to which nothing is measured or sampled: float32
_MARGIN = 6  # entries beyond k and an eighth of it: near ties that are resolved without searching again
_LONGEST = 160  # entries; of a large k twice the least
_ENTRIES = 1 << 23  # similarities of the rows that are sampled, all together
# Of one thread, from profiles on two processors; they move the choice, never a result.
_SLOT_SECONDS = 0.6e-6  # what one more entry a list costs a row
_SETTLING = 1.5  # what a full row of float32 products and its selection take, relative to the products alone


@dataclass(frozen=True, eq=False)
class Plan:
    """Operands and list length."""

    operands: Operands
    length: int


def plan(space: SearchRows, codes: np.ndarray, k: int, *, half: bool | None) -> Plan:
    """What will be quickest, by the speed of products here and a sample of rows.

    Args:
        space: The rows.
        codes: [n] group numbers; rows of one group are not neighbours.
        k: Neighbours.
        half: Whether bfloat16 proposes; None: where it pays.
    """
    n, least = len(space), k + k // 8 + _MARGIN
    single = Plan(bfloat16.single(space), least)
    if half is False or (half is None and (n <= SMALL or bfloat16.speed().ratio <= 1)):
        return single
    operands = bfloat16.halved(space)
    longest = max(_LONGEST, 2 * least)
    needed = _needed(space, operands, codes, k, longest)
    rates, d = bfloat16.speed(), space.centred.shape[1]
    settle = _SETTLING * n * d / rates.single
    lengths = np.unique(np.clip([least, *needed], least, longest))
    costs = [length * _SLOT_SECONDS + float((needed > length).mean()) * settle for length in lengths.tolist()]
    at = int(np.argmin(costs))
    if half is None:
        products = n * d / 2
        gain = products / rates.single - products / max(rates.half, 1.0)
        if costs[at] - least * _SLOT_SECONDS >= gain:
            return single
    return Plan(operands, int(lengths[at]))


def _needed(space: SearchRows, operands: Operands, codes: np.ndarray, k: int, longest: int) -> np.ndarray:
    """List length [s] that would have certified each of some rows, at most one above the longest."""
    n = len(space)
    count = max(16, min(256, n // 64, _ENTRIES // n))
    rows = np.unique(np.linspace(0, n - 1, count).astype(np.int64))
    assert isinstance(operands.rows, torch.Tensor)
    values = torch.mm(operands.rows[rows], operands.rows.T).float().add_(torch.from_numpy(space.bias))
    values[torch.from_numpy(codes[rows, None] == codes)] = -torch.inf
    best = values.topk(min(longest + 1, n)).values.double().numpy()
    kth, bound = best[:, k - 1], operands.bound[rows].astype(np.float64)
    low = kth - operands.slack(kth) - bound
    within = best + operands.slack(best) + bound[:, None] >= low[:, None]
    return 1 + (within & (best > -np.inf)).sum(axis=1)
