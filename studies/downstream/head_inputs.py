"""Inputs of a linear head, built from the cached layers of its backbone exactly as the published code builds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from featcache.cache import Cache
from featcache.data.datasets import extract_command
from featcache.errors import FeaturesNotCached, UsageError
from featcache.features import Features
from featcache.selectors import parse_selector
from featcache.studies.downstream.head_files import Head, read_norm

NORM_EPS = 1e-6  # of DINOv2's LayerNorms
# Root mean square of the last block's CLS after the final norm minus the cached `last.cls`, over that of `last.cls`
# about its mean; what float16 rounds away is below .005.
_AGREES = 0.02
DEPTH_BLOCKS = {12: (3, 6, 9, 12), 24: (5, 12, 18, 24), 40: (10, 20, 30, 40)}  # blocks that 4-layer depth heads read


@dataclass(frozen=True)
class Part:
    """One piece of a head's input: a cached layer, through the final norm or as it is."""

    layer: str
    normed: bool = False


@dataclass(frozen=True, eq=False)
class HeadInputs:
    """Inputs of a head on a data set.

    Args:
        values: [n, w] float64.
        rows: The first layer's features, whose ids and groups the rows have.
        parts: What they are made of, in order.
        note: How the final norm was got, or "".
    """

    values: Float[np.ndarray, "n w"]
    rows: Features
    parts: tuple[Part, ...]
    note: str

    @property
    def recipe(self) -> str:
        """The parts in a line, as in "[last.cls ‖ last.patch-mean]"."""
        return "[" + " ‖ ".join(f"norm({p.layer})" if p.normed else p.layer for p in self.parts) + "]"


def head_inputs(
    cache: Cache,
    dataset: str,
    backbone: str,
    head: Head,
    *,
    norm: Path | None = None,
    blocks: Sequence[int] = (),
) -> HeadInputs:
    """What a head reads, of every row of a data set.

    Classification, one layer: [CLS ‖ mean patch] after the final norm. Four layers: the CLS of the last four blocks,
    oldest first, each through the final norm, and the mean patch after it. Networks without tokens (ResNet,
    EfficientNet): the mean over places, which their classifiers read. Depth: [mean patch ‖ CLS] of one or four
    blocks, without norm. Segmentation, one layer: the mean patch after the norm. Depth and segmentation are linear in
    each patch before activation, and enlarging by whole factors keeps the mean, so the head on the mean patch is the
    mean of the head over patches.

    Blocks are cached without the final norm. It is read from a checkpoint, or solved from the cached last block and
    `last.cls`, which determine it; either way it must turn the one into the other.

    Args:
        cache: The cache.
        dataset: Data set name.
        backbone: `[view/]encoder`, cached with all the layers wanted.
        head: The head.
        norm: Checkpoint of the backbone that holds the final norm; None: the head's own file if it has it, else solved.
        blocks: Blocks, from 1, that the head reads; none for those of the published heads.

    Raises:
        FeaturesNotCached: If a layer is not cached.
        UsageError: If the head does not fit the backbone's width, or the norm or blocks are not the backbone's.

    Source:
        Oquab et al. 2023, arXiv:2304.07193; its published code: hub/classifiers.py, hub/depthers.py,
        eval/segmentation, eval/depth.
    """
    layers = _Layers(cache, dataset, backbone)
    pooled = layers.has("last.mean") and not layers.has("last.patch-mean")
    first = layers.load("last.mean" if pooled else "last.patch-mean")
    parts = _parts(head, first.width, layers, blocks)
    scale_shift, note = None, ""
    if any(part.normed for part in parts):
        scale_shift, note = _final_norm(layers, head, norm)
    values = np.empty((len(first), head.weight.shape[1]))
    for place, part in enumerate(parts):
        own = layers.load(part.layer)
        if own.ids.tolist() != first.ids.tolist():
            raise UsageError(f"{own.name} and {first.name} of {dataset} have other rows\n  Extract them in one pass")
        rows = own.values.astype(np.float64)
        if part.normed and scale_shift is not None:
            rows = _standardised(rows) * scale_shift[0] + scale_shift[1]
        values[:, place * first.width : (place + 1) * first.width] = rows
    return HeadInputs(values, first, parts, note)


def _parts(head: Head, d: int, layers: "_Layers", blocks: Sequence[int]) -> tuple[Part, ...]:
    width = head.weight.shape[1]
    count = width / d
    if head.kind == "classification" and count == 1 and layers.has("last.mean"):
        return (Part("last.mean"),)
    if head.kind == "classification" and count == 2:
        return Part("last.cls"), Part("last.patch-mean")
    if head.kind == "classification" and count == 5:
        last = layers.last_block()
        chosen = _chosen(blocks, tuple(range(last - 3, last + 1)), 4)
        return *(Part(f"{block}.cls", normed=True) for block in chosen), Part("last.patch-mean")
    if head.kind == "depth" and count in (2, 8):
        last = layers.last_block()
        published = (last,) if count == 2 else DEPTH_BLOCKS.get(last, ())
        chosen = _chosen(blocks, published, int(count) // 2)
        return tuple(Part(f"{block}.{pooling}") for block in chosen for pooling in ("patch-mean", "cls"))
    if head.kind == "segmentation" and count == 1:
        return (Part("last.patch-mean"),)
    wanted = {"classification": "2 or 5 (1 after a mean over places)", "depth": "2 or 8", "segmentation": "1"}[
        head.kind
    ]
    why = ""
    if head.kind == "segmentation" and count == 4:
        why = ": it reads patches of four blocks after the norm, whose mean is not that of cached means"
    raise UsageError(
        f"{head.path} is a {head.kind} head of {width} inputs, and {layers.name} is {d} wide: wanted {wanted} times "
        f"that{why}\n  Name the backbone that the head was trained on"
    )


def _chosen(blocks: Sequence[int], published: tuple[int, ...], count: int) -> tuple[int, ...]:
    chosen = tuple(blocks) or published
    if len(chosen) != count or min(chosen, default=1) < 1:
        raise UsageError(
            f"the head reads {count} blocks; {', '.join(map(str, chosen)) or 'none'} were given or are published for "
            "this depth\n  Name them, oldest first, with --blocks"
        )
    return chosen


def _final_norm(layers: "_Layers", head: Head, norm: Path | None) -> tuple[tuple[np.ndarray, np.ndarray], str]:
    """Scale and shift of the final LayerNorm, checked against what is cached."""
    block = f"{layers.last_block()}.cls"
    before, after = (layers.load(layer).values.astype(np.float64) for layer in (block, "last.cls"))
    standard = _standardised(before)
    given = head.norm if norm is None else read_norm(norm)
    if given is not None:
        scale, shift = given
        how = f"read from {norm or head.path}"
    else:
        mean = standard.mean(axis=0)
        squares = ((standard - mean) ** 2).sum(axis=0)
        scale = ((standard - mean) * after).sum(axis=0) / np.where(squares > 0, squares, 1.0)
        shift = after.mean(axis=0) - scale * mean
        how = f"solved from {block} and last.cls"
    if scale.shape != (before.shape[1],):
        raise UsageError(f"the final norm has {len(scale)} dimensions, {layers.name} {before.shape[1]}")
    spread = float(np.sqrt(np.mean((after - after.mean(axis=0)) ** 2)))
    off = float(np.sqrt(np.mean((standard * scale + shift - after) ** 2))) / max(spread, 1e-12)
    if not off <= _AGREES:
        raise UsageError(
            f"the final norm, {how}, does not turn {block} of {layers.name} into its last.cls: they differ by "
            f"{off:.2g} of its spread\n  Name the checkpoint of these very weights with --norm, and cache every "
            "layer in one pass"
        )
    return (scale, shift), f"final norm {how}; {block} then differs from last.cls by {off:.1g} of its spread"


def _standardised(rows: np.ndarray) -> np.ndarray:
    """LayerNorm of each row, without scale and shift."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + NORM_EPS)


class _Layers:
    """The cached layers of one backbone."""

    def __init__(self, cache: Cache, dataset: str, backbone: str) -> None:
        wanted = parse_selector(backbone)
        if wanted.layer is not None or wanted.digest is not None:
            raise UsageError(f"{backbone} names one array; a head reads several\n  Name the encoder alone")
        self.cache, self.dataset, self.wanted, self.name = cache, dataset, wanted, backbone
        self._loaded: dict[str, Features] = {}

    def load(self, layer: str) -> Features:
        """One layer."""
        if layer not in self._loaded:
            try:
                self._loaded[layer] = self.cache.load(self.dataset, self.name, layer=layer)
            except FeaturesNotCached as error:
                raise FeaturesNotCached(f"the head reads {layer} of {self.name}: {error}") from error
        return self._loaded[layer]

    def has(self, layer: str) -> bool:
        """Whether a layer is cached, whole or not."""
        return layer in self._names()

    def _names(self) -> list[str]:
        arrays = self.cache.arrays(self.dataset, self.wanted.view or "*", self.wanted.encoder, "*")
        return [array.name[3] for array in arrays]

    def last_block(self) -> int:
        """Number of the last block: the largest that is cached."""
        numbers = [name.partition(".")[0] for name in self._names()]
        blocks = [int(number) for number in numbers if number.isdecimal()]
        if not blocks:
            raise FeaturesNotCached(
                f"no block of {self.name} is cached for {self.dataset}, and the head reads blocks\n"
                f"  Run: {extract_command(self.dataset, self.wanted.encoder)}"
            )
        return max(blocks)
