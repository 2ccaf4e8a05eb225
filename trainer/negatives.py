"""Which rows of a batch are no negatives of each other: those of one group."""

from jaxtyping import Bool, Int
from torch import Tensor

Groups = Int[Tensor, " b"] | Int[Tensor, "b m"]


def no_negatives(groups: Groups | None) -> Bool[Tensor, "b b"] | None:
    """`same_group`, or None where no two pairs share a group, so that nothing need be masked."""
    if groups is None or (groups.ndim == 1 and len(groups.unique()) == len(groups)):
        return None
    return same_group(groups)


def same_group(groups: Groups) -> Bool[Tensor, "b b"]:
    """Which pairs off the diagonal share a group.

    Example:
        >>> import torch
        >>> same_group(torch.tensor([[0, 1], [2, 3], [1, 4]])).int().tolist()
        [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    """
    if groups.ndim == 1:
        same = groups[:, None] == groups[None, :]
    else:
        same = (groups[:, None, :, None] == groups[None, :, None, :]).flatten(2).any(dim=2)
    return same.fill_diagonal_(False)
