"""The released generator of two modalities whose label reads U unique bits and as many shared ones as remain."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from featcache.data.errors import DataInvalid
from featcache.data.synthetic.generator import Table, all_bits

_TOLERANCE, _ROUNDS = 0.01, 100  # of the reweighting


@dataclass(frozen=True)
class LabelBits:
    """Positions of the bits that a label reads, in the order of their weights.

    Args:
        shared: Among the shared bits.
        unique1: Among the bits of the first modality alone.
        unique2: Among those of the second.
    """

    shared: tuple[int, ...]
    unique1: tuple[int, ...]
    unique2: tuple[int, ...]


@dataclass(frozen=True)
class Released:
    """The generator of Tjandrasuwita et al. 2025: y reads R shared, U // 2 and U - U // 2 unique bits, U = used - R.

    Draws, stream of maps, unsorted choice of bits and reweighting of classes are as in the authors' code. The rows'
    bits are the same at every U.

    Args:
        shared: Bits that both modalities hold.
        unique: Bits that each holds alone.
        used: Bits that the label reads; at most 2 unique, and at most shared.
        classes: Labels, each of probability 1 / classes within .01.
        temperature: Of the softmax; lower is less noise.
        features_seed: Which bits the label reads.
        weights_seed: Weights of the bits, then rows, labels and splits.
        phi_seed: Maps of the second modality.
        rows: Drawn.
        phi_depths: Maps of the second modality.

    Raises:
        DataInvalid: If the label would read more bits than there are, or a number is out of range.

    Example:
        >>> generator = Released(rows=64)
        >>> generator.table(8).shape, label_bits(generator, 6).unique1
        ((256, 16, 16, 4), (3, 2, 0))

    Source:
        Tjandrasuwita et al., ICML 2025, arXiv:2502.16282, and its code, multimodal_alignment at 20f2286.
    """

    shared: int = 8
    unique: int = 4
    used: int = 8
    classes: int = 4
    temperature: float = 0.05
    features_seed: int = 1
    weights_seed: int = 2
    phi_seed: int = 0
    rows: int = 65_536
    phi_depths: int = 11

    def __post_init__(self) -> None:
        if self.used > min(self.shared, 2 * self.unique) or self.used < 1:
            raise DataInvalid(
                f"the label reads {self.used} bits: wanted 1 to {min(self.shared, 2 * self.unique)}, "
                f"of {self.shared} shared ones or of {self.unique} unique ones a modality"
            )
        if self.classes < 2 or self.temperature <= 0 or self.rows < 10 * self.classes:
            raise DataInvalid("wanted 2 or more classes, a temperature above 0 and 10 or more rows a class")

    @property
    def name(self) -> str:
        """The name in tables; tells other settings from the published ones."""
        changed = [
            f"{name}={value}"
            for name, value in vars(self).items()
            if value != Released.__dataclass_fields__[name].default
        ]
        return "released" + (f"({','.join(changed)})" if changed else "")

    @property
    def levels(self) -> tuple[int, ...]:
        """The numbers U of unique bits that the label reads."""
        return tuple(range(self.used + 1))

    def table(self, level: int) -> Table:
        """p(y | shared, unique 1, unique 2) at U = level."""
        return label_table(self, level)

    def state(self, level: int) -> np.random.RandomState:
        """The stream of the rows: that of the weights, after them."""
        return _weights(self)[1]

    def with_rows(self, rows: int) -> "Released":
        """The same generator with another number of rows."""
        return replace(self, rows=rows)


def label_bits(generator: Released, uniqueness: int) -> LabelBits:
    """Which bits the label reads, chosen without replacement from one stream, and left in the order of the choice.

    Raises:
        DataInvalid: If there is no such level.

    Example:
        >>> label_bits(Released(), 0).shared
        (7, 2, 1, 6, 0, 4, 3, 5)
    """
    if uniqueness not in generator.levels:
        raise DataInvalid(f"U = {uniqueness}: wanted 0 to {generator.used}")
    stream = np.random.RandomState(generator.features_seed)
    sizes = (generator.used - uniqueness, uniqueness // 2, uniqueness - uniqueness // 2)
    pools = (generator.shared, generator.unique, generator.unique)
    chosen = [
        tuple(map(int, stream.choice(np.arange(pool), size=size, replace=False)))
        for pool, size in zip(pools, sizes, strict=True)
    ]
    return LabelBits(*chosen)


@lru_cache(maxsize=16)
def label_table(generator: Released, uniqueness: int) -> Table:
    """p(y | shared, unique 1, unique 2): softmax of weighted bits, classes reweighted until all are as likely.

    Returns:
        [2^shared, 2^unique, 2^unique, classes], not to be written to; the last axis sums to 1.

    Raises:
        DataInvalid: If there is no such level.
    """
    read = label_bits(generator, uniqueness)
    parts = [
        all_bits(count)[:, list(places)].astype(float)
        for count, places in (
            (generator.shared, read.shared),
            (generator.unique, read.unique1),
            (generator.unique, read.unique2),
        )
    ]
    weights = np.split(_weights(generator)[0], np.cumsum([part.shape[1] for part in parts])[:2])
    terms = [part @ weight for part, weight in zip(parts, weights, strict=True)]
    logits = terms[0][:, None, None] + terms[1][None, :, None] + terms[2][None, None]
    table = softmax_table(logits, generator.temperature)
    table.setflags(write=False)
    return table


def softmax_table(
    logits: Float[np.ndarray, "*codes classes"], temperature: float
) -> Float[np.ndarray, "*codes classes"]:
    """Softmax over the last axis, classes reweighted until all are as likely within .01, as released."""
    table = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    table /= table.sum(axis=-1, keepdims=True)
    wanted = np.full(table.shape[-1], 1 / table.shape[-1])
    for _ in range(_ROUNDS):
        current = table.mean(axis=tuple(range(table.ndim - 1)))
        if np.allclose(current, wanted, atol=_TOLERANCE):
            break
        table = table * (wanted / current)
        table /= table.sum(axis=-1, keepdims=True)
    return table


def _weights(generator: Released) -> tuple[Float[np.ndarray, "used classes"], np.random.RandomState]:
    """Weights of the bits, rows of length 1, and the stream after them."""
    stream = np.random.RandomState(generator.weights_seed)
    weights = stream.uniform(0, 1, size=(generator.used, generator.classes))
    return weights / np.linalg.norm(weights, axis=1, keepdims=True), stream
