"""How the study of emerging alignment trains on MultiBench, and the correlations that it published."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from featcache.data.multibench import PUBLISHED
from featcache.errors import UsageError
from featcache.trainer.ensembles.flat import Rates
from featcache.trainer.ensembles.transformer import Pool

CLIP = 8.0
BASE_SEEDS = (2, 22, 42)
LEAST_MODELS = 12  # behind a coefficient
PUBLISHED_METRIC, PUBLISHED_METHOD = "cka_clipped", "spearman"


@dataclass(frozen=True)
class Protocol:
    """How the encoders of a data set are trained.

    Args:
        pool: What the head reads.
        epochs: Passes over the training rows.
        rates: Modality -> learning rate and weight decay, chosen by the authors on validation rows.
    """

    pool: Pool
    epochs: int
    rates: Mapping[str, Rates]


def _rates(**of: tuple[float, float]) -> Mapping[str, Rates]:
    return MappingProxyType({modality: Rates(*pair, CLIP) for modality, pair in of.items()})


# The released files (hyp/ of multimodal_alignment at 308f075) name rates by pair of modalities; those of a modality are
# the same in all its pairs. There is none for MOSI's vision with text, whose rates follow from the other two pairs, nor
# any for mosi_raw, which takes MOSI's.
_MOSI = Protocol("mean", 50, _rates(vision=(1e-3, 0.01), audio=(1e-3, 0.01), text=(1e-4, 0.01)))
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "mosi": _MOSI,
        "mosi_raw": _MOSI,
        "mosei": Protocol("mean", 50, _rates(vision=(5e-5, 0.1), audio=(1e-4, 0.0), text=(1e-5, 0.0))),
        "humor": Protocol("cls", 50, _rates(vision=(1e-5, 0.01), audio=(5e-4, 0.001), text=(5e-5, 0.0))),
        "sarcasm": Protocol("cls", 50, _rates(vision=(5e-4, 0.0), audio=(5e-4, 0.1), text=(1e-4, 0.1))),
        "avmnist": Protocol("cls", 100, _rates(image=(1e-3, 0.0), audio=(1e-3, 1e-4))),
    }
)

# (fixed, varied) -> Spearman's coefficient. The published table has two numbers a pair and names a column after the
# varied modality; the pairs are V-A, V-T and A-T, and the first number is taken as that of the first modality varied.
_AV, _VA = ("audio", "vision"), ("vision", "audio")
_TV, _VT = ("text", "vision"), ("vision", "text")
_TA, _AT = ("text", "audio"), ("audio", "text")
PUBLISHED_CORRELATIONS: Mapping[str, Mapping[tuple[str, str], float]] = MappingProxyType(
    {
        "mosei": {_AV: -0.223, _VA: -0.172, _TV: -0.093, _VT: -0.482, _TA: -0.145, _AT: -0.641},
        "mosi": {_AV: -0.014, _VA: 0.313, _TV: 0.116, _VT: -0.413, _TA: 0.403, _AT: -0.386},
        "humor": {_AV: -0.332, _VA: -0.336, _TV: -0.232, _VT: 0.284, _TA: -0.373, _AT: 0.083},
        "sarcasm": {_AV: 0.381, _VA: 0.208, _TV: 0.436, _VT: 0.019, _TA: 0.216, _AT: 0.438},
        "avmnist": {("audio", "image"): 0.887, ("image", "audio"): 0.723},
    }
)
PUBLISHED_SOURCE = (
    "updated figures released with Tjandrasuwita et al. 2025, arXiv:2502.16282 (multimodal_alignment at 20f2286): "
    "Spearman over 30 models, 10 depths x 3 seeds; the released code computes Pearson"
)


@dataclass(frozen=True)
class MultiBenchSettings:
    """What is trained and measured.

    Args:
        depths: Encoder layers.
        seeds: Base seeds; that of an encoder is base + 1 + depth, and 1,000 more for each modality before its own.
        epochs: Passes over the training rows; None: the protocol's.
        batch: Rows a step.
        dropout: Of attention and of both parts of a layer.
        quantile: Share of entries of a layer whose magnitude stays; larger ones are brought down to it.
        rows: Test rows that alignment is measured on, the first ones.
        k: Neighbours of mutual_knn.
        validation_rows: Of AVMNIST.
        device: For torch.

    Raises:
        UsageError: If a number is out of range, or a depth or seed stands twice.
    """

    depths: tuple[int, ...] = tuple(range(1, 11))
    seeds: tuple[int, ...] = BASE_SEEDS
    epochs: int | None = None
    batch: int = 64
    dropout: float = 0.1
    quantile: float = 0.95
    rows: int = 4_096
    k: int = 10
    validation_rows: int = 5_000
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("depths", "seeds"):
            values: tuple[int, ...] = getattr(self, name)
            if not values or len({*values}) < len(values) or min(values) < (name == "depths"):
                raise UsageError(f"{name} {values}: wanted one or more, each once, none below {int(name == 'depths')}")
        counts = [self.batch, self.rows, self.k, 1 if self.epochs is None else self.epochs]
        if min(counts) < 1 or not 0 < self.quantile <= 1 or not 0 <= self.dropout < 1:
            raise UsageError(f"{self}: wanted counts of 1 or more, a quantile in (0, 1], dropout from 0 to below 1")


def protocol_of(name: str) -> Protocol:
    """The protocol of a data set.

    Args:
        name: A key of PROTOCOLS.

    Raises:
        UsageError: If there is none.

    Example:
        >>> protocol_of("mosei").rates["text"].learning_rate, protocol_of("avmnist").epochs
        (1e-05, 100)
    """
    if name not in PROTOCOLS:
        raise UsageError(f"no data set of MultiBench is called {name!r}; there are {', '.join(PUBLISHED)}")
    return PROTOCOLS[name]


def published_correlation(name: str, fixed: str, varied: str) -> float | None:
    """The published coefficient, or None where there is none.

    Example:
        >>> published_correlation("avmnist", "image", "audio"), published_correlation("mosi_raw", "audio", "text")
        (0.723, None)
    """
    return PUBLISHED_CORRELATIONS.get(name, {}).get((fixed, varied))
