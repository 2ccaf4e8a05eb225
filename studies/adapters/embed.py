"""Embeddings of cached features by a trained run, kept in the cache like any features."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from featcache.cache import Cache
from featcache.derived.writer import store_derived
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics import group_mean
from featcache.not_found import array_label, describe_rows, moment
from featcache.notices import notice
from featcache.resolution import is_current
from featcache.store.digest import ArrayKey
from featcache.store.run_splits import run_record, runs_of
from featcache.trainer.run import Run, apply

JOINT = "adapted.joint"  # layer of a cached joint space; no side may be called so


def run_name(run: Run) -> str:
    """The name that a run's embeddings are cached under: its adapter, its seed, and a short hash of its weights."""
    settings = run.config["config"]
    kind = settings["adapter"] if isinstance(settings["adapter"], str) else "mixed"
    return f"{kind}-s{settings['seed']}-{weights_hash(run.path)[:8]}"


def weights_hash(path: Path) -> str:
    """blake3 of a run's adapters.safetensors, hex."""
    return blake3((path / "adapters.safetensors").read_bytes()).hexdigest()


def embedding_layer(side: str) -> str:
    """Layer name of a side's embeddings.

    Example:
        >>> embedding_layer("names-de"), embedding_layer("captions/minilm")
        ('adapted.names-de', 'adapted.captions-minilm')
    """
    return "adapted." + re.sub(r"[^a-z0-9]+", "-", side.lower()).strip("-")


def embed(cache: Cache, run: Run, *, dataset: str | None = None, joint: bool = False) -> list[Features]:
    """Applies every adapter of a run to the features of the encoder it was trained on, and caches the result.

    A run goes on pointing at the very arrays it was trained on; where these are of older rows than the current ones, a
    notice says so.

    Args:
        cache: The cache.
        run: A finished run.
        dataset: Data set to embed; None for the one that the run was trained on.
        joint: Also cache the joint space, as layer JOINT of the first side that has one row a group.

    Returns:
        The cached embeddings of each side, L2-normalised, then the joint. They know which rows the run was trained on:
        see `Features.run_splits`.

    Raises:
        FeaturesNotCached: If the data set has no features of one of the encoders.
        UsageError: If it has them from other weights or settings, or the run's splits are not the data set's; or if no
            side has one row a group and every other side rows of these groups, which the joint needs.
    """
    trained_on: str = run.config["dataset"]
    wanted = dataset or trained_on
    if wanted == trained_on and run.config["config"].get("drawn_test") is not None:
        raise UsageError(
            f"{run.path} was trained with splits drawn for it (drawn_test), of which the cache knows nothing: rows "
            f"that it was trained on would pose as test rows of {wanted}\n"
            "  Embed another data set with it, or train with the data set's own splits"
        )
    embeddings: list[Features] = []
    sources, records = dict[str, Features](), dict[str, list[dict[str, Any]]]()
    for side, used in run.config["sides"].items():
        digest = f"@{used['digest']}" if wanted == trained_on else ""
        source = cache.load(wanted, f"{used['encoder']}/{used['layer']}{digest}", view=used["view"])
        if wanted != trained_on and used.get("encoder_hash") not in (None, source.encoder_hash):
            raise UsageError(
                f"{source.name} of {wanted} has other weights or settings than the encoder that {run.path} was trained "
                f"on\n  Extract {wanted} with the encoder of {trained_on}"
            )
        key = cache.find(wanted, f"{source.view}/{source.name}@{source.digest}").key()
        if wanted == trained_on:
            _note_older_rows(cache, run, side, key)
        runs = runs_of(key) or []
        if source.digest == used["digest"]:  # these very rows, whatever their data set is called by now
            drawn = run.config["split"].get("drawn_validation", [])
            runs = [*runs, run_record(run_name(run), run.config["overlay"], drawn)]
        sources[side], records[side] = source, runs
        array = store_derived(
            cache,
            source,
            apply(run, source, side=side),
            name=run_name(run),
            layer=embedding_layer(side),
            made_by={"adapter": weights_hash(run.path), "side": side},
            facts={"runs": runs},
        )
        embeddings.append(cache.load_array(array))
    if joint:
        embeddings.append(_embed_joint(cache, run, sources, dict(zip(sources, embeddings, strict=True)), records))
    return embeddings


def _embed_joint(
    cache: Cache,
    run: Run,
    sources: Mapping[str, Features],
    embedded: Mapping[str, Features],
    records: Mapping[str, list[dict[str, Any]]],
) -> Features:
    """Caches the joint of all sides, row for row of the first side that has one row a group."""
    base = next((side for side, each in sources.items() if len(set(each.groups.tolist())) == len(each)), None)
    if base is None:
        raise UsageError(f"no side of {run.path} has one row a group, so its joint is no array\n  Leave out --joint")
    groups = sources[base].groups.tolist()
    spaces: dict[str, torch.Tensor] = {}
    for side, features in embedded.items():
        means, order = group_mean(features.values.astype(np.float32), features.groups)
        place = {group: row for row, group in enumerate(order)}
        lacking = [group for group in groups if group not in place]
        if lacking:
            raise UsageError(
                f"{len(lacking)} of {len(groups)} groups of {base} have no row of {side}, the first {lacking[0]!r}, so "
                "the joint is no array\n  Leave out --joint"
            )
        rows = np.asarray(means)[[place[group] for group in groups]]
        spaces[side] = torch.nn.functional.normalize(torch.from_numpy(rows))
    with torch.inference_mode():
        values = run.adapters().join(spaces).numpy().astype(np.float32)
    of = {side: {"digest": each.digest, "root": each.root} for side, each in sources.items()}
    array = store_derived(
        cache,
        sources[base],
        values,
        name=run_name(run),
        layer=JOINT,
        made_by={"adapter": weights_hash(run.path), "side": "joint", "of": of},
        facts={"runs": records[base]},
    )
    return cache.load_array(array)


def _note_older_rows(cache: Cache, run: Run, side: str, key: ArrayKey) -> None:
    """Says which rows a run's embeddings are of, where the data set was extracted anew since it was trained."""
    record = cache.current_rows(key.dataset, key.view)
    if record is not None and not is_current(cache.folder, key, record):
        notice(
            f"{run.path} was trained on older rows of {key.dataset}: its embeddings of {side} are of "
            f"{array_label(key)}@{key.digest[:12]}, {describe_rows(key, record)}, not of the current {record.n:,} "
            f"({moment(record.written)}). For those, train again"
        )
