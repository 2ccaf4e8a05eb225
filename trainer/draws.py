"""Which training rows of the sides stand beside each other in an epoch, and in which batches."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featcache.trainer.config import FitConfig
from featcache.trainer.sides import PairedSides, Side
from featcache.trainer.subsets import Passes, swapped_partners


class TrainingRows:
    """The training rows, and their draw of every epoch.

    Args:
        train: The training groups and rows, from `training_part`.
        config: Reads captions, shuffle_pairs, swap, swap_rank, batch and steps.
        draws_seed: Of the draws.
        control_seed: Of the wrong pairs of a control. Shuffled: no side keeps its own group, nor does the reference;
            swapped: the reference stays with the first side.
    """

    def __init__(self, train: PairedSides, config: FitConfig, draws_seed: int, control_seed: int) -> None:
        averaged = config.captions == "mean"
        self.sides = {name: side.averaged() if averaged else side for name, side in train.sides.items()}
        self.reference = train.reference
        groups = len(train.groups)
        self._captions = config.captions
        self._partners = [torch.arange(groups)] * len(self.sides)
        if config.shuffle_pairs:
            self._partners[1:] = [deranged(groups, control_seed, shift) for shift in range(1, len(self.sides))]
            if self.reference is not None:
                self.reference = self.reference[deranged(groups, control_seed, len(self.sides))]
        if config.swap:
            self._partners[1:] = [swapped_partners(train, config, control_seed)] * (len(self.sides) - 1)
        self.generator = torch.Generator().manual_seed(draws_seed)
        self._passes = Passes(self._draw, config.batch, config.steps)

    def _draw(self) -> tuple[list[Tensor], Tensor]:
        return draw_rows([*self.sides.values()], self._partners, self._captions, self.generator)

    def draw(self) -> tuple[dict[str, Int[Tensor, " p"]], Int[Tensor, " p"]]:
        """Row of each side, -1 where the side is missing, and the group of each, shuffled: the rows of one pass."""
        drawn, groups = self._draw()
        return dict(zip(self.sides, drawn, strict=True)), groups

    def next_epoch(self) -> tuple[dict[str, Int[Tensor, " p"]], Int[Tensor, " p"], list[Tensor]]:
        """As `draw`, of as many batches as an epoch has, and which of the rows make each batch."""
        drawn, groups, batches = self._passes.next_epoch()
        return dict(zip(self.sides, drawn, strict=True)), groups, batches

    def target(self, groups: Int[Tensor, " p"]) -> Float[Tensor, "p d"] | None:
        """The reference's rows beside those of some groups."""
        return None if self.reference is None else self.reference[groups]


def draw_rows(
    sides: Sequence[Side], partners: Sequence[Int[Tensor, " g"]], captions: str, generator: torch.Generator
) -> tuple[list[Int[Tensor, " p"]], Int[Tensor, " p"]]:
    """Draws the rows of one epoch, shuffled.

    Args:
        sides: Training rows of each side.
        partners: The group of each side that every group is paired with.
        captions: "all": every row of the largest side of a group once; else one row a group and side.
        generator: CPU generator of the draw.

    Returns:
        Row of each side, -1 where the side is missing, and the group of each.
    """
    counts = [side.counts[partner] for side, partner in zip(sides, partners, strict=True)]
    largest = torch.stack(counts).amax(dim=0)
    repeats = largest if captions == "all" else torch.ones_like(largest)
    groups = torch.repeat_interleave(torch.arange(len(repeats)), repeats)
    before = repeats.cumsum(0) - repeats
    within = torch.arange(len(groups)) - before[groups]
    offsets = torch.rand(len(sides), len(repeats), generator=generator, dtype=torch.float64)
    rows: list[Tensor] = []
    for side, partner, count, offset in zip(sides, partners, counts, offsets, strict=True):
        drawn = (offset * count).long()
        chosen = side.starts[partner][groups] + (within + drawn[groups]) % count.clamp(min=1)[groups]
        rows.append(torch.where(count[groups] > 0, chosen, -1))
    order = torch.randperm(len(groups), generator=generator)
    return [numbers[order] for numbers in rows], groups[order]


def deranged(count: int, seed: int, shift: int = 1) -> Int[Tensor, " g"]:
    """A partner for each group, along a random cycle through all: with another shift, no group meets it twice."""
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(shift)
    return partner
