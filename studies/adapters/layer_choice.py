"""Sides whose layer is left to the data, `encoder/auto`: the layers that agree best on training groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics import neighbors
from featcache.metrics.sweeps.grid import layer_grid
from featcache.selectors import AUTO, parse_selector
from featcache.studies.alignment.grid import layers_of
from featcache.studies.group_rows import group_rows
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from featcache.trainer.sides import pair_sides

GROUPS = 4096  # training groups that decide, drawn where there are more
_MOST = 10_000_000  # combinations of layers of all sides


@dataclass(frozen=True)
class LayerChoice:
    """The layer of one side.

    Args:
        side: The selector as typed, with "auto".
        layer: Layer and pooling that was taken.
        of: Layers there were.
        score: Mean mutual k-NN over the pairs of sides, of the combination that was taken.
        k: Neighbours.
        groups: Training groups that decided.
    """

    side: str
    layer: str
    of: int
    score: float
    k: int
    groups: int

    def __str__(self) -> str:
        return (
            f"{self.side}: {self.layer}, of {self.of} layers the best by mutual k-NN with the other "
            f"sides ({self.score:.3f}, k = {self.k}, {self.groups:,} training groups)"
        )


def choose_layers(cache: Cache, selection: Selection, config: FitConfig) -> tuple[Selection, list[LayerChoice]]:
    """A selection with a layer in place of each "auto", chosen on training groups alone.

    Of every combination of layers the one is taken whose mutual k-NN, averaged over pairs of sides, is highest; of
    equals the first, in the order of the networks. Rows of a group are averaged. Validation and test groups, as the
    training will have them, and the reference decide nothing.

    Args:
        cache: The cache.
        selection: Sides and reference; the same is given back where no side says "auto".
        config: Reads `k`, `split_seed` (which also draws the groups, where there are more than GROUPS), and what
            `pair_sides` reads.

    Raises:
        UsageError: If the reference says "auto", or there are too many combinations.
        FeaturesNotCached, Ambiguous, OutdatedRows, NotPaired: As `layers_of` and `pair_sides`.
    """
    selectors = {typed: parse_selector(selector) for typed, selector in selection.sides.items()}
    if selection.target and parse_selector(selection.target).layer == AUTO:
        raise UsageError(
            f"{selection.reference}: the layer of a reference is not chosen by what is measured against it\n"
            "  Name its layer, or leave it out for the encoder's default"
        )
    if all(selector.layer != AUTO for selector in selectors.values()):
        return selection, []
    layers = {
        typed: layers_of(cache, selection.dataset, str(replace(selector, layer=None)))
        if selector.layer == AUTO
        else [cache.load(selection.dataset, str(selector))]
        for typed, selector in selectors.items()
    }
    counts = [len(own) for own in layers.values()]
    if np.prod(counts, dtype=float) > _MOST:
        raise UsageError(
            f"{' × '.join(map(str, counts))} combinations of layers are too many\n  Name some sides' layers"
        )
    reference = cache.load(selection.dataset, selection.target) if selection.target else None
    names = _training_groups([own[0] for own in layers.values()], reference, config)
    graphs = [
        [neighbors(group_rows(layer, names), k=config.k, name=layer.name) for layer in own] for own in layers.values()
    ]
    total = np.zeros(counts)
    pairs = [*combinations(range(len(counts)), 2)]
    for x, y in pairs:
        scores = layer_grid("mutual_knn", graphs[x], graphs[y], k=config.k).scores
        total += np.expand_dims(scores, [axis for axis in range(len(counts)) if axis not in (x, y)])
    best = np.unravel_index(int(total.argmax()), total.shape)
    taken = {typed: own[at] for (typed, own), at in zip(layers.items(), best, strict=True)}
    score = float(total[best]) / len(pairs)
    choices = [
        LayerChoice(typed, taken[typed].layer, len(layers[typed]), score, config.k, len(names))
        for typed, selector in selectors.items()
        if selector.layer == AUTO
    ]
    named = tuple(
        _with_layer(typed, taken[typed].layer) if selector.layer == AUTO else typed
        for typed, selector in selectors.items()
    )
    return replace(selection, encoders=named), choices


def _training_groups(sides: Sequence[Features], reference: Features | None, config: FitConfig) -> list[str]:
    """Training groups that all sides have, GROUPS of them where there are more."""
    paired = pair_sides({str(place): features for place, features in enumerate(sides)}, reference, config)
    shared = set.intersection(*(set(features.groups.tolist()) for features in sides))
    train = [group for group in paired.part("train").groups.tolist() if group in shared]
    if len(train) <= GROUPS:
        return train
    drawn = np.random.default_rng(config.split_seed).choice(len(train), GROUPS, replace=False)
    return [train[place] for place in np.sort(drawn)]


def _with_layer(typed: str, layer: str) -> str:
    """A side as typed, with a layer in place of "auto"."""
    name, equals, selector = typed.rpartition("=")
    return f"{name}{equals}{replace(parse_selector(selector), layer=layer)}"
