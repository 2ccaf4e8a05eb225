"""Three synthetic modalities, of bits that all, two or one of them hold; any two of them as a generator."""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, UInt8

from featcache.data.errors import DataInvalid
from featcache.data.synthetic.generator import Table, all_bits
from featcache.data.synthetic.released import softmax_table

GROUPS = ("123", "12", "13", "23", "1", "2", "3")
"""The groups of bits, by the modalities that hold them; the label's weights are in this order."""
PAIRS = ((1, 2), (1, 3), (2, 3))


@dataclass(frozen=True)
class ThreeModalities:
    """Three modalities whose label reads U bits that one holds, some that two hold, and common ones.

    The third modality is added to the released generator: the softmax of weighted bits, its reweighting and its noise
    are the same. Bits that only two modalities hold are common to one pair and unique for the others.

    Args:
        shared: Bits that all three hold.
        paired: Bits that each pair holds.
        unique: Bits that each modality holds alone.
        used: Bits that the label reads.
        read_paired: Of these, how many are held by the pairs 12, 13 and 23.
        classes: Labels, each of probability 1 / classes within .01.
        temperature: Of the softmax; lower is less noise.
        features_seed: Which bits the label reads.
        weights_seed: Weights of the bits, then rows, labels and splits.
        phi_seed: Maps of the second modality of a pair.
        rows: Drawn.
        phi_depths: Maps of the second modality of a pair.

    Raises:
        DataInvalid: If the label would read more bits than there are, or a number is out of range.

    Example:
        >>> read = ThreeModalities().read(4)
        >>> [(group, len(places)) for group, places in read.items() if places]
        [('123', 1), ('12', 2), ('13', 1), ('1', 1), ('2', 1), ('3', 2)]
    """

    shared: int = 5
    paired: int = 2
    unique: int = 3
    used: int = 8
    read_paired: tuple[int, int, int] = (2, 1, 0)
    classes: int = 4
    temperature: float = 0.05
    features_seed: int = 1
    weights_seed: int = 2
    phi_seed: int = 0
    rows: int = 65_536
    phi_depths: int = 11

    def __post_init__(self) -> None:
        free = self.used - sum(self.read_paired)
        if min(self.shared, self.unique) < 1 or not 1 <= free <= min(self.shared, 3 * self.unique):
            raise DataInvalid(
                f"the label reads {free} bits beside those of pairs: wanted 1 to {min(self.shared, 3 * self.unique)}, "
                f"of {self.shared} that all hold or of {self.unique} that each holds alone"
            )
        if min(self.read_paired) < 0 or max(self.read_paired) > self.paired:
            raise DataInvalid(f"the label reads {self.read_paired} bits of pairs: wanted 0 to {self.paired} of each")
        if self.classes < 2 or self.temperature <= 0 or self.rows < 10 * self.classes:
            raise DataInvalid("wanted 2 or more classes, a temperature above 0 and 10 or more rows a class")

    @property
    def name(self) -> str:
        """The name in tables, with what differs from the defaults."""
        changed = [
            f"{item.name}={value}" for item in fields(self) if (value := getattr(self, item.name)) != item.default
        ]
        return "three" + (f"({','.join(changed)})" if changed else "")

    @property
    def levels(self) -> tuple[int, ...]:
        """The numbers U of bits that one modality holds and the label reads."""
        return tuple(range(self.used - sum(self.read_paired) + 1))

    def bits(self, group: str) -> int:
        """How many bits a group has."""
        return {3: self.shared, 2: self.paired, 1: self.unique}[len(group)]

    def read(self, level: int) -> dict[str, tuple[int, ...]]:
        """The bits of each group that the label reads, chosen without replacement, in the order of their weights.

        Raises:
            DataInvalid: If there is no such level.
        """
        if level not in self.levels:
            raise DataInvalid(f"{self.name}: U = {level}: wanted 0 to {self.levels[-1]}")
        stream = np.random.RandomState(self.features_seed)
        counts = (self.levels[-1] - level, *self.read_paired, level // 3, (level + 1) // 3, (level + 2) // 3)
        return {
            group: tuple(map(int, stream.choice(self.bits(group), size=count, replace=False))) if count else ()
            for group, count in zip(GROUPS, counts, strict=True)
        }

    def pair(self, first: int, second: int) -> "Pair":
        """Two of the modalities as a generator, the third left out.

        Raises:
            DataInvalid: If they are none of PAIRS.
        """
        if (first, second) not in PAIRS:
            raise DataInvalid(f"no pair {first}, {second}: there are {', '.join(f'{a}, {b}' for a, b in PAIRS)}")
        return Pair(self, first, second)


@dataclass(frozen=True, eq=False)
class ThreeDraw:
    """Rows of three modalities.

    Args:
        x1: [n, d] bits of the first, in the order of GROUPS.
        x2: [n, d] of the second.
        x3: [n, d] of the third.
        labels: [n] classes.
    """

    x1: UInt8[np.ndarray, "n d"]
    x2: UInt8[np.ndarray, "n d"]
    x3: UInt8[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Pair:
    """Two of three modalities, as a generator: what both hold is shared, and what the third holds too may be unique.

    Args:
        of: The three.
        first: 1 or 2.
        second: 2 or 3.
    """

    of: ThreeModalities
    first: int
    second: int

    @property
    def name(self) -> str:
        """That of the three, and the two."""
        return f"{self.of.name}_{self.first}{self.second}"

    @property
    def shared(self) -> int:
        """Bits that both hold."""
        return self.of.shared + self.of.paired

    @property
    def unique(self) -> int:
        """Bits that each holds and the other does not."""
        return self.of.paired + self.of.unique

    @property
    def classes(self) -> int:
        """Labels."""
        return self.of.classes

    @property
    def rows(self) -> int:
        """Drawn."""
        return self.of.rows

    @property
    def phi_seed(self) -> int:
        """Of the maps of the second of the two."""
        return self.of.phi_seed

    @property
    def phi_depths(self) -> int:
        """How many maps there are."""
        return self.of.phi_depths

    @property
    def levels(self) -> tuple[int, ...]:
        """Those of the three."""
        return self.of.levels

    def table(self, level: int) -> Table:
        """p(y | shared, unique 1, unique 2), the mean over the bits that the third modality alone holds."""
        return _pair_table(self, level)

    def state(self, level: int) -> np.random.RandomState:
        """The stream of the rows: that of the weights, after them."""
        return _weights(self.of)[1]


@lru_cache(maxsize=16)
def three_table(generator: ThreeModalities, level: int) -> Float[np.ndarray, "c123 c12 c13 c23 c1 c2 c3 classes"]:
    """p(y | bits), with one axis a group of GROUPS: the codes of the bits that the label reads, all equally likely.

    Returns:
        [2^read, …, classes], not to be written to; the last axis sums to 1.

    Raises:
        DataInvalid: If there is no such level.
    """
    counts = [len(places) for places in generator.read(level).values()]
    logits = all_bits(sum(counts)).astype(float) @ _weights(generator)[0]
    table = softmax_table(logits, generator.temperature)
    table = table.reshape(*(2**count for count in counts), generator.classes)
    table.setflags(write=False)
    return table


def draw_three(generator: ThreeModalities, level: int) -> ThreeDraw:
    """Draws rows: fair bits of each group, then a label for each row from its line of the table.

    Raises:
        DataInvalid: If there is no such level.

    Example:
        >>> rows = draw_three(ThreeModalities(rows=100), 3)
        >>> rows.x3.shape, bool((rows.x1[:, :7] == rows.x2[:, :7]).all())  # common to all, and to the pair 12
        ((100, 12), True)
    """
    stream, table, read = _weights(generator)[1], three_table(generator, level), generator.read(level)
    bits = {
        group: all_bits(count)[stream.randint(2**count, size=generator.rows)]
        for group in GROUPS
        for count in (generator.bits(group),)
    }
    codes = tuple(_code(bits[group][:, list(read[group])]) for group in GROUPS)
    cumulative = table.cumsum(axis=-1)[codes]
    labels = (stream.random_sample(generator.rows)[:, None] >= cumulative / cumulative[:, -1:]).sum(axis=1)
    x1, x2, x3 = (np.hstack([bits[group] for group in GROUPS if modality in group]) for modality in "123")
    return ThreeDraw(x1, x2, x3, labels)


@lru_cache(maxsize=16)
def _pair_table(pair: Pair, level: int) -> Table:
    first, second = str(pair.first), str(pair.second)
    (third,) = set("123") - {first, second}
    table, read = three_table(pair.of, level), pair.of.read(level)
    for axis, group in enumerate(GROUPS):
        codes = _code(all_bits(pair.of.bits(group))[:, list(read[group])])
        table = table.mean(axis=axis, keepdims=True) if group == third else table.take(codes, axis=axis)
    order = ("123", first + second, *_unique(first, third), *_unique(second, third), third)
    table = table.transpose(*(GROUPS.index(group) for group in order), len(GROUPS))
    table = table.reshape(2**pair.shared, 2**pair.unique, 2**pair.unique, pair.classes)
    table.setflags(write=False)
    return table


def _unique(one: str, third: str) -> tuple[str, str]:
    """Groups that a modality of a pair holds and the other does not."""
    return "".join(sorted(one + third)), one


def _code(bits: UInt8[np.ndarray, "n bits"]) -> Int[np.ndarray, " n"]:
    return bits.astype(int) @ (1 << np.arange(bits.shape[1])[::-1])


def _weights(generator: ThreeModalities) -> tuple[Float[np.ndarray, "used classes"], np.random.RandomState]:
    """Weights of the bits, rows of length 1, and the stream after them, as in the released generator."""
    stream = np.random.RandomState(generator.weights_seed)
    weights = stream.uniform(0, 1, size=(generator.used, generator.classes))
    return weights / np.linalg.norm(weights, axis=1, keepdims=True), stream
