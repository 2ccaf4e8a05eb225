"""Adapters in closed form: candidates from the training rows, of which validation chooses one."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.trainer import closed_forms
from featcache.trainer.adapters import Adapter, Adapters, statistics
from featcache.trainer.closed_forms import Spectrum, spectrum
from featcache.trainer.config import FitConfig
from featcache.trainer.draws import TrainingRows
from featcache.trainer.losses import initial_parameters

Array = NDArray[np.float64]

REGULARIZATIONS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3)  # standardised features have a variance of 1 a dimension
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3)
KEPT, POWERS = (10, 50, 200, 800), (1, 2, 4, 8)
MOST_ANCHORS = 2048


@dataclass(frozen=True, eq=False)
class Problem:
    """What is solved: training rows that belong together, standardised as adapters standardise.

    Args:
        sides: Name -> [n, d] float64.
        target: [n, t] unit rows of the reference, float64; None where there is none.
        width: Dimensions at most.
    """

    sides: Mapping[str, Array]
    target: Array | None
    width: int

    def spectra(self) -> list[Spectrum]:
        """The sides by their principal axes."""
        return [spectrum(values) for values in self.sides.values()]

    def dimensions(self) -> list[int]:
        """Powers of two below the most there may be, and that: the width, a side's or the number of rows."""
        most = min(self.width, *(min(values.shape[1], len(values) - 1) for values in self.sides.values()))
        return [2**power for power in range(2, math.ceil(math.log2(most)))] + [most]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One solution.

    Args:
        settings: Its hyper-parameters.
        nets: Of each side, in order: the state of its module in the table of architectures.
    """

    settings: Mapping[str, float]
    nets: list[dict[str, Tensor]]


def _affine(weight: Array, bias: Array | None = None) -> dict[str, Tensor]:
    bias = np.zeros(weight.shape[1]) if bias is None else bias
    return {"weight": torch.from_numpy(weight.T.copy()).float(), "bias": torch.from_numpy(bias).float()}


def _procrustes(problem: Problem, generator: torch.Generator) -> Iterator[Candidate]:
    views = problem.spectra()
    for dimensions in problem.dimensions():
        maps = closed_forms.procrustes(views, dimensions)
        yield Candidate({"dimensions": dimensions}, [_affine(weight) for weight in maps])


def _canonical(problem: Problem, *, weighted: bool) -> Iterator[Candidate]:
    views, counts = problem.spectra(), problem.dimensions()
    for regularization in REGULARIZATIONS:
        directions = closed_forms.cca(views, regularization, counts[-1])
        for dimensions in counts:
            maps = directions.take(dimensions, weighted=weighted)
            settings = {"regularization": regularization, "dimensions": dimensions}
            yield Candidate(settings, [_affine(weight) for weight in maps])


def _cca(problem: Problem, generator: torch.Generator) -> Iterator[Candidate]:
    return _canonical(problem, weighted=False)


def _csa(problem: Problem, generator: torch.Generator) -> Iterator[Candidate]:
    """Canonical similarity analysis (Li et al. 2024, arXiv:2410.07610): directions weighted by their correlations.

    The paper divides the weighted product by the lengths of the unweighted rows, a cosine by those of the weighted.
    """
    return _canonical(problem, weighted=True)


def _ridge(problem: Problem, generator: torch.Generator) -> Iterator[Candidate]:
    assert problem.target is not None  # as FitConfig.check_reference saw to
    views = problem.spectra()
    for penalty in PENALTIES:
        maps = [closed_forms.ridge(view, problem.target, penalty) for view in views]
        yield Candidate({"penalty": penalty}, [_affine(*each) for each in maps])


def _asif(problem: Problem, generator: torch.Generator) -> Iterator[Candidate]:
    """Anchors are drawn training pairs: the first of a random order, the same for all sides."""
    n = len(next(iter(problem.sides.values())))
    chosen = torch.randperm(n, generator=generator)[:MOST_ANCHORS].numpy()
    anchors = [torch.from_numpy(values[chosen]).float() for values in problem.sides.values()]
    anchors = [torch.nn.functional.normalize(rows, dim=1) for rows in anchors]
    for kept in dict.fromkeys(min(count, len(chosen)) for count in KEPT):
        for power in POWERS:
            own = {"kept": torch.tensor(kept), "power": torch.tensor(power)}
            settings = {"anchors": len(chosen), "kept": kept, "power": power}
            yield Candidate(settings, [{"anchors": rows, **own} for rows in anchors])


# kind of adapter -> its candidates
SOLVERS: dict[str, Callable[[Problem, torch.Generator], Iterator[Candidate]]] = {
    "procrustes": _procrustes,
    "cca": _cca,
    "csa": _csa,
    "ridge": _ridge,
    "asif": _asif,
}


def solve(
    kind: str, rows: TrainingRows, config: FitConfig, score: Callable[[Adapters], float]
) -> tuple[Adapters, dict[str, Any]]:
    """Solves for adapters in closed form; hyper-parameters are those whose adapters score best on validation.

    Args:
        kind: A key of SOLVERS.
        rows: The training rows, of which one epoch is drawn.
        config: Settings.
        score: Adapters -> their score on validation; higher is better, the first of equals is taken.

    Returns:
        The adapters, and their hyper-parameters, score, and the number of candidates.
    """
    drawn, groups = rows.draw()
    values = {name: side.values for name, side in rows.sides.items()}
    stats = {name: statistics(own) for name, own in values.items()}
    plain = {name: Adapter(kind, *stats[name], 1, torch.Generator()) for name in values}  # as adapters standardise
    target = rows.target(groups)
    problem = Problem(
        {name: _standardised(own[drawn[name]], plain[name]) for name, own in values.items()},
        None if target is None else torch.nn.functional.normalize(target.double(), dim=1).numpy(),
        config.width,
    )
    best: Adapters | None = None
    chosen: dict[str, Any] = {}
    count = 0
    for candidate in SOLVERS[kind](problem, rows.generator):
        adapters = _adapters(kind, candidate, stats, config)
        own = score(adapters)
        count += 1
        if best is None or own > chosen["score"]:
            best, chosen = adapters, {**candidate.settings, "score": own}
    assert best is not None
    return best, {**chosen, "candidates": count}


def solved_width(weights: Mapping[str, Tensor]) -> int:
    """Dimensions of the joint space that solved adapters map into, from their weights by name.

    Raises:
        KeyError: If there are no such weights.
    """
    for name, tensor in weights.items():
        if name.endswith((".net.weight", ".net.anchors")):
            return len(tensor)
    raise KeyError("net.weight or net.anchors of a side")


def _standardised(rows: Tensor, adapter: Adapter) -> Array:
    return ((rows.double() - adapter.mean.double()) / adapter.std.double()).numpy()


def _adapters(
    kind: str, candidate: Candidate, stats: Mapping[str, tuple[Tensor, Tensor]], config: FitConfig
) -> Adapters:
    generator = torch.Generator().manual_seed(config.seed)
    sides: dict[str, Adapter] = {}
    for (name, own), net in zip(stats.items(), candidate.nets, strict=True):
        width = solved_width({f".net.{part}": tensor for part, tensor in net.items()})
        sides[name] = Adapter(kind, *own, width, generator)
        sides[name].net.load_state_dict(net)
    return Adapters(sides, **initial_parameters(config))
