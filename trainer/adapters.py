"""Adapters: what maps the features of every side into the joint space, and all that training changes."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from featcache.trainer.architectures import ADAPTERS
from featcache.trainer.joints import JOINTS


class Adapter(nn.Module):
    """Standardises features by stored training statistics and maps them to the joint width.

    The output is not normalised; whoever compares rows does that.

    Args:
        kind: A key of ADAPTERS.
        mean: [d] mean of the training rows.
        std: [d] standard deviation of the training rows; a constant dimension is left unscaled.
        width: Dimensions of the joint space.
        generator: Source of the initial weights (CPU).

    Raises:
        KeyError: If `kind` is not in ADAPTERS.

    Example:
        >>> adapter = Adapter("linear", torch.zeros(3), torch.ones(3), 2, torch.Generator().manual_seed(0))
        >>> adapter(torch.ones(5, 3)).shape
        torch.Size([5, 2])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, kind: str, mean: Float[Tensor, " d"], std: Float[Tensor, " d"], width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.kind = kind
        self.width = width
        self.register_buffer("mean", mean.float().clone())
        # a dimension that varies by less than float32 resolves is constant up to rounding
        varies = std > torch.finfo(torch.float32).eps * mean.abs()
        self.register_buffer("std", torch.where(varies, std, torch.ones_like(std)).float())
        self.net = ADAPTERS[kind](mean.shape[0], width, generator)

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        """Maps raw features (float32, as cached) into the joint space."""
        return self.net(self.standardised(features))

    def standardised(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Features less the training mean, over the training deviation: what the architecture is given."""
        return (features - self.mean) / self.std


class Adapters(nn.Module):
    """The adapter of every side, the parameters of the loss and of the joint space: everything that training changes.

    Args:
        sides: Name of a side -> its adapter.
        log_scale: Logarithm of the initial inverse temperature.
        bias: Initial bias of the loss's logits; None for a loss that has none.
        joint: A key of JOINTS.
        classifier: Initial weights of each class [c, width], for a loss that tells labels apart; else None.
    """

    joint_weights: Tensor

    def __init__(
        self,
        sides: Mapping[str, Adapter],
        log_scale: float,
        bias: float | None = None,
        joint: str = "sum",
        classifier: Float[Tensor, "c width"] | None = None,
    ) -> None:
        super().__init__()
        self.names = [*sides]
        self.joint = joint
        self.sides = nn.ModuleDict({module_key(name): adapter for name, adapter in sides.items()})
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.classifier = None if classifier is None else nn.Parameter(classifier)
        weights = JOINTS[joint].weights
        self.joint_logits = nn.Parameter(torch.zeros(len(sides))) if weights == "learned" else None
        if weights == "chosen":
            self.register_buffer("joint_weights", torch.full((len(sides),), 1 / len(sides)))
        self.eval()

    def __getitem__(self, side: str) -> Adapter:
        adapter = self.sides[module_key(side)]
        assert isinstance(adapter, Adapter)
        return adapter

    @property
    def width(self) -> int:
        """Dimensions of the joint space."""
        adapter = next(iter(self.sides.values()))
        assert isinstance(adapter, Adapter)
        return adapter.width

    def embed(self, side: str, features: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        """Maps rows of a side into the joint space and L2-normalises them."""
        return self.embed_standardised(side, self[side].standardised(features))

    def embed_standardised(self, side: str, features: Float[Tensor, "n d"]) -> Float[Tensor, "n width"]:
        """As `embed`, of features that are standardised already."""
        return nn.functional.normalize(self[side].net(features), dim=1)

    def weights(self) -> Float[Tensor, " sides"]:
        """Weight of each side in the joint space; together 1."""
        if self.joint_logits is not None:
            return self.joint_logits.softmax(dim=0)
        if JOINTS[self.joint].weights == "chosen":
            return self.joint_weights
        return torch.full((len(self.names),), 1 / len(self.names))

    def join(self, spaces: Mapping[str, Float[Tensor, "n width"]]) -> Float[Tensor, "n joint_width"]:
        """The joint space of some sides, of unit rows: a pair of sides keeps the ratio of its weights."""
        own = dict(zip(self.names, self.weights().tolist(), strict=True))
        weights = [own[name] for name in spaces]
        total = sum(weights)
        shares = [weight / total for weight in weights] if total else [1 / len(weights)] * len(weights)
        return JOINTS[self.joint].combine([*spaces.values()], shares)

    def weighted_sum(self, spaces: Mapping[str, Float[Tensor, "b width"]]) -> Float[Tensor, "b width"]:
        """Unit rows in the direction of the weighted sum of all sides, through which weights are learned."""
        total = sum((weight * spaces[name] for name, weight in zip(self.names, self.weights(), strict=True)), start=0.0)
        return nn.functional.normalize(torch.as_tensor(total), dim=1)


def copy_settings(source: Adapters, target: Adapters) -> None:
    """Copies what is neither drawn nor trained: training statistics, anchors kept and their power, chosen weights."""
    settings = dict(source.named_buffers())
    for name, buffer in target.named_buffers():
        buffer.copy_(settings[name])


def module_key(side: str) -> str:
    """Name of a side as a module's name, which takes no dot.

    Example:
        >>> module_key("minilm/last.mean")
        'minilm/last:mean'
    """
    return side.replace(".", ":")


def statistics(values: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and standard deviation of each dimension.

    Centred first, since the variance of float32 features far from zero would cancel; float64 takes thrice as long.
    """
    mean = values.mean(dim=0)
    return mean, (values - mean).square_().mean(dim=0).sqrt()


def build_adapters(
    kinds: Mapping[str, str],
    rows: Mapping[str, Float[Tensor, "n d"]],
    *,
    width: int,
    log_scale: float,
    seed: int,
    bias: float | None = None,
    joint: str = "sum",
    classes: int = 0,
) -> Adapters:
    """Untrained adapters, ready to be applied, that standardise by the statistics of the training rows given.

    Args:
        kinds: Name of a side -> a key of ADAPTERS.
        rows: Name of a side -> its training rows, and no others.
        width: Dimensions of the joint space.
        log_scale: Logarithm of the initial inverse temperature.
        seed: Of the initial weights.
        bias: Initial bias of the loss's logits; None for a loss that has none.
        joint: A key of JOINTS.
        classes: Of a loss that tells labels apart; else 0.

    Example:
        >>> rows = {"images": torch.randn(9, 5), "captions": torch.randn(9, 3)}
        >>> kinds = dict.fromkeys(rows, "mlp")
        >>> adapters = build_adapters(kinds, rows, width=2, log_scale=0.0, seed=0)
        >>> adapters.embed("captions", torch.randn(4, 3)).shape
        torch.Size([4, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    sides = {name: Adapter(kinds[name], *statistics(values), width, generator) for name, values in rows.items()}
    # drawn after the sides, which so begin where those of any other loss do
    classifier = torch.randn(classes, width, generator=generator) / width**0.5 if classes else None
    return Adapters(sides, log_scale, bias, joint, classifier)
