"""Poolings: from the hidden states of a row to one vector."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """What the positions of a hidden state are."""

    mask: Tensor | None = None  # [b, t] true where a token is real, padding on the right; None: nothing is padded
    prefix: int = 0  # tokens before the first patch: CLS and registers
    patches: Tensor | None = None  # [t] true where a token is a patch, among those of a prompt; None: behind the prefix


class Inputs(NamedTuple):
    """Rows that may run together: their numbers, what the network takes of them, and what its positions are."""

    rows: list[int]
    tensors: dict[str, Tensor]
    positions: Positions


def mean(hidden: Tensor, positions: Positions) -> Tensor:
    """Mean over real tokens of [b, t, d], or over the places of [b, d, h, w].

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
        >>> mean(hidden, Positions(mask=torch.tensor([[True, True, False]]))).item()
        2.0
    """
    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    if positions.mask is None:
        return hidden.mean(1)
    total = hidden.masked_fill(~positions.mask[:, :, None], 0.0).sum(1)
    return total / positions.mask.sum(1, keepdim=True)


def cls(hidden: Tensor, positions: Positions) -> Tensor:
    """The first token of [b, t, d]."""
    return hidden[:, 0].clone()


def patch_mean(hidden: Tensor, positions: Positions) -> Tensor:
    """Mean over the patches of [b, t, d], without CLS, registers and prompt."""
    if positions.patches is not None:
        return hidden[:, positions.patches].mean(1)
    return hidden[:, positions.prefix :].mean(1)


def last_token(hidden: Tensor, positions: Positions) -> Tensor:
    """The last real token of [b, t, d]."""
    if positions.mask is None:
        return hidden[:, -1].clone()
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, positions.mask.sum(1) - 1]


POOLINGS: dict[str, Callable[[Tensor, Positions], Tensor]] = {
    "cls": cls,
    "mean": mean,
    "patch-mean": patch_mean,
    "last-token": last_token,
}
