"""What an advice holds: of every two spaces information, alignment and answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from featcache.features import Features
from featcache.metrics.measure.row import Row
from featcache.metrics.probes.information_bounds import InformationRow
from featcache.studies.advise.answers import AdviceRow
from featcache.studies.advise.labelled import Labelled
from featcache.studies.advise.settings import AdviseSettings


@dataclass(frozen=True, eq=False)
class PairAdvice:
    """What was found of two spaces.

    Args:
        first: Name of the first.
        second: Name of the second.
        information: I1, I2, I12 and the parts of I12, in nats.
        classifiers: Kinds of classifiers behind I1, I2 and I12, each of every fold.
        alignment: Scores of the two, with their nulls.
        answers: One a use.
    """

    first: str
    second: str
    information: list[InformationRow]
    classifiers: tuple[tuple[str, ...], ...]
    alignment: list[Row]
    answers: list[AdviceRow]

    @property
    def spaces(self) -> tuple[str, str]:
        """Both names."""
        return self.first, self.second

    def quantity(self, name: str) -> InformationRow:
        """One quantity of the information."""
        return next(row for row in self.information if row.quantity == name)


@dataclass(frozen=True, eq=False)
class Advice:
    """What was found of every two of some spaces.

    Args:
        dataset: Data set name.
        label: Label column.
        entropy: Of the label among the groups, in nats.
        rows: Spaces, classes and folds.
        arrays: Name of a space -> its array.
        pairs: Of every two spaces, in their order.
        settings: How.
        notes: What was left out; a caveat starts with "Caveat".
        table: Where the tidy table was written; None for nowhere.
    """

    dataset: str
    label: str
    entropy: float
    rows: Labelled
    arrays: Mapping[str, Features]
    pairs: list[PairAdvice]
    settings: AdviseSettings
    notes: list[str]
    table: Path | None
