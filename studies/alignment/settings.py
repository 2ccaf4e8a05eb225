"""Settings of an alignment measurement on cached features: how rows are paired, and what is measured of them."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from featcache.metrics.arrays import Groups
from featcache.metrics.errors import BadChoice
from featcache.metrics.measure.settings import DEFAULT_METRICS, IntervalKind, MeasureSettings, NullKind
from featcache.metrics.pairing import Mode

Protocol = Literal["huh2024", "huh2024-exact"]


@dataclass(frozen=True)
class AlignSettings:
    """What is measured, and of which rows.

    Args:
        metrics: As `MeasureSettings`.
        k: As `MeasureSettings`.
        pairing: What becomes of several rows of a group: "mean", "first", "random" or "all".
        split: Only groups of this split, "all" for every one; None for the default, as `splits.rows_of_split`.
        null: As `MeasureSettings`.
        permutations: As `MeasureSettings`.
        interval: As `MeasureSettings`.
        queries: As `MeasureSettings`.
        repeats: As `MeasureSettings`.
        seed: Of every draw.
        within: Name of a label column: permuted groups change places only within equal labels, which leaves what the
            labels explain in the null, so that only finer agreement stands out.
        protocol: "huh2024" prepares the layers of an encoder as Huh et al. 2024 do, with the threshold of their tables;
            "huh2024-exact" with that of all entries. None: features as they are cached.

    Raises:
        BadChoice: As `MeasureSettings`.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    k: int = 10
    pairing: Mode = "mean"
    split: str | None = None
    null: NullKind = "auto"
    permutations: int = 200
    interval: IntervalKind = "none"
    queries: int | None = None
    repeats: int = 100
    seed: int = 0
    within: str | None = None
    protocol: Protocol | None = None

    def __post_init__(self) -> None:
        self.measure()

    def measure(self, labels: Groups | None = None) -> MeasureSettings:
        """The settings of `measure`.

        Args:
            labels: Label of each row, where `within` names a column.
        """
        return MeasureSettings(
            metrics=self.metrics,
            k=self.k,
            null=self.null,
            within=labels,
            permutations=self.permutations,
            interval=self.interval,
            queries=self.queries,
            repeats=self.repeats,
            seed=self.seed,
        )


DEFAULT_SETTINGS = AlignSettings()


def parse_null(text: str) -> tuple[NullKind, str | None]:
    """A null as typed: its kind, and the label column of "within:LABEL".

    Raises:
        BadChoice: If it is none of these.

    Example:
        >>> parse_null("closed"), parse_null("within:category")
        (('closed', None), ('auto', 'category'))
    """
    kind, _, label = text.partition(":")
    if kind == "within" and label:
        return "auto", label
    if text not in get_args(NullKind):
        raise BadChoice(f"null = {text!r} is unknown; there are {', '.join(get_args(NullKind))}, within:LABEL")
    return cast(NullKind, text), None
