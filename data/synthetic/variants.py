"""Generators whose redundancy, unique parts and synergy are set one by one; the table of their dials."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from math import log
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int

from featcache.data.errors import DataInvalid
from featcache.data.synthetic.generator import Table, all_bits

STEPS = 8  # a dial has the levels 0 to STEPS
_HALVINGS = 60


@dataclass(frozen=True)
class Parts:
    """What a label holds, in nats: the four parts sum to I(X1, X2; Y)."""

    redundancy: float
    unique1: float
    unique2: float
    synergy: float


@dataclass(frozen=True)
class Dial:
    """What changes from level 0 to STEPS, as shares of the generator's total."""

    name: str  # its key in DIALS
    varies: str
    start: Parts
    end: Parts

    def at(self, share: float) -> Parts:
        """The parts at a share of the way, as shares of the total."""
        ways = ((getattr(self.start, part.name), getattr(self.end, part.name)) for part in fields(Parts))
        return Parts(*(start + share * (end - start) for start, end in ways))


_DIALS = (
    Dial(
        "unique_for_redundancy",
        "redundancy becomes unique information; no synergy, and both together tell the same",
        Parts(1, 0, 0, 0),
        Parts(0, 1 / 2, 1 / 2, 0),
    ),
    Dial(
        "unique_for_synergy",
        "synergy becomes unique information; redundancy, and what both together tell, stay",
        Parts(1 / 2, 0, 0, 1 / 2),
        Parts(1 / 2, 1 / 4, 1 / 4, 0),
    ),
    Dial(
        "synergy_for_redundancy",
        "redundancy becomes synergy; unique information, and what both together tell, stay",
        Parts(1 / 2, 1 / 4, 1 / 4, 0),
        Parts(0, 1 / 4, 1 / 4, 1 / 2),
    ),
    Dial(
        "second_for_first",
        "unique information moves from the first modality to the second; the rest stays",
        Parts(1 / 2, 1 / 2, 0, 0),
        Parts(1 / 2, 0, 1 / 2, 0),
    ),
    Dial("redundancy", "redundancy alone, from none", Parts(0, 1 / 8, 1 / 8, 1 / 4), Parts(1 / 2, 1 / 8, 1 / 8, 1 / 4)),
    Dial("unique", "unique information alone, from none", Parts(1 / 4, 0, 0, 1 / 4), Parts(1 / 4, 1 / 4, 1 / 4, 1 / 4)),
    Dial("synergy", "synergy alone, from none", Parts(1 / 4, 1 / 8, 1 / 8, 0), Parts(1 / 4, 1 / 8, 1 / 8, 1 / 2)),
)
DIALS: Mapping[str, Dial] = MappingProxyType({dial.name: dial for dial in _DIALS})


@dataclass(frozen=True)
class Planted:
    """Modalities of fair bits, and a label of up to four independent pieces, each of which reads one kind of bits.

    One piece reads the shared bits, one the unique bits of each modality, and one the sum of a function of other unique
    bits of both, which neither tells alone. A piece is a balanced threshold function of its bits, with noise that makes
    it as informative as the dial says. The parts of the label are then those of its pieces, exactly: the systems are
    independent and each is of one kind. All classes are equally likely, and the rows' bits the same at every level.

    Args:
        dial: One of DIALS.
        total: I(X1, X2; Y) in nats where the dial holds it fixed.
        shared: Bits that both modalities hold.
        unique: Bits that each holds alone; half of them are for synergy.
        features_seed: Which bits the pieces read, and their functions.
        rows_seed: Rows, labels and splits.
        phi_seed: Maps of the second modality.
        rows: Drawn.
        phi_depths: Maps of the second modality.

    Raises:
        DataInvalid: If there is no such dial, a number is out of range, or the bits cannot hold so much.

    Example:
        >>> Planted("unique_for_redundancy").parts(4)
        Parts(redundancy=0.55, unique1=0.275, unique2=0.275, synergy=0.0)
    """

    dial: str
    total: float = 1.1
    shared: int = 8
    unique: int = 4
    features_seed: int = 1
    rows_seed: int = 2
    phi_seed: int = 0
    rows: int = 65_536
    phi_depths: int = 11

    def __post_init__(self) -> None:
        if self.dial not in DIALS:
            raise DataInvalid(f"no dial {self.dial!r}; there are {', '.join(DIALS)}")
        if self.total <= 0 or min(self.shared, self.unique) < 1:
            raise DataInvalid("wanted a total above 0, and 1 or more bits of each kind")
        for piece, bits in zip(self.values, self.bits, strict=True):
            if piece > 2**bits:
                raise DataInvalid(f"a piece of {piece} values reads {bits} bits: lower the total, or give more bits")
        if self.rows < 10 * self.classes:
            raise DataInvalid(f"{self.rows} rows of {self.classes} classes: wanted 10 or more a class")

    @property
    def name(self) -> str:
        """The dial, and what differs from the defaults."""
        changed = [f"{item.name}={getattr(self, item.name)}" for item in fields(self)[1:] if self._differs(item.name)]
        return f"planted_{self.dial}" + (f"({','.join(changed)})" if changed else "")

    def _differs(self, name: str) -> bool:
        return getattr(self, name) != type(self).__dataclass_fields__[name].default

    @property
    def levels(self) -> tuple[int, ...]:
        """Positions of the dial."""
        return tuple(range(STEPS + 1))

    @property
    def classes(self) -> int:
        """Combinations of the values of all pieces; the same at every level."""
        return int(np.prod(self.values))

    @property
    def values(self) -> tuple[int, ...]:
        """Values of each piece, in the order of Parts: the least power of two that can hold what the dial wants of it.

        1 where the dial wants none of it.
        """
        most = [max(getattr(self.parts(level), part.name) for level in (0, STEPS)) for part in fields(Parts)]
        return tuple(1 if want <= 0 else 2 ** max(int(np.ceil(want / log(2) - 1e-9)), 1) for want in most)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits that each piece reads: all shared ones; half of the unique ones, or all if no other piece reads them."""
        half = self.unique // 2
        alone = self.unique if self.values[3] == 1 else self.unique - half
        return self.shared, alone, alone, self.unique if self.values[1] == self.values[2] == 1 else half

    def parts(self, level: int) -> Parts:
        """What the label holds at a level, in nats.

        Raises:
            DataInvalid: If there is no such level.
        """
        if level not in self.levels:
            raise DataInvalid(f"{self.name}: no level {level}: there are 0 to {STEPS}")
        shares = DIALS[self.dial].at(level / STEPS)
        return Parts(*(self.total * getattr(shares, part.name) for part in fields(Parts)))

    def table(self, level: int) -> Table:
        """p(y | shared, unique 1, unique 2) at a level of the dial, not to be written to."""
        return _planted_table(self, level)

    def state(self, level: int) -> np.random.RandomState:
        """The stream of the rows; the same for every level."""
        return np.random.RandomState(self.rows_seed)


@lru_cache(maxsize=4)
def _planted_table(generator: Planted, level: int) -> Table:
    wanted = generator.parts(level)
    table = np.ones((2**generator.shared, 2**generator.unique, 2**generator.unique, 1))
    for piece, part, values in zip(_pieces(generator), fields(Parts), generator.values, strict=True):
        channel = symmetric_channel(values, getattr(wanted, part.name))
        table = (table[..., None] * channel[piece][..., None, :]).reshape(*table.shape[:3], -1)
    table.setflags(write=False)
    return table


def _pieces(generator: Planted) -> list[Int[np.ndarray, "shared unique1 unique2"]]:
    """The value of each piece without noise, shaped to be broadcast over the codes."""
    stream = np.random.RandomState(generator.features_seed)
    values, bits, unique = generator.values, generator.bits, generator.unique
    orders = [stream.permutation(unique) for _ in range(2)]
    shared = _thresholds(generator.shared, np.arange(generator.shared), values[0], stream)
    alone = [_thresholds(unique, order[: bits[1]], values[1 + at], stream) for at, order in enumerate(orders)]
    joint = [_thresholds(unique, order[unique - bits[3] :], values[3], stream) for order in orders]
    sums = (joint[0][:, None] + joint[1]) % values[3]
    return [shared[:, None, None], alone[0][None, :, None], alone[1][None, None], sums[None]]


def symmetric_channel(values: int, information: float) -> Float[np.ndarray, "values values"]:
    """p(output | input) that keeps a value with one probability and else draws any other one, all alike.

    Args:
        values: Of a uniform input.
        information: Between input and output in nats; at most log(values).

    Raises:
        DataInvalid: If it is negative or more.

    Example:
        >>> symmetric_channel(2, log(2)).tolist(), symmetric_channel(2, 0.0).tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]])
    """
    most = log(values)
    if not 0 <= information <= most + 1e-9:
        raise DataInvalid(f"wanted 0 to {most:.6g} nats between {values} values, got {information:.6g}")
    if information <= 0:
        keep = 1 / values
    elif information >= most:
        keep = 1.0
    else:
        keep = _bisected(values, information)
    return np.where(np.eye(values, dtype=bool), keep, (1 - keep) / max(values - 1, 1))


def _bisected(values: int, information: float) -> float:
    """The probability to keep a value that has the information."""
    low, high = 1 / values, 1.0
    for _ in range(_HALVINGS):
        keep = (low + high) / 2
        low, high = (keep, high) if _kept_information(values, keep) < information else (low, keep)
    return (low + high) / 2


def _kept_information(values: int, keep: float) -> float:
    lost = 0.0 if keep >= 1 else -(1 - keep) * log((1 - keep) / (values - 1))
    return log(values) + keep * log(keep) - lost


def _thresholds(
    count: int, places: np.ndarray, values: int, stream: np.random.RandomState
) -> Int[np.ndarray, " codes"]:
    """A function of some of the bits of a code: a random weighted sum, cut into equally many codes a value."""
    bits = all_bits(len(places)).astype(float)
    weights = stream.uniform(0.5, 1.5, len(places)) * stream.choice([-1.0, 1.0], len(places))
    ranks = np.argsort(np.argsort(bits @ weights, kind="stable"))
    function = ranks * values // len(ranks)
    chosen = all_bits(count)[:, places].astype(int)
    return function[chosen @ (1 << np.arange(len(places))[::-1])]
