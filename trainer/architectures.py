"""Adapter architectures, chosen from a table: modules that map a side's standardised features to the joint width."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from featcache.errors import UsageError

FUSEMIX_BLOCKS, FUSEMIX_DROPOUT = 4, 0.6
NORMED_HIDDEN, NORMED_DROPOUT = 1024, 0.1
EXPANSION = {"fusemix": 4, "gated": 8}  # inner width over the width of the features
ASIF_KEPT, ASIF_POWER = 800, 8


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


class _Dropout(nn.Module):
    """Dropout whose masks come from a generator of its own on the CPU, so that training is a function of its seed."""

    def __init__(self, share: float, generator: torch.Generator) -> None:
        super().__init__()
        self.share = share
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        kept = torch.rand(h.shape, generator=self._generator) >= self.share
        return h * kept.to(h) / (1 - self.share)


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


def normed_mlp(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """Linear to 1,024, GELU, LayerNorm, dropout .1, linear to width, LayerNorm.

    The published study names a 2-layer MLP with GELU, LayerNorm and dropout .1, and neither their order nor the hidden
    width; both are those of its earlier notebook, which has ReLU and dropout after the last layer too.

    Source:
        Simeon and Manso 2024, "Towards the Platonic Representation via Multimodal Contrastive Alignment" (code base
        qsimeon/deep_learning_project).
    """
    return nn.Sequential(
        _linear(d, NORMED_HIDDEN, generator),
        nn.GELU(),
        nn.LayerNorm(NORMED_HIDDEN),
        _Dropout(NORMED_DROPOUT, generator),
        _linear(NORMED_HIDDEN, width, generator),
        nn.LayerNorm(width),
    )


def bottleneck(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """From d to d/4, GELU, back to d, with a residual; then a linear map to width.

    Source:
        LilT (Khan and Fu 2023, arXiv:2303.11866).
    """
    narrow = max(1, d // 4)
    inner = nn.Sequential(_linear(d, narrow, generator), nn.GELU(), _linear(narrow, d, generator))
    return nn.Sequential(_Residual(inner), _linear(d, width, generator))


def fusemix(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """Four residual blocks at the features' width, LayerNorm, linear map to width.

    A block is LayerNorm, d to 4d, GELU, dropout .6, back to d, dropout .6.

    Source:
        FuseMix (Vouitsis et al. 2024, arXiv:2312.10144), section 5.1.
    """

    def block() -> nn.Module:
        inner = EXPANSION["fusemix"] * d
        return _Residual(
            nn.Sequential(
                nn.LayerNorm(d),
                _linear(d, inner, generator),
                nn.GELU(),
                _Dropout(FUSEMIX_DROPOUT, generator),
                _linear(inner, d, generator),
                _Dropout(FUSEMIX_DROPOUT, generator),
            )
        )

    return nn.Sequential(*(block() for _ in range(FUSEMIX_BLOCKS)), nn.LayerNorm(d), _linear(d, width, generator))


class _Gated(nn.Module):
    """g(ReLU6(f1(h)) * f2(h)), h after LayerNorm."""

    def __init__(self, d: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        inner = EXPANSION["gated"] * d
        self.norm = nn.LayerNorm(d)
        self.gate, self.value = _linear(d, inner, generator), _linear(d, inner, generator)
        self.out = _linear(inner, width, generator)

    def forward(self, h: Tensor) -> Tensor:
        h = self.norm(h)
        return self.out(nn.functional.relu6(self.gate(h)) * self.value(h))


def gated(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """LayerNorm, then two linear maps to 8d of which one gates the other by ReLU6, then a linear map to width.

    Source:
        SAIL (Zhang et al. 2025, arXiv:2412.04616), section 3.2.
    """
    return _Gated(d, width, generator)


def identity(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """Leaves standardised features as they are: a frozen side; d must be the joint width.

    Raises:
        UsageError: If it is not.
    """
    if d != width:
        raise UsageError(f"adapter identity leaves {d} dimensions, but the joint space has {width}\n  Use width {d}")
    return nn.Identity()


class RelativeRepresentation(nn.Module):
    """Cosine similarities to anchors: the largest are kept, divided by the largest, and raised to a power.

    Arguments as `asif`. A similarity below 0 counts as 0; division by the largest changes no cosine between rows.
    """

    kept: Tensor
    power: Tensor

    def __init__(self, d: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        anchors = nn.functional.normalize(torch.randn(width, d, generator=generator), dim=1)
        self.anchors = nn.Parameter(anchors, requires_grad=False)
        self.register_buffer("kept", torch.tensor(min(ASIF_KEPT, width)))
        self.register_buffer("power", torch.tensor(ASIF_POWER))

    def forward(self, h: Tensor) -> Tensor:
        """Maps standardised rows to their relative representations."""
        similarities = nn.functional.normalize(h, dim=1) @ self.anchors.T
        values, places = similarities.topk(int(self.kept), dim=1)
        # a row without any positive similarity keeps its nearest anchor
        values = torch.cat([values[:, :1].clamp(min=torch.finfo(h.dtype).tiny), values[:, 1:].clamp(min=0)], dim=1)
        return torch.zeros_like(similarities).scatter_(1, places, (values / values[:, :1]) ** self.power)


def asif(d: int, width: int, generator: torch.Generator) -> nn.Module:
    """Sparse relative representation: similarities to as many anchors as the joint space has dimensions.

    Untrained it has random directions for anchors; solved, the two rows of training pairs. Features are standardised
    first, as of every adapter (the paper takes them as they are).

    Source:
        ASIF (Norelli et al. 2023, arXiv:2210.01738), section 2: 800 similarities kept, power 8.
    """
    return RelativeRepresentation(d, width, generator)


# those that are solved in closed form start as the module that their solution is put into
ADAPTERS: dict[str, Callable[[int, int, torch.Generator], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "normed-mlp": normed_mlp,
    "bottleneck": bottleneck,
    "fusemix": fusemix,
    "gated": gated,
    "identity": identity,
    "procrustes": linear,
    "cca": linear,
    "csa": linear,
    "ridge": linear,
    "asif": asif,
}
