"""How do hidden states become one vector a row?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """What the positions of a hidden state are.

    Args:
        mask: [b, t] true where a token is real, padding on the right; None where nothing is padded.
        prefix: Tokens before the first patch: CLS and registers.
    """

    mask: Tensor | None = None
    prefix: int = 0


def mean(hidden: Tensor, layout: Layout) -> Tensor:
    """Mean over real tokens of [b, t, d], or over the places of [b, d, h, w].

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
        >>> mean(hidden, Layout(mask=torch.tensor([[True, True, False]]))).item()
        2.0
    """
    if hidden.ndim == 4:
        return hidden.mean((2, 3))
    if layout.mask is None:
        return hidden.mean(1)
    total = hidden.masked_fill(~layout.mask[:, :, None], 0.0).sum(1)
    return total / layout.mask.sum(1, keepdim=True)


def cls(hidden: Tensor, layout: Layout) -> Tensor:
    """The first token of [b, t, d]."""
    return hidden[:, 0].clone()


def patch_mean(hidden: Tensor, layout: Layout) -> Tensor:
    """Mean over the patches of [b, t, d], without CLS and registers."""
    return hidden[:, layout.prefix :].mean(1)


def last_token(hidden: Tensor, layout: Layout) -> Tensor:
    """The last real token of [b, t, d]."""
    if layout.mask is None:
        return hidden[:, -1].clone()
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, layout.mask.sum(1) - 1]


POOLINGS: dict[str, Callable[[Tensor, Layout], Tensor]] = {
    "cls": cls,
    "mean": mean,
    "patch-mean": patch_mean,
    "last-token": last_token,
}
