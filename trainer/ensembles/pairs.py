"""Pairs of encoders, one a modality, trained together on a task and on a contrastive loss, many pairs at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from featcache.trainer.ensembles.flat import FlatParameters, Rates, StackedAdamW
from featcache.trainer.ensembles.mlp import SLOPE
from featcache.trainer.ensembles.schedule import cosine_step
from featcache.trainer.errors import EnsembleInvalid, TrainingDiverged
from featcache.trainer.seeds import stream_seed

Network = list[tuple[Tensor, Tensor]]  # weight [E, out, in] and bias [E, out, 1] of each layer
OnStep = Callable[[int, int], None]  # steps done, of how many
NETWORKS = ("encoder1", "encoder2", "joint", "alone1", "alone2")
_REPORT_EVERY = 50  # steps from one call of on_step to the next


@dataclass(frozen=True)
class PairShape:
    """The shape that all pairs share.

    Args:
        inputs: Width of the input of each modality.
        classes: Of the label.
        width: Of every hidden layer of the encoders.
        depth: Hidden layers of the encoders, 1 or more.
        features: Width of each encoder's features, which are the linear map of its last hidden layer.
        joint_width: Of the one hidden layer of the head that reads both.
    """

    inputs: tuple[int, int]
    classes: int
    width: int = 32
    depth: int = 3
    features: int = 16
    joint_width: int = 32

    def __post_init__(self) -> None:
        if min(*self.inputs, self.classes, self.width, self.depth, self.features, self.joint_width) < 1:
            raise EnsembleInvalid(f"a pair of {self}: wanted every size 1 or more")

    @property
    def sizes(self) -> dict[str, list[tuple[int, int]]]:
        """Outputs and inputs of each linear layer of each of NETWORKS."""
        layers = {
            **{f"encoder{i + 1}": [n, *[self.width] * self.depth, self.features] for i, n in enumerate(self.inputs)},
            "joint": [2 * self.features, self.joint_width, self.classes],
            "alone1": [self.features, self.classes],
            "alone2": [self.features, self.classes],
        }
        return {name: [(b, a) for a, b in zip(widths, widths[1:], strict=False)] for name, widths in layers.items()}


@dataclass(frozen=True)
class PairMember:
    """What one pair of an ensemble is trained with.

    Args:
        contrast: Weight of the contrastive loss beside the task's: lambda.
        seed: Of the initial values and of the order of rows; equal seeds start and go alike.
        aligned: How many features, the first ones, the contrastive loss reads. All of them: everything is aligned;
            fewer: the others are private to their modality.
    """

    contrast: float
    seed: int
    aligned: int


@dataclass(frozen=True)
class PairRows:
    """Training rows of both modalities.

    Args:
        x1: [n, d1] the first modality.
        x2: [n, d2] the second one, row by row of the same sample.
        labels: [n] classes.
    """

    x1: Float[Tensor, "n d1"]
    x2: Float[Tensor, "n d2"]
    labels: Int[Tensor, " n"]


@dataclass(frozen=True)
class PairFit:
    """How pairs are trained.

    Args:
        steps: Of the optimiser; the learning rate falls to 0 along a cosine.
        rates: Highest learning rate, weight decay and clip.
        batch: Rows a step.
        contrast_rows: Of a batch, the first ones, that the contrastive loss compares with each other.
        temperature: Of the contrastive loss.
        alone: Weight of each head that reads one modality, beside 1 for the head that reads both; the task loss is the
            weighted mean of the three.
    """

    steps: int
    rates: Rates = Rates(0.005, 1e-4)
    batch: int = 512
    contrast_rows: int = 128
    temperature: float = 0.1
    alone: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 2 <= self.contrast_rows <= self.batch:
            raise EnsembleInvalid("wanted 1 or more steps, and of each batch 2 or more rows that are contrasted")
        if self.temperature <= 0 or self.alone < 0:
            raise EnsembleInvalid("wanted a temperature above 0 and a weight of the single heads of 0 or more")


class PairEnsemble:
    """E pairs of encoders with their heads, their parameters in one buffer [E, parameters].

    An encoder is `depth` times (linear, leaky ReLU) and a linear map to its features. Three heads classify: `joint`
    reads the features of both modalities through one hidden layer, so that it can use what only both together tell;
    `alone1` and `alone2` are linear and read one modality each.

    Args:
        shape: Of every pair.
        members: How many.
        dtype: Of the parameters, which are zeros until `initial_pairs` sets them.
    """

    def __init__(self, shape: PairShape, members: int, dtype: torch.dtype = torch.float32) -> None:
        self.shape = shape
        sizes = [
            size for name in NETWORKS for above, below in shape.sizes[name] for size in ((above, below), (above, 1))
        ]
        self.flat = FlatParameters(sizes, members=members, dtype=dtype)
        tensors = iter(self.flat.tensors)
        self.networks: dict[str, Network] = {
            name: [(next(tensors), next(tensors)) for _ in shape.sizes[name]] for name in NETWORKS
        }

    def __len__(self) -> int:
        return len(self.flat.values)

    def encode(
        self, x1: Float[Tensor, "e d1 n"], x2: Float[Tensor, "e d2 m"]
    ) -> tuple[Float[Tensor, "e features n"], Float[Tensor, "e features m"]]:
        """Features of both modalities; columns are rows of data."""
        return apply_network(self.networks["encoder1"], x1), apply_network(self.networks["encoder2"], x2)

    def classify(
        self, h1: Float[Tensor, "e features n"], h2: Float[Tensor, "e features n"]
    ) -> dict[str, Float[Tensor, "e classes n"]]:
        """Logits of each head, by its name in NETWORKS."""
        seen = {"joint": torch.cat([h1, h2], dim=1), "alone1": h1, "alone2": h2}
        return {head: apply_network(self.networks[head], values) for head, values in seen.items()}

    def member(self, number: int) -> dict[str, torch.nn.Sequential]:
        """The networks of one pair as modules of their own, with copies of the parameters; rows of data are rows."""
        modules = {name: _module(self.shape.sizes[name], self.flat.values.dtype) for name in NETWORKS}
        with torch.no_grad():
            for name, module in modules.items():
                linears = [layer for layer in module if isinstance(layer, torch.nn.Linear)]
                for linear, (weight, bias) in zip(linears, self.networks[name], strict=True):
                    linear.weight.copy_(weight[number])
                    linear.bias.copy_(bias[number, :, 0])
        return modules


def initial_pairs(shape: PairShape, members: Sequence[PairMember], dtype: torch.dtype = torch.float32) -> PairEnsemble:
    """Pairs with torch's default initial values, each from the stream of its seed, in the order of NETWORKS.

    Args:
        shape: Of every pair.
        members: Their seeds; pairs of one seed are equal.
        dtype: Of the parameters; the same float32 draws whichever it is.

    Raises:
        EnsembleInvalid: If there is no member, or one would align more features than there are.
    """
    if not members or any(not 1 <= member.aligned <= shape.features for member in members):
        raise EnsembleInvalid(f"wanted one or more pairs, each with 1 to {shape.features} aligned features")
    ensemble = PairEnsemble(shape, len(members), dtype)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for number, member in enumerate(members):
            torch.manual_seed(stream_seed(member.seed, "weights"))
            for name in NETWORKS:
                for (above, below), (weight, bias) in zip(shape.sizes[name], ensemble.networks[name], strict=True):
                    linear = torch.nn.Linear(below, above)
                    weight[number].copy_(linear.weight)
                    bias[number, :, 0].copy_(linear.bias)
    return ensemble


def fit_pairs(
    ensemble: PairEnsemble,
    members: Sequence[PairMember],
    rows: PairRows,
    fit: PairFit,
    on_step: OnStep | None = None,
) -> None:
    """Trains every pair in place on task loss + contrast x symmetric InfoNCE; each ends where the last step left it.

    Losses, clips and steps of a pair are its own: the sum over pairs is differentiated, so that each gets the gradient
    that it would get alone. Nothing is chosen by validation: no use of the features is preferred to another.

    Args:
        ensemble: Initial parameters.
        members: One a pair.
        rows: Of training; no fewer than a batch.
        fit: Steps, batches, losses.
        on_step: Called now and then, and at the end.

    Raises:
        EnsembleInvalid: If members and pairs are not as many, or rows are fewer than a batch.
        TrainingDiverged: If parameters stopped being finite; names the first pair.
    """
    if len(members) != len(ensemble) or len(rows.labels) < fit.batch:
        raise EnsembleInvalid(
            f"{len(members)} members for {len(ensemble)} pairs and {len(rows.labels)} rows for batches of {fit.batch}: "
            "wanted a member each, and a batch of rows or more"
        )
    objective, batches = PairObjective(members, fit, ensemble), _Batches(members, len(rows.labels), fit.batch)
    optimizer = StackedAdamW(ensemble.flat, [fit.rates] * len(ensemble))
    for step in range(fit.steps):
        task, contrast = objective(rows, batches.next())
        objective.total(task, contrast).sum().backward()
        cosine_step(optimizer, fit.steps)
        if on_step and ((step + 1) % _REPORT_EVERY == 0 or step + 1 == fit.steps):
            on_step(step + 1, fit.steps)
    broken = ~torch.isfinite(ensemble.flat.values).all(dim=1)
    if broken.any():
        raise TrainingDiverged(f"pair {int(broken.nonzero()[0, 0])} of the ensemble: parameters are not finite")


class PairObjective:
    """The losses of every pair on its batch.

    Args:
        members: One a pair.
        fit: Rows and temperature of the contrastive loss, weight of the single heads.
        ensemble: Of as many pairs.
    """

    def __init__(self, members: Sequence[PairMember], fit: PairFit, ensemble: PairEnsemble) -> None:
        self.ensemble, self.fit = ensemble, fit
        values, places = ensemble.flat.values, torch.arange(ensemble.shape.features)
        self._contrast = values.new_tensor([member.contrast for member in members])
        self._aligned = torch.stack([places < member.aligned for member in members])[:, :, None].to(values)

    def __call__(
        self, rows: PairRows, at: Int[Tensor, "e batch"]
    ) -> tuple[Float[Tensor, " e"], Float[Tensor, " e"] | None]:
        """Task loss and contrastive loss of each pair in nats; without the second where no pair is trained on it."""
        x1, x2, labels = rows.x1[at].mT, rows.x2[at].mT, rows.labels[at]
        h1, h2 = self.ensemble.encode(x1, x2)
        losses = {
            head: functional.cross_entropy(logits, labels, reduction="none").mean(dim=1)
            for head, logits in self.ensemble.classify(h1, h2).items()
        }
        alone = self.fit.alone
        task = (losses["joint"] + alone * (losses["alone1"] + losses["alone2"])) / (1 + 2 * alone)
        if not self._contrast.any():
            return task, None
        shown = slice(self.fit.contrast_rows)
        return task, stacked_info_nce(
            h1[:, :, shown] * self._aligned, h2[:, :, shown] * self._aligned, self.fit.temperature
        )

    def total(self, task: Float[Tensor, " e"], contrast: Float[Tensor, " e"] | None) -> Float[Tensor, " e"]:
        """What each pair descends."""
        return task if contrast is None else task + self._contrast * contrast


def stacked_info_nce(
    h1: Float[Tensor, "e features n"], h2: Float[Tensor, "e features n"], temperature: float
) -> Float[Tensor, " e"]:
    """Symmetric InfoNCE of each pair: column i of h1 must find column i of h2 by cosine, and the reverse.

    Every other column is a negative, also one that shows the same as the partner.

    Args:
        h1: Features of the first modality.
        h2: Those of the second.
        temperature: Cosines are divided by it.

    Returns:
        [E] in nats, at least 0; ln(n) where nothing is told apart.

    Example:
        >>> h = torch.eye(4)[None]
        >>> round(stacked_info_nce(h, h, 1.0).item(), 3)
        0.744

    Source:
        CLIP (Radford et al. 2021, arXiv:2103.00020), figure 3, with a temperature that is not learned.
    """
    cosines = functional.normalize(h1, dim=1).mT @ functional.normalize(h2, dim=1) / temperature
    right = cosines.diagonal(dim1=1, dim2=2)
    return ((cosines.logsumexp(dim=1) - right) + (cosines.logsumexp(dim=2) - right)).mean(dim=1) / 2


def apply_network(network: Network, x: Float[Tensor, "e d n"]) -> Float[Tensor, "e outputs n"]:
    """Linear layers with leaky ReLU between them."""
    for number, (weight, bias) in enumerate(network):
        x = torch.baddbmm(bias, weight, functional.leaky_relu(x, SLOPE) if number else x)
    return x


class _Batches:
    """Rows of each step: a permutation an epoch from the stream of each seed, the last rows of it left out."""

    def __init__(self, members: Sequence[PairMember], rows: int, batch: int) -> None:
        seeds = [*dict.fromkeys(member.seed for member in members)]
        self._streams = [torch.Generator().manual_seed(stream_seed(seed, "draws")) for seed in seeds]
        self._stream_of = torch.tensor([seeds.index(member.seed) for member in members])
        self._rows, self._batch, self._start = rows, batch, rows
        self._order = torch.empty(len(seeds), 0, dtype=torch.long)

    def next(self) -> Int[Tensor, "e batch"]:
        if self._start + self._batch > self._rows:
            self._order = torch.stack([torch.randperm(self._rows, generator=stream) for stream in self._streams])
            self._start = 0
        self._start += self._batch
        return self._order[:, self._start - self._batch : self._start][self._stream_of]


def _module(sizes: Sequence[tuple[int, int]], dtype: torch.dtype) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for above, below in sizes:
        layers += [torch.nn.Linear(below, above, dtype=dtype), torch.nn.LeakyReLU(SLOPE)]
    return torch.nn.Sequential(*layers[:-1])
