"""Huh et al.'s protocol: which layers of an encoder are compared, and how they are prepared."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from featcache.cache import Cache
from featcache.features import Features
from featcache.metrics.preparation import How, clamped, layers_threshold
from featcache.selectors import BITS_PER_BYTE
from featcache.studies.alignment.common_rows import CachedSpace
from featcache.studies.alignment.settings import Protocol

QUANTILE = 0.95
_HOW: dict[Protocol, How] = {"huh2024": "per_sample_mean", "huh2024-exact": "exact"}
_POOLINGS = {"image": ("cls", "mean"), "text": ("mean", "last-token")}  # the first that is there


def protocol_layers(
    spaces: Sequence[CachedSpace], protocol: Protocol, last: str | None = None
) -> tuple[list[CachedSpace], list[str]]:
    """The layers of one encoder that the protocol compares, clamped.

    Of a vision transformer these are the class tokens behind each block, before the final norm; of a language model the
    masked means of all hidden states, as transformers gives them: the embedding, what leaves each block but the last,
    and the last after the final norm. Entries are clamped at the .95 quantile of their magnitudes: one threshold for
    all layers, or one a layer where they are of different widths. The metric's cosine does the rest: rows of length 1.

    Args:
        spaces: Every cached layer of the encoder, in the order of the network.
        protocol: Which threshold.
        last: As in `chosen_layers`.

    Returns:
        Spaces that search graphs of their own; and in words what was left out, and what the paper does not compare but
        is here, because the encoder has nothing else.

    Source:
        Huh et al. 2024, arXiv:2405.07987; platonic-rep, commit dcd76ba: extract_features.py, `prepare_features`.
    """
    layers, modality = [space.features.layer for space in spaces], spaces[0].features.modality
    kept = [spaces[at] for at in chosen_layers(layers, modality, last)]
    names, encoder = [space.features.layer for space in kept], spaces[0].features.encoder
    left = [layer for layer in layers if layer not in names]
    notes = [f"{encoder}: {', '.join(left)} left out, which {protocol} does not compare"] if left else []
    if unlike := _unlike_the_paper(names, modality, last):
        notes.append(f"{encoder}: compared by {unlike}")
    thresholds = _thresholds(kept, _HOW[protocol])
    return [
        replace(space, load=partial(_clamped, space, threshold), rule=None, at=None, graphs={}, origins={})
        for space, threshold in zip(kept, thresholds, strict=True)
    ], notes


def chosen_layers(layers: Sequence[str], modality: str, last: str | None = None) -> list[int]:
    """Places of the layers that are compared; where there are none of them, those of the nearest pooling.

    Args:
        layers: Names, in the order of the network.
        modality: Of the encoder.
        last: What layer "last" is: "block", what leaves the last block; "output", what the final norm makes of it; None
            where it is not known, as of imported features: there numbers are taken to end before the last block.

    Example:
        >>> chosen_layers(["0.cls", "1.cls", "1.mean", "2.cls", "last.cls"], "image", "output")
        [1, 3]
        >>> chosen_layers(["0.mean", "1.mean", "2.mean", "last.mean"], "text", "output")  # of a network of two blocks
        [0, 1, 3]
        >>> chosen_layers(["0.mean", "1.mean", "last.mean"], "text", "block")
        [0, 1, 2]
    """
    there = {_pooling(layer) for layer in layers}
    pooling = next((one for one in _POOLINGS.get(modality, ()) if one in there), None)
    own = [at for at, layer in enumerate(layers) if pooling is None or _pooling(layer) == pooling]
    numbers = {at: int(block) for at in own if (block := layers[at].partition(".")[0]).isdecimal()}
    if pooling == "cls":
        return [at for at in own if numbers.get(at, 0) > 0 or (at not in numbers and last == "block")] or own
    if modality == "text" and last == "output" and len(numbers) > 1 and len(numbers) < len(own):
        unnormed = max(numbers, key=lambda at: numbers[at])  # the last block's, which `last` holds after the norm
        return [at for at in own if at != unnormed]
    return own


def last_layer(cache: Cache, features: Features) -> str | None:
    """What layer "last" of an encoder is, as its key says it: "block" or "output", as `chosen_layers` takes it."""
    for array in cache.arrays(features.dataset, features.view, features.encoder):
        if array.digest == features.digest:
            return array.key().binds.get("encoder", {}).get("last", {}).get("of")
    return None


def bits_per_byte(cache: Cache, features: Features) -> float | None:
    """Bits per byte of the language model behind features: as imported beside them, or the mean over its cached texts.

    Args:
        cache: Where they are.
        features: A layer of the model.
    """
    for array in cache.arrays(features.dataset, features.view, features.encoder):
        if array.digest == features.digest and isinstance(told := array.key().provenance.get("bpb"), int | float):
            return float(told)
    kept = [*cache.arrays(features.dataset, features.view, features.encoder, BITS_PER_BYTE)]
    if not any(array.is_complete for array in kept):
        return None
    rows = cache.load(features.dataset, f"{features.view}/{features.encoder}/{BITS_PER_BYTE}", dtype="float32")
    return float(np.mean(rows.values, dtype=np.float64))


def protocol_words(protocol: Protocol | None) -> str:
    """What it does to features, as a convention of the table says it; "" for no protocol."""
    if protocol is None:
        return ""
    return f"clamp={QUANTILE} {_HOW[protocol]}"


def _unlike_the_paper(names: Sequence[str], modality: str, last: str | None) -> str:
    """What compared layers are, and what the paper compares instead; "" for its own."""
    if modality == "image":
        own = all(_pooling(name) == "cls" and (last == "block" or name != "last.cls") for name in names)
        own, paper = own and "0.cls" not in names, "class tokens behind each block, before the final norm"
    else:
        own, paper = {_pooling(name) for name in names} <= {"mean", "last-token"}, "token means of every hidden state"
    if modality in _POOLINGS and own and len(names) > 1:
        return ""
    paper = paper if modality in _POOLINGS else "images with texts"
    return f"{' … '.join(dict.fromkeys((names[0], names[-1])))}, where the paper compares {paper}"


def _pooling(layer: str) -> str:
    return layer.partition(".")[2]


def _thresholds(spaces: Sequence[CachedSpace], how: How) -> list[float]:
    if len({space.width for space in spaces}) == 1:
        return [layers_threshold([space.values for space in spaces], q=QUANTILE, how=how)] * len(spaces)
    return [layers_threshold([space.values], q=QUANTILE, how=how) for space in spaces]


def _clamped(space: CachedSpace, threshold: float) -> np.ndarray:
    return np.asarray(clamped(space.values, threshold))
