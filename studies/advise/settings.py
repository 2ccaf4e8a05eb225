"""What `advise` is asked, and the margins by which it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from featcache.metrics.errors import BadChoice
from featcache.metrics.probes.information_bounds import SHORTFALL

Answer = Literal["align", "keep apart", "align with a private part", "cannot tell"]
ALIGN: Answer = "align"
APART: Answer = "keep apart"
PRIVATE: Answer = "align with a private part"
OPEN: Answer = "cannot tell"
ANSWERS: tuple[Answer, ...] = (ALIGN, APART, PRIVATE, OPEN)

UseKind = Literal["joint", "alone", "few", "transfer"]
USES: tuple[UseKind, ...] = ("joint", "alone", "few", "transfer")
LABELS = (1, 5, 10)  # a class, of the use "few"
PAIR, FIRST, SECOND, FORTH, BACK = "both", "first", "second", "first→second", "second→first"

# Frozen on the released generator and judged on others: docs/advise.md
MARGIN = 0.05  # of accuracy: a gain that is ruled out is one of at least this
LEAST_GAIN = 0.03  # of accuracy: less is no gain, however certain
NOTHING = 0.02  # nats: redundancy whose upper bound is no more than this, beside the shortfall, is none


@dataclass(frozen=True)
class Use:
    """One use of two spaces.

    Args:
        kind: "joint": a classifier reads both spaces. "alone": it reads one. "few": it is fitted on few labels a
            class. "transfer": it is fitted on one space, and fed with the other.
        reads: PAIR, FIRST or SECOND; of transfers FORTH or BACK.
        labels: Labelled groups a class, of "few"; else 0, for all training groups.
    """

    kind: UseKind
    reads: str
    labels: int = 0


def uses_of(kinds: Sequence[str] = USES) -> list[Use]:
    """The uses of some kinds, in the order of the output."""
    every = [
        Use("joint", PAIR),
        *(Use("alone", side) for side in (FIRST, SECOND)),
        *(Use("few", side, labels) for side in (PAIR, FIRST, SECOND) for labels in LABELS),
        *(Use("transfer", way) for way in (FORTH, BACK)),
    ]
    return [use for use in every if use.kind in kinds]


@dataclass(frozen=True)
class AdviseSettings:
    """How cached spaces are judged.

    Args:
        label: Label column; None for the data set's first.
        uses: Kinds of uses that are answered.
        label_views: Views that are made from the label, beside those that the data set's entry names.
        groups: Groups that take part, at most: drawn where there are more.
        folds: Parts of the groups that are held out in turn.
        seeds: Adapters trained for each fold, from different initial weights.
        draws: Of few labels, for each fold and seed.
        width: Of the space that adapters map into.
        steps: Of each adapter's training.
        level: Of intervals; answers are corrected for the number of uses of a kind.
        margin: Of accuracy: "keep apart" rules out a gain of this.
        least_gain: Of accuracy: "align" is a gain of at least this.
        shortfall: Nats that classifiers may know less than there is to know; widens the intervals of information.
        permutations: Behind the null of the alignment.
        seed: Of every draw.
    """

    label: str | None = None
    uses: tuple[str, ...] = USES
    label_views: tuple[str, ...] = ()
    groups: int = 5_000
    folds: int = 5
    seeds: int = 3
    draws: int = 10
    width: int = 256
    steps: int = 200
    level: float = 0.95
    margin: float = MARGIN
    least_gain: float = LEAST_GAIN
    shortfall: float = SHORTFALL
    permutations: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 3 or self.seeds < 2 or min(self.draws, self.steps) < 1 or self.width < 2:
            raise BadChoice(
                f"folds {self.folds}, seeds {self.seeds}, draws {self.draws}, steps {self.steps}, width {self.width}: "
                "wanted 3 folds or more, 2 seeds or more, 1 or more draws and steps, and a width of 2 or more"
            )
        if not self.uses or set(self.uses) - set(USES):
            raise BadChoice(f"use {', '.join(self.uses) or 'none'}: wanted one or more of {', '.join(USES)}")
        if self.margin <= 0 or self.least_gain < 0 or not 0 < self.level < 1:
            raise BadChoice("wanted a margin above 0, a least gain of 0 or more and a level between 0 and 1")


DEFAULT_SETTINGS = AdviseSettings()
