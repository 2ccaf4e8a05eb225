"""Huh et al.'s preparation of features: outliers clamped at a quantile, then rows of length 1."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from featcache.metrics.arrays import checked, refuse_gaps, unit_rows
from featcache.metrics.errors import BadChoice, BadShape

How = Literal["exact", "per_sample_mean"]
HOWS: tuple[str, ...] = ("exact", "per_sample_mean")
Layers: TypeAlias = np.ndarray | Tensor
_BATCH_ENTRIES = 1 << 21  # 16 MB of float64 sorted at a time


def outlier_threshold(layers: Layers, *, q: float = 0.95, how: How = "exact") -> float:
    """The magnitude that a share q of all entries stays below, over all rows, layers and dimensions together.

    Args:
        layers: Features [n, d], or a stack of layers [n, l, d], which gets one threshold.
        q: Share of entries, in (0, 1].
        how: "exact": entry int(q * count) of all sorted magnitudes (platonic-rep with precise=True).
            "per_sample_mean": the mean over samples of each one's own q-quantile, interpolated linearly: what
            platonic-rep does by default, and the published tables use.

    Raises:
        BadShape, BadDtype, NotFinite: As `mutual_knn`.
        BadChoice: If q is out of range or how is unknown.

    Example:
        >>> outlier_threshold(np.array([[1.0, -2.0, 3.0, -40.0]]), q=0.5)
        3.0

    Source: platonic-rep, commit dcd76ba, `remove_outliers`.
    """
    _check(q, how)
    return _threshold([_flat(layers)], q, how)


def layers_threshold(layers: Sequence[Layers], *, q: float = 0.95, how: How = "exact") -> float:
    """The same of layers [n, d] of one width that are not stacked: one threshold for all of them.

    Raises:
        BadShape: Also if they are not of one shape.
        BadDtype, NotFinite, BadChoice: As `outlier_threshold`; BadChoice also if the list is empty.

    Example:
        >>> layers_threshold([np.array([[1.0, -2.0]]), np.array([[3.0, -40.0]])], q=0.5)
        3.0
    """
    _check(q, how)
    if not layers:
        raise BadChoice("layers: an empty list; wanted one array [n, d] a layer")
    flat = [_flat(layer, f"layer {i}") for i, layer in enumerate(layers)]
    if len({each.shape for each in flat}) > 1:
        raise BadShape(f"layers of {', '.join(str(each.shape) for each in flat)}: wanted one shape")
    return _threshold(flat, q, how)


def _threshold(layers: Sequence[np.ndarray], q: float, how: How) -> float:
    if how == "exact":
        sizes = np.concatenate([np.abs(layer).ravel() for layer in layers])
        place = min(int(q * len(sizes)), len(sizes) - 1)
        sizes.partition(place)
        return float(sizes[place])
    rows = len(layers[0])
    step, total = max(1, _BATCH_ENTRIES // sum(layer.shape[1] for layer in layers)), 0.0
    for start in range(0, rows, step):
        part = np.concatenate([np.abs(layer[start : start + step]) for layer in layers], axis=1)
        total += float(np.quantile(part.astype(np.float64), q, axis=1).sum())
    return total / rows


def clamped(x: Layers, threshold: float) -> Layers:
    """A copy of features of any shape with every entry brought into [-threshold, threshold].

    BadChoice if the threshold is negative or not a number.

    Example:
        >>> clamped(np.array([1.0, -2.0, 40.0]), 2.5)
        array([ 1. , -2. ,  2.5])
    """
    if not threshold >= 0:
        raise BadChoice(f"threshold = {threshold}: wanted 0 or more")
    if isinstance(x, Tensor):
        return x.clamp(-threshold, threshold)
    return np.clip(x, np.asarray(-threshold, x.dtype), np.asarray(threshold, x.dtype))


@overload
def prepared(layers: Layers, *, q: float = 0.95, how: How = "per_sample_mean") -> np.ndarray: ...


@overload
def prepared(layers: Sequence[Layers], *, q: float = 0.95, how: How = "per_sample_mean") -> list[np.ndarray]: ...


def prepared(
    layers: Layers | Sequence[Layers], *, q: float = 0.95, how: How = "per_sample_mean"
) -> np.ndarray | list[np.ndarray]:
    """Huh et al.'s preparation: entries clamped at their q-quantile, then rows of length 1; float64, shape as given.

    Errors as `outlier_threshold`; ZeroRow also if a row is zero after clamping, BadChoice if a list is empty.

    Args:
        layers: Features [n, d], or a stack of layers [n, l, d], which gets one threshold, so that a layer of large
            entries sets it for all; or a list of layers [n, d], each with a width and a threshold of its own.
        q: As in `outlier_threshold`; 1 does not clamp.
        how: As in `outlier_threshold`; the default is the published one.

    Example:
        >>> prepared(np.array([[3.0, 4.0], [0.0, 5.0]]), q=1.0)
        array([[0.6, 0.8],
               [0. , 1. ]])

    Source: Huh et al. 2024, arXiv:2405.07987; platonic-rep, commit dcd76ba, `prepare_features`.
    """
    _check(q, how)
    if not isinstance(layers, np.ndarray | Tensor):
        if len(layers) == 0:
            raise BadChoice("layers: an empty list; wanted one array [n, d] a layer")
        return [_unit(layer, q, how, f"layer {i}") for i, layer in enumerate(layers)]
    return _unit(layers, q, how, "x")


def _unit(layers: Layers, q: float, how: How, name: str) -> np.ndarray:
    values = _flat(layers, name).astype(np.float64)
    if q < 1:
        threshold = outlier_threshold(values, q=q, how=how)
        np.clip(values, -threshold, threshold, out=values)
    if layers.ndim == 2:
        return unit_rows(values, name)
    stack = values.reshape(tuple(layers.shape))
    for i in range(layers.shape[1]):
        stack[:, i] = unit_rows(stack[:, i].copy(), f"layer {i}")
    return stack


def _flat(layers: Layers, name: str = "x") -> np.ndarray:
    """Checked entries of each sample, [n, d] or [n, l * d]."""
    if not isinstance(layers, np.ndarray | torch.Tensor) or layers.ndim not in (2, 3) or 0 in layers.shape:
        shape = getattr(layers, "shape", type(layers).__name__)
        raise BadShape(f"{name}: wanted features [n, d] or a stack of layers [n, l, d], got {shape}")
    refuse_gaps(layers, name)
    return checked(layers.reshape(layers.shape[0], -1), name)


def _check(q: float, how: str) -> None:
    if not (isinstance(q, int | float) and 0 < q <= 1):
        raise BadChoice(f"q = {q!r}: wanted a share of entries in (0, 1]")
    if how not in HOWS:
        raise BadChoice(f"how = {how!r} is unknown; there are {', '.join(HOWS)}")
