"""Small transformer encoders of one depth as stacked tensors: member e of every matrix is one network's.

A network is a linear projection of each step, learned positions, `depth` encoder layers (self-attention with one head,
then a feed-forward part as wide as the layer; residual, then layer norm; ReLU), the mean over all steps or the first,
and a linear head.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from featcache.trainer.ensembles.flat import FlatParameters
from featcache.trainer.errors import EnsembleInvalid

Pool = Literal["mean", "cls"]
_LAYER = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias", "linear1.weight", "linear1.bias",
          "linear2.weight", "linear2.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")  # fmt: skip
_NORM_EPSILON = 1e-5  # torch's


@dataclass(frozen=True)
class TransformerShape:
    """The shape that all members share.

    Args:
        inputs: Numbers a step.
        width: Of every layer, and of its feed-forward part.
        depth: Encoder layers, 1 or more.
        steps: Longest sequence.
        outputs: Of the head.
        pool: "mean": over all steps, padding among them, as the study of emerging alignment has it for sentiment;
            "cls": a learned step in front, which alone is read.
    """

    inputs: int
    width: int
    depth: int
    steps: int
    outputs: int
    pool: Pool = "mean"

    def __post_init__(self) -> None:
        if min(self.inputs, self.width, self.depth, self.steps, self.outputs) < 1:
            raise EnsembleInvalid(f"a network of {self}: wanted every size 1 or more")
        if self.pool not in get_args(Pool):
            raise EnsembleInvalid(f"pool {self.pool}: wanted one of {', '.join(get_args(Pool))}")

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Name -> size of each of a network's tensors; vectors lie as rows, to be added to steps."""
        width, first = self.width, self.pool == "cls"
        sizes: dict[str, tuple[int, ...]] = {"proj.weight": (width, self.inputs), "proj.bias": (1, width)}
        if first:
            sizes["cls"] = (1, width)
        sizes["positions"] = (self.steps + first, width)
        for layer in range(self.depth):
            for name in _LAYER:
                tall = 3 * width if name.startswith("in_proj") else width
                sizes[f"{layer}.{name}"] = (
                    (tall, width) if name.endswith("weight") and "norm" not in name else (1, tall)
                )
        return sizes | {"head.weight": (self.outputs, width), "head.bias": (1, self.outputs)}


class Dropout:
    """Dropout with a stream of random numbers a member, so that none depends on which others are trained with it.

    Args:
        rate: Share of entries that are set to 0; the others are divided by what is left.
        generators: One a member.
    """

    def __init__(self, rate: float, generators: Sequence[torch.Generator]) -> None:
        if not 0 <= rate < 1:
            raise EnsembleInvalid(f"dropout {rate}: wanted a share from 0 to below 1")
        self.rate, self.generators = rate, generators

    def __call__(self, x: Float[Tensor, "e ..."]) -> Float[Tensor, "e ..."]:
        """Entries of member e set to 0 by its own stream."""
        if not self.rate:
            return x
        keep = torch.empty_like(x)
        for part, generator in zip(keep, self.generators, strict=True):
            part.bernoulli_(1 - self.rate, generator=generator)
        return x * keep.div_(1 - self.rate)


class TransformerEnsemble:
    """E networks of one shape, their parameters in one buffer [E, parameters].

    Args:
        shape: Of every member.
        parameters: [E, parameters] in the order of `shape.sizes`; None: zeros, for `members` members.
        members: Of an ensemble of zeros.
        dtype: Of an ensemble of zeros.

    Raises:
        EnsembleInvalid: If the parameters are not as many as the shape has.
    """

    def __init__(
        self,
        shape: TransformerShape,
        parameters: Float[Tensor, "e parameters"] | None = None,
        *,
        members: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape = shape
        self.flat = FlatParameters([*shape.sizes.values()], parameters, members=members, dtype=dtype)
        self.tensors = dict(zip(shape.sizes, self.flat.tensors, strict=True))

    def __len__(self) -> int:
        return len(self.flat.values)

    def hidden(
        self,
        x: Float[Tensor, "e batch steps inputs"],
        padding: Bool[Tensor, "e batch steps"] | None = None,
        dropout: Dropout | None = None,
    ) -> list[Float[Tensor, "e batch width"]]:
        """Every layer's output, pooled over steps.

        Args:
            x: Sequences; a row of one member and that of another need not be the same.
            padding: True where a step is none: it is attended to by no step. No row may be padding alone.
            dropout: In training; None for none.
        """
        drop: Callable[[Tensor], Tensor] = dropout or (lambda value: value)
        value = self._embedded(x)
        blocked = self._blocked(padding, value)
        pooled: list[Tensor] = []
        for layer in range(self.shape.depth):
            own = {name: self.tensors[f"{layer}.{name}"] for name in _LAYER}
            value = _normed(value + drop(_attention(value, own, blocked, drop)), own, "norm1")
            inner = drop(torch.relu(_linear(value, own["linear1.weight"], own["linear1.bias"])))
            value = _normed(value + drop(_linear(inner, own["linear2.weight"], own["linear2.bias"])), own, "norm2")
            pooled.append(value[:, :, 0] if self.shape.pool == "cls" else value.mean(dim=2))
        return pooled

    def head(self, pooled: Float[Tensor, "e batch width"]) -> Float[Tensor, "e batch outputs"]:
        """Outputs from the last layer, pooled."""
        return torch.baddbmm(self.tensors["head.bias"], pooled, self.tensors["head.weight"].mT)

    def __call__(
        self,
        x: Float[Tensor, "e batch steps inputs"],
        padding: Bool[Tensor, "e batch steps"] | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Tensor, "e batch outputs"]:
        """Outputs of every member; arguments as `hidden`."""
        return self.head(self.hidden(x, padding, dropout)[-1])

    def _embedded(self, x: Tensor) -> Tensor:
        own = self.tensors
        value = _linear(x, own["proj.weight"], own["proj.bias"])
        if self.shape.pool == "cls":
            first = own["cls"][:, None].expand(-1, value.shape[1], -1, -1)
            value = torch.cat([first, value], dim=2)
        return value + own["positions"][:, None, : value.shape[2]]

    def _blocked(self, padding: Tensor | None, value: Tensor) -> Tensor | None:
        """[e * batch, 1, steps] what is added to attention: -inf for steps that are none."""
        if padding is None:
            return None
        if self.shape.pool == "cls":
            padding = torch.cat([padding.new_zeros(*padding.shape[:2], 1), padding], dim=2)
        mask = value.new_zeros(padding.shape).masked_fill_(padding, -math.inf)
        return mask.flatten(0, 1)[:, None]


def initial_transformers(
    shape: TransformerShape, seeds: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> TransformerEnsemble:
    """Networks with torch's default initial values, each from the stream of its seed.

    All layers of a network begin equal, as those of torch.nn.TransformerEncoder do, which copies one layer.

    Args:
        shape: Of every member.
        seeds: One a member; members of one seed are equal.
        dtype: Of the parameters; the same float32 draws whichever it is.
    """
    ensemble, width = TransformerEnsemble(shape, members=len(seeds), dtype=dtype), shape.width
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for number, seed in enumerate(seeds):
            torch.manual_seed(seed)
            values = _named("proj", torch.nn.Linear(shape.inputs, width))
            layer = torch.nn.TransformerEncoderLayer(width, 1, width)
            drawn = {name.removeprefix("self_attn."): value for name, value in layer.named_parameters()}
            values |= {f"{place}.{name}": drawn[name] for place in range(shape.depth) for name in _LAYER}
            if shape.pool == "cls":
                values["cls"] = torch.randn(1, width)
            values["positions"] = torch.randn(shape.sizes["positions"])
            values |= _named("head", torch.nn.Linear(width, shape.outputs))
            for name, tensor in ensemble.tensors.items():
                tensor[number].copy_(values[name].view(tensor[number].shape))
    return ensemble


def _named(prefix: str, module: torch.nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.named_parameters()}


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer of every member over all rows and steps."""
    return torch.baddbmm(bias, x.flatten(1, 2), weight.mT).unflatten(1, x.shape[1:3])


def _normed(x: Tensor, own: dict[str, Tensor], name: str) -> Tensor:
    plain = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=_NORM_EPSILON)
    return torch.addcmul(own[f"{name}.bias"][:, None], plain, own[f"{name}.weight"][:, None])


def _attention(x: Tensor, own: dict[str, Tensor], blocked: Tensor | None, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Self-attention with one head; the share of each step is dropped out too, as torch does."""
    query, key, value = (
        part.flatten(0, 1) for part in _linear(x, own["in_proj_weight"], own["in_proj_bias"]).chunk(3, dim=-1)
    )
    scores = torch.bmm(query / math.sqrt(x.shape[-1]), key.mT)
    shares = torch.softmax(scores if blocked is None else scores + blocked, dim=-1)
    mixed = torch.bmm(drop(shares.unflatten(0, x.shape[:2])).flatten(0, 1), value)
    return _linear(mixed.unflatten(0, x.shape[:2]), own["out_proj.weight"], own["out_proj.bias"])
