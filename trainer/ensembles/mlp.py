"""Multilayer perceptrons of one shape as stacked tensors: member e of every layer is one network's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from featcache.trainer.ensembles.flat import FlatParameters
from featcache.trainer.errors import EnsembleInvalid

Activation = Literal["leaky_relu", "tanh", "residual"]
SLOPE = 0.1  # of leaky_relu below 0


@dataclass(frozen=True)
class Shape:
    """The shape that all members share: `depth` times (linear, activation), then a linear head.

    Args:
        inputs: Width of the input.
        width: Of every hidden layer.
        depth: Hidden layers, 1 or more.
        outputs: Of the head.
        activation: "leaky_relu" (slope .1 below 0), "tanh", or "residual": leaky_relu, and each hidden layer but the
            first added to the one before.
    """

    inputs: int
    width: int
    depth: int
    outputs: int
    activation: Activation = "leaky_relu"

    def __post_init__(self) -> None:
        if min(self.inputs, self.width, self.depth, self.outputs) < 1:
            raise EnsembleInvalid(f"a network of {self}: wanted every size 1 or more")
        if self.activation not in get_args(Activation):
            raise EnsembleInvalid(f"activation {self.activation}: wanted one of {', '.join(get_args(Activation))}")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Outputs and inputs of each linear layer, the head last."""
        widths = [self.inputs, *[self.width] * self.depth, self.outputs]
        return [(below, above) for above, below in zip(widths, widths[1:], strict=False)]


class MlpEnsemble:
    """E networks of one shape, their parameters in one buffer [E, parameters].

    Args:
        shape: Of every member.
        parameters: [E, parameters] in the order weight, bias of each layer; None: zeros, for `members` members.
        members: Of an ensemble of zeros.
        dtype: Of an ensemble of zeros.

    Raises:
        EnsembleInvalid: If the parameters are not as many as the shape has.
    """

    def __init__(
        self,
        shape: Shape,
        parameters: Float[Tensor, "e parameters"] | None = None,
        *,
        members: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape = shape
        shapes = [size for below, above in shape.sizes for size in ((below, above), (below, 1))]
        self.flat = FlatParameters(shapes, parameters, members=members, dtype=dtype)
        self.weights, self.biases = self.flat.tensors[0::2], self.flat.tensors[1::2]

    def __len__(self) -> int:
        return len(self.flat.values)

    def hidden(self, x: Float[Tensor, "e d batch"]) -> list[Float[Tensor, "e width batch"]]:
        """Every hidden layer after its activation.

        Args:
            x: [e, d, batch] the columns are rows of data; a view of another order of memory costs nothing.
        """
        layers: list[Tensor] = []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            value = _activated(torch.baddbmm(bias, weight, layers[-1] if layers else x), self.shape.activation)
            layers.append(layers[-1] + value if layers and self.shape.activation == "residual" else value)
        return layers

    def head(self, hidden: Float[Tensor, "e width batch"]) -> Float[Tensor, "e outputs batch"]:
        """Outputs from the last hidden layer."""
        return torch.baddbmm(self.biases[-1], self.weights[-1], hidden)

    def __call__(self, x: Float[Tensor, "e d batch"]) -> Float[Tensor, "e outputs batch"]:
        """Outputs of every member."""
        return self.head(self.hidden(x)[-1])

    def member(self, number: int) -> torch.nn.Sequential:
        """One network of its own, with copies of the parameters; rows of data are rows.

        Raises:
            EnsembleInvalid: If its layers are residual, which no Sequential has.
        """
        if self.shape.activation == "residual":
            raise EnsembleInvalid("a residual network is no Sequential: use the ensemble itself")
        layers: list[torch.nn.Module] = []
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                linear = torch.nn.Linear(weight.shape[2], weight.shape[1], dtype=weight.dtype)
                linear.weight.copy_(weight[number])
                linear.bias.copy_(bias[number, :, 0])
                layers += [linear, torch.nn.Tanh() if self.shape.activation == "tanh" else torch.nn.LeakyReLU(SLOPE)]
        return torch.nn.Sequential(*layers[:-1])


def initial_mlps(
    shape: Shape, seeds: Sequence[int], *, after: Shape | None = None, dtype: torch.dtype = torch.float32
) -> MlpEnsemble:
    """Networks with torch's default initial values, each from the stream of its seed.

    Args:
        shape: Of every member.
        seeds: One a member; members of one seed are equal.
        after: A network whose values are drawn from each stream first, as that of another modality is.
        dtype: Of the parameters; the same float32 draws whichever it is.
    """
    ensemble = MlpEnsemble(shape, members=len(seeds), dtype=dtype)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for number, seed in enumerate(seeds):
            torch.manual_seed(seed)
            for below, above in after.sizes if after else ():
                torch.nn.Linear(above, below)
            for (below, above), weight, bias in zip(shape.sizes, ensemble.weights, ensemble.biases, strict=True):
                linear = torch.nn.Linear(above, below)
                weight[number].copy_(linear.weight)
                bias[number, :, 0].copy_(linear.bias)
    return ensemble


def _activated(value: Tensor, activation: Activation) -> Tensor:
    """The activation of what a product has just written, in its place."""
    return value.tanh_() if activation == "tanh" else torch.nn.functional.leaky_relu_(value, SLOPE)
