"""Which shared and unique bits can be decoded from the features of each encoder, by held-out probes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from featcache.data.synthetic.generator import Table, all_bits
from featcache.studies.emergence.together.uses import TrainedPairs

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.trainer.ensembles.probes import MlpProbeFit

PROBES = ("linear", "mlp")
HELD_OUT = 0.25  # of the inputs of a modality
_SPLIT_SEED = 11
_READ = 1e-9  # change of a probability that is no rounding


@dataclass(frozen=True)
class KeptBit:
    """How well one bit is decoded from the features of one encoder.

    Args:
        side: 0 or 1, the modality whose encoder it is.
        bit: Its place among the bits of the modality's input: shared ones first.
        kind: "shared" (the other modality holds it too) or "unique". Bits of the other modality alone are not asked
            for: no feature of this one knows them.
        used: Whether the label depends on it.
        probe: Of PROBES.
        accuracy: On held-out inputs; .5 where the features do not know the bit.
    """

    side: int
    bit: int
    kind: str
    used: bool
    probe: str
    accuracy: float


def kept_bits(pairs: TrainedPairs, probe: "MlpProbeFit | None" = None) -> list[list[KeptBit]]:
    """Decodes every bit of each modality from the features of its encoder, in every pair.

    A probe of a bit is judged on a quarter of the inputs, which it has not seen, the same for all pairs
    (`held_out_inputs`).

    Args:
        pairs: The trained pairs.
        probe: Of the probes with a hidden layer; None: the default.

    Returns:
        The bits of each pair: side by side, probe by probe.
    """
    import torch

    from featcache.trainer.ensembles.probes import MlpProbeFit, whitened

    fit, rows = probe or MlpProbeFit(), list[list[KeptBit]]([] for _ in pairs.members)
    for side, features in enumerate(pairs.features):
        used = bits_used(pairs.data.table, side)
        shared = int(np.log2(pairs.data.table.shape[0]))
        for name, accuracies in _decoded(whitened(torch.from_numpy(features)), len(used), fit).items():
            for own, of_bits in zip(rows, accuracies, strict=True):
                own += [
                    KeptBit(side, bit, "shared" if bit < shared else "unique", bool(used[bit]), name, float(value))
                    for bit, value in enumerate(of_bits)
                ]
    return rows


def bits_used(table: Table, side: int) -> Bool[np.ndarray, " bits"]:
    """Which bits of a modality's input the label depends on, in the order of the input: shared ones first.

    Args:
        table: p(y | shared, unique 1, unique 2).
        side: 0 for the first modality, 1 for the second.

    Example:
        >>> table = np.full((2, 2, 2, 2), .5)
        >>> table[1, :, :] = [.9, .1]
        >>> bits_used(table, 0).tolist()
        [True, False]
    """
    used: list[bool] = []
    for axis in (0, 1 + side):
        codes = np.moveaxis(table, axis, 0)
        for place in range(int(np.log2(len(codes)))):
            flipped = np.arange(len(codes)) ^ (len(codes) >> (place + 1))
            used.append(bool(np.abs(codes - codes[flipped]).max() > _READ))
    return np.array(used)


def held_out_inputs(bits: int, seed: int = _SPLIT_SEED) -> Bool[np.ndarray, "inputs bits"]:
    """Which inputs are held out for each bit: with every input also the one that differs in this bit alone.

    So the bit is 0 as often as 1 in both parts, whatever the other bits are. Were inputs held out one by one, features
    that do not know a bit would show below chance: of the inputs that look alike, the held-out ones lean to the value
    that the others lean away from.

    Args:
        bits: Of an input.
        seed: Of the choice.

    Example:
        >>> held_out_inputs(4).mean(axis=0).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    codes, stream = np.arange(2**bits), np.random.default_rng(seed)
    held = np.zeros((len(codes), bits), dtype=bool)
    for bit in range(bits):
        low = bits - 1 - bit  # the first bit is the most significant
        others = (codes >> (low + 1) << low) | (codes & (2**low - 1))
        chosen = stream.permutation(2 ** (bits - 1)) < round(HELD_OUT * 2 ** (bits - 1))
        held[:, bit] = chosen[others]
    return held


def _decoded(x: "Float[Tensor, 'e n d']", count: int, fit: "MlpProbeFit") -> dict[str, Float[np.ndarray, "e bits"]]:
    """Accuracy of each probe on held-out inputs."""
    import torch

    from featcache.trainer.ensembles.probes import fit_linear_probes, fit_mlp_probes

    bits, held = torch.from_numpy(all_bits(count).astype(np.float32)), torch.from_numpy(held_out_inputs(count))
    linear = fit_linear_probes(x, bits, "bits", seen=~held)(x)
    with_hidden = fit_mlp_probes(x, bits, ~held, fit)
    with torch.no_grad():
        logits = {"linear": linear, "mlp": with_hidden(x.mT).mT}
    right = {name: ((values > 0) == (bits > 0)) & held for name, values in logits.items()}
    return {name: (hits.sum(dim=1) / held.sum(dim=0)).double().numpy() for name, hits in right.items()}
