"""Arrays whose layer is left to the data, `encoder/auto`, in probes: the layer that says most of the label."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from featcache.features import Features
from featcache.metrics.probes.ridge import ridge_path
from featcache.metrics.probes.selection import best_hits
from featcache.studies.downstream.groups import TaskGroups
from featcache.studies.downstream.settings import ProbeSettings


def best_layer(layers: Sequence[Features], groups: TaskGroups, settings: ProbeSettings) -> tuple[Features, str]:
    """The layer whose ridge probe has most hits where penalties are chosen, and a line that says so.

    That is on validation groups or, without such a split, by the inner folds of the training groups; test groups
    decide nothing. Of equals the first is taken, in the order of the network.

    Args:
        layers: Layers of one encoder, which have rows of every group.
        groups: The groups of the task.
        settings: Penalties of the ridge probe.
    """
    path = partial(ridge_path, penalties=settings.ridge_penalties)
    hits, read = list[int](), 0
    for layer in layers:
        values = groups.means(layer)
        inner = groups.inner(values)
        read = sum(len(true) for *_, true in inner)
        constant = not np.ptp(values[groups.rows["train"]], axis=0).any()  # as a ViT's CLS token before the first block
        hits.append(-1 if constant else best_hits(path, inner))
    at = int(np.argmax(hits))
    where = "validation groups" if groups.folds is None else "inner folds of the training groups"
    chosen = layers[at]
    return chosen, (
        f"{chosen.view}/{chosen.encoder}/auto is {chosen.layer}: of {len(layers)} layers the best by ridge on {where} "
        f"({hits[at]:,} of {read:,} right)"
    )
