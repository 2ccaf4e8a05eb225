"""What would an extraction compute? The arrays that one encoder over one view asks for, and what of them is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from featcache.cache import Cache
from featcache.data.views import Dataset, View
from featcache.encoders import Card, EncodeOptions, EncoderSpec, describe
from featcache.errors import FeaturesNotCached, UsageError
from featcache.selectors import check_name
from featcache.store.array import FeatureArray
from featcache.store.key import FORMAT, ArrayKey
from featcache.store.layout import chunk_rows
from featcache.store.records import ARRIVING, PARTIAL


@dataclass(frozen=True)
class Target:
    """One array that an extraction fills.

    Args:
        layer: Layer and pooling.
        key: What is asked.
        array: Where it lies.
        missing: Chunks still to be computed; None while the array has no plan.
    """

    layer: str
    key: ArrayKey
    array: FeatureArray
    missing: int | None

    @property
    def done(self) -> bool:
        """Whether nothing is left to compute."""
        return self.array.is_complete


@dataclass(frozen=True)
class Job:
    """One encoder over one view: what `--dry-run` prints and `extract` does.

    Args:
        dataset: The data set.
        view: The view that is encoded.
        spec: The encoder's declaration.
        card: What its weights and settings turned out to be.
        options: How it is run.
        targets: The arrays, in layer order.
        chunk_rows: Rows of one chunk of a new array.
    """

    dataset: Dataset
    view: View
    spec: EncoderSpec
    card: Card
    options: EncodeOptions
    targets: tuple[Target, ...]
    chunk_rows: int

    @property
    def done(self) -> bool:
        """Whether every array is complete."""
        return all(target.done for target in self.targets)

    @property
    def bytes(self) -> int:
        """Bytes of the chunks that are still to be written."""
        total = 0
        for target in self.targets:
            if not target.done:
                row = target.key.binds["d"] * np.dtype(target.key.binds["dtype"]).itemsize
                chunks = -(-len(self.view) // self.chunk_rows) if target.missing is None else target.missing
                total += chunks * self.chunk_rows * row
        return total


def choose_layers(card: Card, layers: Sequence[str] | None) -> tuple[str, ...]:
    """The "layer.pooling" names that a remote asks for, in layer order.

    Args:
        card: The encoder's card.
        layers: Layers ("last", "0"), poolings of one ("last.mean"), or None for every one.

    Raises:
        UsageError: If a name fits none of the encoder's.
    """
    every = tuple(card.widths)
    if layers is not None and not any(layers):
        raise UsageError(f"no layer is named; {card.name} has {', '.join(every)}")
    if layers is None:
        return every
    for asked in layers:
        if asked not in every and not any(name.partition(".")[0] == asked for name in every):
            raise UsageError(f"{card.name} has no layer {asked!r}; it has {', '.join(every)}")
    return tuple(name for name in every if name in layers or name.partition(".")[0] in layers)


def plan_job(
    cache: Cache,
    dataset: Dataset,
    spec: EncoderSpec,
    options: EncodeOptions,
    *,
    view: str | None = None,
    layers: Sequence[str] | None = None,
) -> Job:
    """Works out which arrays an extraction needs and what of them is there; computes and writes nothing.

    Raises:
        UsageError: If the view or a layer does not exist or does not fit the encoder.
        WeightsMissing: If the encoder's weights cannot be found.
    """
    if view is not None and view not in dataset.views:
        raise UsageError(f"{dataset.name} has no view {view!r}; it has {', '.join(dataset.views)}")
    source = dataset.views[view] if view else dataset.view_for(spec.modality)
    if source.modality != spec.modality:
        raise UsageError(
            f"{spec.name} encodes {spec.modality}, but {source.name} of {dataset.name} is {source.modality}"
        )
    card = describe(spec, options, memo=cache.memo)
    widest = max(card.widths.values()) * np.dtype(card.dtype).itemsize
    rows = chunk_rows(len(source), widest)
    chosen = choose_layers(card, layers)
    targets = cache.folder.map(lambda layer: _target(cache, dataset, source, card, options, layer), chosen)
    return Job(dataset, source, spec, card, options, tuple(targets), rows)


def cached_name(card: Card, options: EncodeOptions) -> str:
    """The encoder's folder: random weights are another encoder and never answer to the trained one's name."""
    return check_name(f"{card.name}-random{options.seed}" if options.random else card.name, "an encoder")


def _target(cache: Cache, dataset: Dataset, view: View, card: Card, options: EncodeOptions, layer: str) -> Target:
    rows = {"modality": view.modality, "decoding": dict(view.decoding), "root": view.root, "n": len(view)}
    binds = {
        "format": FORMAT,
        "rows": rows,
        "encoder": card.binds,
        "layer": layer,
        "dtype": card.dtype,
        "d": card.widths[layer],
    }
    provenance = {
        "default_layer": card.default,
        "encoder": card.provenance,
        "dataset": {"source": dataset.source, "licence": dataset.licence, "notes": list(dataset.notes)},
        "device": options.device,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    name = check_name(dataset.name, "a data set")
    key = ArrayKey(name, check_name(view.name, "a view"), cached_name(card, options), layer, binds, provenance)
    array = cache.array(key.path)
    if array.folder.exists("key.json"):
        array.check()  # what is damaged must not pass for cached
    if not array.is_complete and array.folder.names() & {ARRIVING, PARTIAL}:
        raise FeaturesNotCached(
            f"a pull brought only a part of {key.path}, and what is computed here need not have the same bytes. "
            f"Run: featcache pull REMOTE {key.path.rpartition('/')[0]}, or featcache rm {key.dataset} "
            f"{key.view}/{key.encoder}/{key.layer}"
        )
    plan = array.layout()
    missing = plan.chunks - len(array.committed()) if plan else None
    return Target(layer, key, array, missing)
