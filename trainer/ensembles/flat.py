"""Parameters of many networks in one buffer, and AdamW with a learning rate, decay and clip of each network's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from featcache.trainer.errors import EnsembleInvalid

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class FlatParameters:
    """Stacked tensors [E, ...] that share one buffer [E, parameters].

    Args:
        shapes: Of one member's tensors.
        values: [E, parameters], copied; None: zeros.
        members: Of a buffer of zeros.
        dtype: Of a buffer of zeros.

    Raises:
        EnsembleInvalid: If the values are not as many as the shapes have.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        values: Float[Tensor, "e parameters"] | None = None,
        *,
        members: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        sizes = [int(torch.Size(shape).numel()) for shape in shapes]
        self.values = torch.zeros(members, sum(sizes), dtype=dtype) if values is None else values.detach().clone()
        if self.values.shape[1:] != (sum(sizes),):
            raise EnsembleInvalid(f"wanted [members, {sum(sizes)}] parameters, got {list(self.values.shape)}")
        self.tensors = [
            part.view(len(self.values), *shape).requires_grad_()
            for shape, part in zip(shapes, self.values.split(sizes, 1), strict=True)
        ]

    def take_gradients(self) -> Float[Tensor, "e parameters"]:
        """The gradients of all tensors, which are then without; 0 where a tensor has none."""
        parts = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in self.tensors]
        for tensor in self.tensors:
            tensor.grad = None
        return torch.cat([part.flatten(1) for part in parts], dim=1)


@dataclass(frozen=True)
class Rates:
    """What a member is trained with.

    Args:
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, decoupled; of all parameters.
        clip: Largest norm of a member's gradient.
    """

    learning_rate: float
    weight_decay: float = 0.0
    clip: float = 8.0


class StackedAdamW:
    """AdamW of every member at once, equal to torch.optim.AdamW after clip_grad_norm_ on each network alone.

    Args:
        parameters: Of all members.
        rates: One a member.

    Raises:
        EnsembleInvalid: If there is not one rate a member, or a rate is not above 0.

    Source:
        Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    def __init__(self, parameters: FlatParameters, rates: Sequence[Rates]) -> None:
        if len(rates) != len(parameters.values):
            raise EnsembleInvalid(f"{len(rates)} rates for {len(parameters.values)} members")
        if any(rate.learning_rate <= 0 or rate.weight_decay < 0 or rate.clip <= 0 for rate in rates):
            raise EnsembleInvalid("wanted learning rates and clips above 0, and weight decays of 0 or more")
        self.parameters, self.steps = parameters, 0
        self.first, self.second = torch.zeros_like(parameters.values), torch.zeros_like(parameters.values)

        def column(name: str) -> Tensor:
            return parameters.values.new_tensor([getattr(rate, name) for rate in rates])[:, None]

        self._rate, self._decay, self._clip = column("learning_rate"), column("weight_decay"), column("clip")

    @torch.no_grad()
    def step(self) -> None:
        """One step by the gradients that the tensors have, which are then without."""
        values, gradients = self.parameters.values, self.parameters.take_gradients()
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients.mul_((self._clip / (norms + 1e-6)).clamp_(max=1.0))
        self.steps += 1
        values.mul_(1 - self._rate * self._decay)
        self.first.lerp_(gradients, 1 - _BETAS[0])
        self.second.mul_(_BETAS[1]).addcmul_(gradients, gradients, value=1 - _BETAS[1])
        corrections = [1 - beta**self.steps for beta in _BETAS]
        denominator = (self.second.sqrt() / corrections[1] ** 0.5).add_(_EPSILON)
        values.sub_(self._rate / corrections[0] * self.first / denominator)
