"""Adapter architectures, chosen from a table: maps of one side's features into the joint space."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from featcache.errors import UsageError


def _linear(d_in: int, d_out: int, generator: torch.Generator) -> nn.Linear:
    # PyTorch's default initialisation, but drawn from our generator: the global one stays untouched. (Building on the
    # meta device would leave it alone too, but imports sympy.)
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(d_in, d_out)
    bound = 1 / math.sqrt(d_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


class _Residual(nn.Module):
    """h + f(h)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, h: Tensor) -> Tensor:
        return h + self.inner(h)


def linear(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """One linear map, d to width.

    Source:
        LiMBeR (Merullo et al. 2022, arXiv:2209.15162); FROMAGe (Koh et al. 2023, arXiv:2301.13823).
    """
    return _linear(d, width, generator)


def mlp(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """Linear, GELU, Linear: d to width to width.

    Source:
        LLaVA-1.5 (Liu et al. 2023, arXiv:2310.03744), section 3.
    """
    return nn.Sequential(_linear(d, width, generator), nn.GELU(), _linear(width, width, generator))


def bottleneck(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """From d to d/4, GELU, back to d, with a residual; then a linear map to width.

    Source:
        LilT (Khan and Fu 2023, arXiv:2303.11866).
    """
    narrow = max(1, d // 4)
    inner = nn.Sequential(_linear(d, narrow, generator), nn.GELU(), _linear(narrow, d, generator))
    return nn.Sequential(_Residual(inner), _linear(d, width, generator))


def identity(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """Leaves standardised features as they are: a frozen side; d must be the joint width.

    Raises:
        UsageError: If it is not.
    """
    if d != width:
        raise UsageError(f"adapter identity leaves {d} dimensions, but the joint space has {width}\n  Use width {d}")
    return nn.Identity()


ADAPTERS: dict[str, Callable[[int, int, torch.Generator], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "bottleneck": bottleneck,
    "identity": identity,
}


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
        return self.net((features - self.mean) / self.std)


class Adapters(nn.Module):
    """The adapter of every side and the temperature: everything that training changes.

    Args:
        sides: Name of a side -> its adapter.
        log_scale: Logarithm of the initial inverse temperature.
    """

    def __init__(self, sides: Mapping[str, Adapter], log_scale: float) -> None:
        super().__init__()
        self.sides = nn.ModuleDict({module_key(name): adapter for name, adapter in sides.items()})
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

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
        return nn.functional.normalize(self[side](features), dim=1)


def module_key(side: str) -> str:
    """Name of a side as a module's name, which takes no dot.

    Example:
        >>> module_key("minilm/last.mean")
        'minilm/last:mean'
    """
    return side.replace(".", ":")


def build_adapters(
    kinds: Mapping[str, str], rows: Mapping[str, Float[Tensor, "n d"]], *, width: int, log_scale: float, seed: int
) -> Adapters:
    """Untrained adapters that standardise by the statistics of the training rows given.

    Args:
        kinds: Name of a side -> a key of ADAPTERS.
        rows: Name of a side -> its training rows, and no others.
        width: Dimensions of the joint space.
        log_scale: Logarithm of the initial inverse temperature.
        seed: Of the initial weights.

    Example:
        >>> rows = {"images": torch.randn(9, 5), "captions": torch.randn(9, 3)}
        >>> kinds = dict.fromkeys(rows, "mlp")
        >>> adapters = build_adapters(kinds, rows, width=2, log_scale=0.0, seed=0)
        >>> adapters.embed("captions", torch.randn(4, 3)).shape
        torch.Size([4, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    sides: dict[str, Adapter] = {}
    for name, values in rows.items():
        # centred first, since the variance of float32 features far from zero would cancel; float64 takes thrice as long
        mean = values.mean(dim=0)
        std = (values - mean).square_().mean(dim=0).sqrt()
        sides[name] = Adapter(kinds[name], mean, std, width, generator)
    return Adapters(sides, log_scale)
