"""Symmetric InfoNCE whose gradient is written down: two passes of exponentials over the logits and three products."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

MAXIMAL_LOG_SCALE = math.log(100.0)


class SymmetricInfoNce(torch.autograd.Function):
    """Mean of both directions' cross-entropy of scale * x y^T with its diagonal; masked pairs are no negatives.

    With P the softmax of each row and Q that of each column, the gradient of the logits is (P + Q - 2 I) / (2 b). It is
    made in the forward pass, where the exponentials are at hand, and is all that is kept. The scale is capped.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "b width"],
        y: Float[Tensor, "b width"],
        log_scale: Float[Tensor, ""],
        masked: Bool[Tensor, "b b"] | None,
    ) -> Float[Tensor, ""]:
        """The loss, in nats; arguments as of `losses.info_nce`, `masked` the pairs that are no negatives."""
        scale = log_scale.clamp(max=MAXIMAL_LOG_SCALE).exp()
        logits = (x * scale) @ y.T
        if masked is not None:
            logits.masked_fill_(masked, -math.inf)
        b = len(logits)
        highest, across = logits.amax(dim=1), logits.amax(dim=0)
        by_row, by_column = (logits - highest[:, None]).exp_(), (logits - across).exp_()
        row_sums, column_sums = by_row.sum(dim=1), by_column.sum(dim=0)
        partners = logits.diagonal()
        total = (highest + row_sums.log() + across + column_sums.log()).sum() / 2 - partners.sum()
        gradient = by_row.mul_(0.5 / b / row_sums[:, None]).addcmul_(by_column, (0.5 / b / column_sums).expand(b, b))
        gradient.diagonal().sub_(1 / b)
        if masked is not None:
            logits.masked_fill_(masked, 0.0)
        capped = log_scale >= MAXIMAL_LOG_SCALE
        slope = torch.dot(gradient.view(-1), logits.view(-1)).masked_fill(capped, 0.0)
        ctx.save_for_backward(x, y, gradient, scale, slope)
        return total / b

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - what the decorator makes of its parameters
        ctx: Any, *outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor, None]:
        """Gradients of x, y and log_scale."""
        x, y, gradient, scale, slope = ctx.saved_tensors
        (output,) = outputs
        step = output * scale
        to_x = (gradient @ y).mul_(step) if ctx.needs_input_grad[0] else None
        to_y = (gradient.T @ x).mul_(step) if ctx.needs_input_grad[1] else None
        return to_x, to_y, slope * output, None
