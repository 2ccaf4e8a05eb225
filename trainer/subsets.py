"""Which pairs a training sees: nested subsets, sides apart, rows of a group, swapped pairs, the batches of an epoch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from featcache.errors import UsageError
from featcache.metrics import neighbors
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import NotPaired
from featcache.trainer.seeds import stream_seed
from featcache.trainer.sides import PairedSides
from featcache.trainer.splits import drawn_by_id


def training_part(paired: PairedSides, config: FitConfig) -> PairedSides:
    """The training groups and rows that the settings leave, renumbered; validation and test do not depend on them.

    Args:
        paired: The paired sides.
        config: Reads train_groups, apart, group_rows and seed.

    Raises:
        UsageError: As `training_groups`.
        NotPaired: As `training_groups`.
    """
    train = training_groups(paired, config)
    if config.group_rows != "all":
        rows = {name: side.first(config.group_rows) for name, side in train.sides.items()}
        train = replace(train, sides=rows, _parts={})
    return train


def training_groups(paired: PairedSides, config: FitConfig) -> PairedSides:
    """The training groups that the settings leave, with all their rows.

    The subset of a seed is drawn by group id, so that it depends on the set of training groups and not on their order,
    and a smaller one lies within every larger one.

    Args:
        paired: The paired sides.
        config: Reads train_groups, apart and seed.

    Raises:
        UsageError: If there are fewer training groups than are wanted.
        NotPaired: If a side has rows in fewer than two of the groups that are left.
    """
    train = paired.part("train")
    if config.train_groups != "all":
        train = _subset(train, config.train_groups, config.seed)
    return _parted(train, config.apart.split("+"), config.seed) if config.apart else train


def _parted(train: PairedSides, pair: Sequence[str], seed: int) -> PairedSides:
    """The groups, of which none has both sides: half of those that do, by group id, lose the one, half the other."""
    both = torch.stack([train.sides[name].present for name in pair]).all(dim=0).nonzero().ravel().numpy()
    drawn = drawn_by_id(train.groups, both, len(both), stream_seed(seed, "apart"))
    halves = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    sides = dict(train.sides)
    for name, lost in zip(pair, halves, strict=True):
        sides[name] = sides[name].without(torch.from_numpy(lost))
        if int(sides[name].present.sum()) < 2:
            raise NotPaired(f"{name} has rows in fewer than 2 training groups once apart\n  Train on more of them")
    return replace(train, sides=sides, _parts={})


def _subset(train: PairedSides, wanted: int, seed: int) -> PairedSides:
    there = len(train.groups)
    if wanted > there:
        raise UsageError(f"train_groups = {wanted}: there are {there} training groups\n  Name fewer, or all")
    drawn = drawn_by_id(train.groups, np.arange(there), wanted, stream_seed(seed, "subset"))
    subset = train.subset("train", torch.from_numpy(np.sort(drawn)))
    for name, side in subset.sides.items():
        if int(side.present.sum()) < 2:
            raise NotPaired(f"{name} has rows in fewer than 2 of {wanted} training groups\n  Train on more of them")
    return subset


def swapped_partners(train: PairedSides, config: FitConfig, seed: int) -> Int[Tensor, " g"]:
    """The group that every training group gets the rows of all sides but the first from.

    A share of the groups gets those of a near neighbour, by cosine of the first side's raw features, one row a group,
    or of any other of the share; the others keep their own. Groups that lack a side keep theirs and are nobody's
    neighbour.

    Args:
        train: The training groups.
        config: Reads swap and swap_rank.
        seed: Of the draw; the groups of a smaller share are among those of a larger one.

    Raises:
        UsageError: If there are too few groups for the rank.
    """
    partner = torch.arange(len(train.groups))
    whole = torch.stack([side.present for side in train.sides.values()]).all(dim=0)
    numbers = torch.nonzero(whole).ravel()
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    chosen = order[: round(config.swap * len(numbers))]
    if config.swap_rank == "random":  # each gets the rows of the next of a circle
        partner[numbers[chosen]] = numbers[chosen.roll(1)]
        return partner
    if len(numbers) <= config.swap_rank:
        raise UsageError(
            f"swap_rank = {config.swap_rank}: {len(numbers)} training groups have every side; name a lower"
        )
    first = next(iter(train.sides.values())).take(numbers).means()
    nearest = neighbors(first, k=config.swap_rank, name="the first side").ids[:, config.swap_rank - 1]
    partner[numbers[chosen]] = numbers[torch.from_numpy(np.asarray(nearest)).long()[chosen]]
    return partner


class Passes:
    """The batches of every epoch: those of one pass over the training rows, or so many, over as many passes as needed.

    Args:
        draw: Draws one pass: the row of each side, and the group of each pair, shuffled.
        batch: Pairs a step, at most.
        steps: Batches an epoch, or "pass".
    """

    def __init__(
        self, draw: Callable[[], tuple[list[Tensor], Tensor]], batch: int, steps: int | Literal["pass"]
    ) -> None:
        self.draw, self.batch, self.steps = draw, batch, steps
        self._left: list[tuple[list[Tensor], Tensor]] = []

    def next_epoch(self) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """The row of each side and the group of each pair of an epoch, and which pairs make each batch."""
        steps = None if self.steps == "pass" else int(self.steps)
        while not self._left or (steps is not None and len(self._left) < steps):
            rows, groups = self.draw()
            pieces = torch.arange(len(groups)).tensor_split(math.ceil(len(groups) / self.batch))
            self._left += [([numbers[chosen] for numbers in rows], groups[chosen]) for chosen in pieces]
        taken = self._left[:steps]
        self._left = self._left[len(taken) :]
        rows = [torch.cat(side) for side in zip(*(rows for rows, _ in taken), strict=True)]
        groups = torch.cat([groups for _, groups in taken])
        sizes = [len(groups) for _, groups in taken]
        return rows, groups, [*torch.arange(len(groups)).split(sizes)]
