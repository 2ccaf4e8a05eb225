"""What a row costs an encoder: the parameters that it passes, its floating-point operations, its milliseconds."""

from collections.abc import Sequence
from math import prod
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featcache.encoders.encoder import Encoder


def count_parameters(encoder: Encoder, prepared: Sequence[Any], layers: Sequence[str]) -> int:
    """Elements of the parameters that a forward pass reads.

    A classifier's or language model's head that no layer needs is not read, and not counted; of a table of embeddings
    the whole is.

    Args:
        encoder: The encoder.
        prepared: Rows, as `Encoder.prepare` gives them.
        layers: "layer.pooling" names that the pass computes.
    """
    with _Reads(encoder.module) as reads:
        encoder.encode(prepared, layers)
    return sum(parameter.numel() for parameter in reads.parameters)


def count_flops(encoder: Encoder, batches: Sequence[Sequence[Any]], layers: Sequence[str]) -> float:
    """Floating-point operations a row: those of the passes of real batches over their rows, padding included.

    Products of matrices, convolutions and attention count, a multiplication and its addition as two; normalisation,
    activations, sums, look-ups and pooling do not. Fused attention is counted as the two products that it fuses, the
    masked half of causal attention too.

    Args:
        encoder: The encoder.
        batches: Prepared rows that run together.
        layers: "layer.pooling" names that the pass computes.

    Source:
        torch.utils.flop_counter.FlopCounterMode.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter knows no fused attention and no fused LSTM of the CPU, and would count none of them.
    fused: Any = {torch.ops.aten.mkldnn_rnn_layer: _lstm_flops}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=fused) as counter:
        for batch in batches:
            encoder.encode(batch, layers)
    return counter.get_total_flops() / sum(map(len, batches))


def _lstm_flops(inputs: Any, to_gates: Any, of_hidden: Any, *rest: Any, **outputs: Any) -> int:
    """Of one layer: at each step of each row, the products of its input and of its hidden state."""
    return 2 * prod(inputs[:2]) * (prod(to_gates) + prod(of_hidden))


def forward_milliseconds(
    encoder: Encoder, batches: Sequence[Sequence[Any]], layers: Sequence[str], *, repeats: int
) -> float:
    """Median milliseconds a row of the forward pass, over all batches and repeats, after one pass that warms up.

    From prepared rows to features on the CPU: the transfer to a device and back is part of it.

    Args:
        encoder: The encoder.
        batches: Prepared rows that run together.
        layers: "layer.pooling" names that the pass computes.
        repeats: Passes of each batch that are measured.
    """
    encoder.encode(batches[0], layers)
    times: list[float] = []
    for _ in range(repeats):
        for batch in batches:
            started = perf_counter()
            encoder.encode(batch, layers)
            times.append((perf_counter() - started) * 1e3 / len(batch))
    return median(times)


class _Reads(TorchDispatchMode):
    """The parameters of a module that are an argument of some operation."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._all = {id(parameter): parameter for parameter in module.parameters()}
        self.parameters: set[nn.Parameter] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs or {})):
            if id(value) in self._all:
                self.parameters.add(self._all[id(value)])
        return func(*args, **(kwargs or {}))
