"""What every generator of two synthetic modalities has: a label table, draws, maps of the second modality, splits."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8

from featcache.data.errors import DataInvalid, DataMissing

SPLITS = ("train", "valid", "test")

Table = Float[np.ndarray, "shared unique1 unique2 classes"]


class Generator(Protocol):
    """Two modalities of fair bits, of which both hold some and each holds others, and the table of their label.

    Args:
        name: Stands in tables.
        shared: Bits that both modalities hold.
        unique: Bits that each modality holds alone.
        classes: Labels.
        rows: Rows that are drawn.
        phi_seed: Of the maps of the second modality.
        phi_depths: How many maps there are; map i has i hidden layers.
        levels: The levels that there are tables of; in the released generator, the numbers U of unique bits.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def shared(self) -> int: ...  # noqa: D102
    @property
    def unique(self) -> int: ...  # noqa: D102
    @property
    def classes(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def phi_seed(self) -> int: ...  # noqa: D102
    @property
    def phi_depths(self) -> int: ...  # noqa: D102
    @property
    def levels(self) -> tuple[int, ...]: ...  # noqa: D102

    def table(self, level: int) -> Table:
        """p(y | shared, unique 1, unique 2), each code with its first bit as the most significant."""
        ...

    def state(self, level: int) -> np.random.RandomState:
        """The stream that the rows of a level are drawn from, and then its splits."""
        ...


@dataclass(frozen=True, eq=False)
class Draw:
    """Rows drawn from a table.

    Args:
        shared: [n] codes of the shared bits.
        unique1: [n] codes of the bits of the first modality alone.
        unique2: [n] codes of those of the second.
        labels: [n] classes.
    """

    shared: Int[np.ndarray, " n"]
    unique1: Int[np.ndarray, " n"]
    unique2: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one split.

    Args:
        x1: [n, d] the first modality, z-scored by the training rows.
        x2: [n, d] the second one, mapped, and z-scored likewise.
        labels: [n] classes.
        codes1: [n] which of the 2^d inputs x1 is: shared bits, then unique ones, the first as the most significant.
        codes2: [n] the same of x2.
    """

    x1: Float[np.ndarray, "n d"]
    x2: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    codes1: Int[np.ndarray, " n"]
    codes2: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Modalities:
    """A drawn data set of two modalities.

    Args:
        level: Of its label table.
        phi_depth: Hidden layers of the map of the second modality.
        parts: The rows of each of SPLITS.
        inputs1: [2^d, d] every input of the first modality in the order of its code, z-scored as the rows are.
        inputs2: [2^d, d] of the second one.
        table: p(y | shared, unique 1, unique 2).
    """

    level: int
    phi_depth: int
    parts: dict[str, Part]
    inputs1: Float[np.ndarray, "inputs d"]
    inputs2: Float[np.ndarray, "inputs d"]
    table: Table


def all_bits(count: int) -> UInt8[np.ndarray, "codes count"]:
    """Every combination of some bits, in the order of its code.

    Example:
        >>> all_bits(2).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    codes = np.arange(2**count)[:, None]
    return (codes >> np.arange(count)[::-1] & 1).astype(np.uint8)


def draw(generator: Generator, level: int, state: np.random.RandomState | None = None) -> Draw:
    """Draws the rows of a level: fair bits first, then a label for each row from its line of the table.

    Args:
        generator: Says how many rows.
        level: Of the label table.
        state: The stream; None: the generator's own. It is left where the splits go on.
    """
    stream = generator.state(level) if state is None else state
    table = generator.table(level)
    codes: list[np.ndarray] = []
    for size in table.shape[:3]:
        codes.append(stream.choice(size, size=generator.rows, p=np.full(size, 1 / size)))
    # a label takes one uniform number, as numpy's choice does it row by row
    cumulative = table.cumsum(axis=3)
    cumulative = (cumulative / cumulative[..., -1:])[codes[0], codes[1], codes[2]]
    labels = (stream.random_sample(generator.rows)[:, None] >= cumulative).sum(axis=1)
    return Draw(codes[0], codes[1], codes[2], labels)


def phi(generator: Generator) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """The maps of the second modality: weights [d, d] and biases [d] of each layer, tanh between them.

    All come from one stream, in the order of their depth, with torch's default initial values.

    Returns:
        One network for each depth 0, 1, …; that of depth i has i + 1 layers.
    """
    import torch

    width, networks = generator.shared + generator.unique, list[list[tuple[np.ndarray, np.ndarray]]]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.phi_seed)
        for depth in range(generator.phi_depths):
            layers = [torch.nn.Linear(width, width) for _ in range(depth + 1)]
            networks.append([(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers])
    return networks


def apply_phi(network: list[tuple[np.ndarray, np.ndarray]], x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Maps rows by one of the networks of `phi`, in float32."""
    import torch

    hidden = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    for number, (weight, bias) in enumerate(network):
        hidden = hidden if number == 0 else hidden.tanh()
        hidden = torch.nn.functional.linear(hidden, torch.from_numpy(weight), torch.from_numpy(bias))
    return hidden.numpy()


def modalities(generator: Generator, level: int, phi_depths: Iterable[int]) -> Iterator[Modalities]:
    """Data sets of one level: the same rows under several maps of the second modality, each split anew.

    The splits are stratified, 70 / 15 / 15, and come from the stream of the draws, one after the other by depth: that
    of a depth is the same whichever others are asked for.

    Args:
        generator: Of the table, the draws and the maps.
        level: One of its levels.
        phi_depths: Wanted, ascending.

    Raises:
        DataInvalid: If there is no such level or depth.
        DataMissing: If scikit-learn, whose draws the splits are, is not installed.
    """
    wanted = list(phi_depths)
    if level not in generator.levels:
        raise DataInvalid(f"{generator.name}: no level {level}: there are {', '.join(map(str, generator.levels))}")
    if not wanted or min(wanted) < 0 or max(wanted) >= generator.phi_depths:
        raise DataInvalid(
            f"{generator.name}: wanted depths of the map within 0 to {generator.phi_depths - 1}: {wanted}"
        )
    stream = generator.state(level)
    rows, networks = draw(generator, level, stream), phi(generator)
    bits = all_bits(generator.shared + generator.unique).astype(np.float32)
    size = 2**generator.unique
    codes1, codes2 = rows.shared * size + rows.unique1, rows.shared * size + rows.unique2
    for depth in range(max(wanted) + 1):
        places = _split(rows.labels, stream)
        if depth in wanted:
            x1, x2 = bits[codes1], apply_phi(networks[depth], bits[codes2])
            (x1, inputs1), (x2, inputs2) = (
                _standardised(values, every, places["train"])
                for values, every in ((x1, bits), (x2, apply_phi(networks[depth], bits)))
            )
            parts = {
                split: Part(x1[at], x2[at], rows.labels[at], codes1[at], codes2[at]) for split, at in places.items()
            }
            yield Modalities(level, depth, parts, inputs1, inputs2, generator.table(level))


def _split(labels: np.ndarray, stream: np.random.RandomState) -> dict[str, np.ndarray]:
    try:
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise DataMissing(
            "the splits of synthetic modalities are drawn by scikit-learn, which is not installed\n"
            "  Run: pip install 'featcache[emergence]'"
        ) from None

    every = np.arange(len(labels))
    train, rest = train_test_split(every, test_size=0.3, stratify=labels, random_state=stream)
    valid, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=stream)
    return {name: np.asarray(places) for name, places in zip(SPLITS, (train, valid, test), strict=True)}


def _standardised(values: np.ndarray, every: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and inputs less the mean of the training rows, by their standard deviation, in float32 as released."""
    mean, std = values[train].mean(axis=0), values[train].std(axis=0)
    return (values - mean) / std, (every - mean) / std
