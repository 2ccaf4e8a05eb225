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


def protocol_layers(spaces: Sequence[CachedSpace], protocol: Protocol) -> tuple[list[CachedSpace], list[str]]:
    """The layers of one encoder that the protocol compares, clamped.

    Of a vision transformer these are the class tokens behind each block, before the final norm; of a language model the
    masked means of all hidden states, the embedding among them. Entries are clamped at the .95 quantile of their
    magnitudes: one threshold for all layers, or one a layer where they are of different widths. The metric's cosine
    does the rest: rows of length 1.

    Args:
        spaces: Every cached layer of the encoder, in the order of the network.
        protocol: Which threshold.

    Returns:
        Spaces that search graphs of their own, and what was left out, in words.

    Source:
        Huh et al. 2024, arXiv:2405.07987; platonic-rep, commit dcd76ba: extract_features.py, `prepare_features`.
    """
    modality = spaces[0].features.modality
    kept = [spaces[at] for at in chosen_layers([space.features.layer for space in spaces], modality)]
    names = {space.features.layer for space in kept}
    left = [space.features.layer for space in spaces if space.features.layer not in names]
    encoder = spaces[0].features.encoder
    notes = [f"{encoder}: {', '.join(left)} left out, which {protocol} does not compare"] if left else []
    thresholds = _thresholds(kept, _HOW[protocol])
    return [
        replace(space, load=partial(_clamped, space, threshold), rule=None, at=None, graphs={}, origins={})
        for space, threshold in zip(kept, thresholds, strict=True)
    ], notes


def chosen_layers(layers: Sequence[str], modality: str) -> list[int]:
    """Places of the layers that are compared: of one pooling; of class tokens those behind a block.

    Example:
        >>> chosen_layers(["0.cls", "1.cls", "1.mean", "2.cls", "last.cls"], "image")
        [1, 3]
        >>> chosen_layers(["0.mean", "1.mean", "last.mean"], "text")
        [0, 1, 2]
    """
    there = {layer.partition(".")[2] for layer in layers}
    pooling = next((one for one in _POOLINGS.get(modality, ()) if one in there), None)
    own = [at for at, layer in enumerate(layers) if pooling is None or layer.partition(".")[2] == pooling]
    if pooling != "cls":
        return own
    blocks = [at for at in own if layers[at].partition(".")[0].isdecimal() and layers[at].partition(".")[0] != "0"]
    return blocks or own


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


def _thresholds(spaces: Sequence[CachedSpace], how: How) -> list[float]:
    if len({space.width for space in spaces}) == 1:
        return [layers_threshold([space.values for space in spaces], q=QUANTILE, how=how)] * len(spaces)
    return [layers_threshold([space.values], q=QUANTILE, how=how) for space in spaces]


def _clamped(space: CachedSpace, threshold: float) -> np.ndarray:
    return np.asarray(clamped(space.values, threshold))
