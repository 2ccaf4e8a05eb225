"""How a data set's labels are probed."""

from collections.abc import Sequence
from dataclasses import dataclass

from featcache.errors import UsageError
from featcache.metrics.probes.logistic import PENALTIES
from featcache.metrics.probes.nearest import TEMPERATURE
from featcache.metrics.probes.ridge import RIDGE_PENALTIES

SHOTS = (1, 5, 10)
_LEAST_DRAWS = 2


@dataclass(frozen=True)
class ProbeSettings:
    """How a data set's labels are probed.

    Args:
        label: Label column; None for the first.
        k: Numbers of neighbours that vote, of which one is chosen; None for DINO's, as far as there are groups.
        temperature: Of their weights.
        label_views: Views that are made from the label, beside those that the data set's entry names.
        prompts: `[view/]encoder[/layer.pooling][@digest]` of prompts in the space of raw arrays; None for none.
        penalties: L2 penalties of the logistic probe, of which one is chosen.
        ridge_penalties: Those of the ridge probe.
        shots: Labelled training groups a class of few-shot classification; none for none.
        draws: Draws of these groups.
        folds: Inner folds of the training groups, where there is no validation split.
        width: Of random projections, where there is no run.
        halves: Random halves of the test groups behind intervals of balanced accuracy and differences.
        seed: Of random projections, folds, shots and a drawn validation split.

    Raises:
        UsageError: If a number is out of range.
    """

    label: str | None = None
    k: tuple[int, ...] | None = None
    temperature: float = TEMPERATURE
    label_views: tuple[str, ...] = ()
    prompts: str | None = None
    penalties: tuple[float, ...] = PENALTIES
    ridge_penalties: tuple[float, ...] = RIDGE_PENALTIES
    shots: tuple[int, ...] = SHOTS
    draws: int = 10
    folds: int = 5
    width: int = 256
    halves: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k is not None and (not self.k or min(self.k) < 1):
            raise UsageError(
                f"k = {','.join(map(str, self.k)) or 'none'}: wanted one number of neighbours or more, each above 0"
            )
        if self.shots and min(self.shots) < 1:
            raise UsageError(f"shots = {','.join(map(str, self.shots))}: wanted numbers above 0, or none")
        if self.draws < _LEAST_DRAWS:
            raise UsageError(f"draws = {self.draws}: wanted {_LEAST_DRAWS} or more, for an interval")


def parse_numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """The whole numbers of "10,20,100", each once, in their order; "none" for no number, None for None.

    Args:
        text: As typed.
        option: Where it was typed, for the message.

    Raises:
        UsageError: If it is anything else.

    Example:
        >>> parse_numbers("10,20", "--k"), parse_numbers("none", "--shots"), parse_numbers(None, "--k")
        ((10, 20), (), None)
    """
    if text is None:
        return None
    parts: Sequence[str] = [] if text.strip() == "none" else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} {text}: wanted whole numbers with commas between, as in {option} 1,5,10")
    return tuple(dict.fromkeys(map(int, parts)))
