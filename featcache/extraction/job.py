"""The arrays that an extraction fills: one encoder over one view, and what of it is there already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from featcache.cache import Cache
from featcache.data.perturbations import with_named
from featcache.data.views import Dataset, View
from featcache.encoders import Card, EncodeOptions, EncoderSpec, describe
from featcache.errors import FeaturesNotCached, UsageError
from featcache.extraction.reuse import choose_reuse
from featcache.selectors import check_name
from featcache.store.array import FeatureArray
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.layout import chunk_rows
from featcache.store.records import ARRIVING, PARTIAL
from featcache.store.reused import ReusedRows, ReusedSpan, read_reused
from featcache.store.side_file import side_rows


@dataclass(frozen=True)
class Target:
    """One array that an extraction fills."""

    layer: str  # and pooling
    key: ArrayKey
    array: FeatureArray
    missing: int | None  # chunks still to be computed; None while the array has no layout
    reused: ReusedRows | None = None  # rows that it copies from an older array, or will
    new: bool = False  # nothing of it was there when this was planned

    @property
    def done(self) -> bool:
        """Whether nothing is left to compute."""
        return self.array.is_complete


@dataclass(frozen=True)
class Job:
    """One encoder over one view: what `--dry-run` prints and `extract` does."""

    dataset: Dataset
    view: View
    spec: EncoderSpec | None  # None: an encoder of the caller's own, which no other process can load
    card: Card
    options: EncodeOptions
    targets: tuple[Target, ...]  # in layer order
    chunk_rows: int  # of a new array

    @property
    def entry(self) -> EncoderSpec:
        """The entry that the encoder is loaded from.

        Raises:
            UsageError: If it is one of the caller's own.
        """
        if self.spec is None:
            raise UsageError(f"{self.card.name} is an encoder of the caller's own: only its program can run it")
        return self.spec

    @property
    def done(self) -> bool:
        """Whether every array is complete."""
        return all(target.done for target in self.targets)

    @property
    def default_target(self) -> Target:
        """The array of the encoder's default layer or, where that is not asked for, of the last."""
        return next((target for target in self.targets if target.layer == self.card.default), self.targets[-1])

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


def work_left(job: Job, chosen: Callable[[int], bool] = lambda chunk: True) -> tuple[int, int]:
    """What is still to be computed of a job, or of the chunks chosen of it.

    Returns:
        (chunk files to write, rows to encode): arrays of one layout that reuse the same rows share a pass. Rows that
        are reused, or kept by an interrupted extraction, are not to be encoded.
    """
    files, n = 0, len(job.view)
    passes: dict[tuple[int, tuple[ReusedSpan, ...]], dict[int, list[Target]]] = {}
    for target in job.targets:
        if target.done:
            continue
        layout = target.array.layout() if target.array.folder.there() else None
        size = layout.chunk_rows if layout else job.chunk_rows
        lacking = set(filter(chosen, range(-(-n // size)))) - target.array.committed()
        files += len(lacking)
        chunks = passes.setdefault((size, target.reused.spans if target.reused else ()), {})
        for chunk in lacking:
            chunks.setdefault(chunk, []).append(target)
    rows = 0
    for (size, _), chunks in passes.items():
        for chunk, targets in chunks.items():
            start, stop = chunk * size, min((chunk + 1) * size, n)
            reused = targets[0].reused
            copied = sum(span.stop - span.start for span in reused.within(start, stop)) if reused else 0
            kept = min(side_rows(target.array.folder, chunk) for target in targets)
            rows += stop - start - copied - kept
    return files, rows


def choose_layers(card: Card, layers: Sequence[str] | None) -> tuple[str, ...]:
    """The "layer.pooling" names of layers ("last", "0") and poolings of one ("last.mean"), in layer order; None is all.

    Raises:
        UsageError: If a name fits none of the encoder's.
    """
    every = tuple(card.widths)
    if layers is not None and not any(layers):
        raise UsageError(f"no layer is named; {card.name} has {', '.join(every)}")
    if layers is None:
        return every
    for layer in layers:
        if layer not in every and not any(name.partition(".")[0] == layer for name in every):
            raise UsageError(f"{card.name} has no layer {layer!r}; it has {', '.join(every)}")
    return tuple(name for name in every if name in layers or name.partition(".")[0] in layers)


def choose_view(dataset: Dataset, spec: EncoderSpec, view: str | None) -> View:
    """The view that an encoder encodes: the named one, or the first of its modality.

    Raises:
        UsageError: If it does not exist or does not fit the encoder.
    """
    dataset = with_named(dataset, view)
    if view is not None and view not in dataset.views:
        raise UsageError(f"{dataset.name} has no view {view!r}; it has {', '.join(dataset.views)}")
    source = dataset.views[view] if view else dataset.view_for(spec.modality)
    if source.modality != spec.modality:
        raise UsageError(
            f"{spec.name} encodes {spec.modality}, but {source.name} of {dataset.name} is {source.modality}"
        )
    return source


def plan_job(
    cache: Cache,
    dataset: Dataset,
    spec: EncoderSpec,
    options: EncodeOptions,
    *,
    view: str | None = None,
    layers: Sequence[str] | None = None,
) -> Job:
    """The arrays that an extraction needs and what of them is there; computes and writes nothing.

    Raises:
        UsageError: If the view or a layer does not exist or does not fit the encoder.
        WeightsMissing: If the encoder's weights cannot be found.
        WeightsInvalid: If they are not what the entry declares.
    """
    source = choose_view(dataset, spec, view)
    card = describe(spec, options, memo=cache.memo)
    return replace(plan_card(cache, dataset, source, card, options, layers=layers), spec=spec)


def plan_card(
    cache: Cache,
    dataset: Dataset,
    source: View,
    card: Card,
    options: EncodeOptions,
    *,
    layers: Sequence[str] | None = None,
) -> Job:
    """The same of an encoder of which the card is known, over one view.

    Raises:
        UsageError: If a layer does not exist.
    """
    widest = max(card.widths.values()) * np.dtype(card.dtype).itemsize
    rows = chunk_rows(len(source), widest)
    chosen = choose_layers(card, layers)
    targets = cache.folder.map(lambda layer: _target(cache, dataset, source, card, options, layer), chosen)
    new = [target.key for target in targets if target.new]
    reused = choose_reuse(cache, source, new) if new else {}
    targets = [replace(target, reused=reused.get(target.layer, target.reused)) for target in targets]
    return Job(
        dataset=dataset, view=source, spec=None, card=card, options=options, targets=tuple(targets), chunk_rows=rows
    )


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
    key = ArrayKey(
        dataset=check_name(dataset.name, "a data set"),
        view=check_name(view.name, "a view"),
        encoder=cached_name(card, options),
        layer=layer,
        binds=binds,
        provenance=provenance,
    )
    array = cache.array(key.path)
    if array.folder.exists("key.json"):
        array.check()  # what is damaged must not pass for cached
    if not array.is_complete and array.folder.names() & {ARRIVING, PARTIAL}:
        raise FeaturesNotCached(
            f"a pull brought only a part of {key.path}, and what is computed here need not have the same bytes. "
            f"Run: featcache pull REMOTE {key.path.rpartition('/')[0]}, or featcache rm {key.dataset} "
            f"{key.view}/{key.encoder}/{key.layer}"
        )
    layout = array.layout()
    missing = layout.chunks - len(array.committed()) if layout else None
    reused = None if array.is_complete else read_reused(array.folder)
    return Target(layer, key, array, missing, reused, new=layout is None and reused is None)
