"""One forward pass: every wanted layer, pooled inside a hook on its block."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from featcache.encoders.backbone import Backbone
from featcache.encoders.pooling import POOLINGS, Inputs, Positions
from featcache.encoders.spec import EMBEDDING, EncodeOptions
from featcache.encoders.text import bits_per_byte
from featcache.selectors import BITS_PER_BYTE


class Preprocessor(Protocol):
    """What makes tensors of images, text or audio before the network."""

    @property
    def longest(self) -> int:
        """The largest cost that a row can have."""
        ...

    def binds(self) -> dict[str, Any]:
        """What the digest binds of it, as JSON."""
        ...

    def prepare(self, item: Any) -> Any:
        """One row to a small tensor."""
        ...

    def cost(self, prepared: Any) -> int:
        """Size of a row, for sorting."""
        ...

    def flag(self, prepared: Any) -> str | None:
        """What of a row deserves a look: "near_constant" or "truncated"; None for nothing."""
        ...

    def batches(self, prepared: Sequence[Any], device: str) -> list[Inputs]:
        """The rows as the network takes them, in sets that may run together."""
        ...

    def sample(self) -> Any:
        """A row to probe the network with."""
        ...


def layer_names(backbone: Backbone) -> list[str]:
    """Layer 0, each block, and `last`, in order; where nothing follows the last block, it is `last`.

    A block's name is its number, from 1.
    """
    numbers = [str(number) for number in range(len(backbone.blocks) + 1)]
    return [*numbers[:-1], "last"] if backbone.ends_with_block else [*numbers, "last"]


def forward(
    backbone: Backbone,
    preprocessor: Preprocessor,
    options: EncodeOptions,
    prepared: Sequence[Any],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """Features of prepared rows: "layer.pooling" name -> [b, d] float32 on the CPU."""
    parts: list[tuple[list[int], dict[str, Tensor]]] = []
    for rows, inputs, positions in preprocessor.batches(prepared, options.device):
        with torch.inference_mode(), _full_float32(options), _autocast(options):
            pooled = _pass(
                backbone, inputs, replace(positions, prefix=backbone.prefix), names, [prepared[row] for row in rows]
            )
        parts.append((rows, pooled))
    if len(parts) == 1:
        return parts[0][1]
    order = torch.tensor([row for rows, _ in parts for row in rows]).argsort()
    return {name: torch.cat([pooled[name] for _, pooled in parts])[order] for name in names}


def _full_float32(options: EncodeOptions) -> AbstractContextManager[Any]:
    """Keeps cuDNN's convolutions in float32: by default they round their inputs to TF32's ten bits."""
    if torch.device(options.device).type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _autocast(options: EncodeOptions) -> AbstractContextManager[Any]:
    if options.autocast is None:
        return nullcontext()
    return torch.autocast(torch.device(options.device).type, dtype=getattr(torch, options.autocast))


def _pass(
    backbone: Backbone, inputs: dict[str, Tensor], positions: Positions, names: Sequence[str], rows: list[Any]
) -> dict[str, Tensor]:
    poolings: dict[str, list[str]] = {}
    for name in names:
        layer, _, pooling = name.rpartition(".")
        poolings.setdefault(layer, []).append(pooling)
    pooled: dict[str, Tensor] = {}

    def keep(layer: str, hidden: Tensor) -> None:
        # Pooled at once: the whole hidden state is not kept, and later operations in place cannot change it.
        for pooling in poolings.get(layer, []):
            name = f"{layer}.{pooling}"
            pool = backbone.embedding if name == EMBEDDING and backbone.embedding else POOLINGS[pooling]
            pooled[name] = pool(hidden.float(), positions).float()

    blocks = layer_names(backbone)[: len(backbone.blocks) + 1]
    with _hooks(backbone.blocks, [name if name in poolings else None for name in blocks], keep):
        last = backbone.run(inputs)
    if not backbone.ends_with_block:
        keep("last", backbone.final_norm(last) if backbone.final_norm else last)
    if "lm" in poolings and backbone.head is not None:
        pooled[BITS_PER_BYTE] = bits_per_byte(last, rows, backbone.head, backbone.softcap)
    return {name: pooled[name].cpu() for name in names}


@contextmanager
def _hooks(
    blocks: Sequence[nn.Module], names: Sequence[str | None], keep: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Hooks on blocks: names[0] is what enters the first block, names[i] what leaves block i; None is not wanted."""

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(names[0] or "", args[0] if args else kwargs["hidden_states"])

    def leaving(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: keep(name, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        if names[0] is not None:
            handle = blocks[0].register_forward_pre_hook(entering, with_kwargs=True)
            stack.callback(handle.remove)
        for block, name in zip(blocks, names[1:], strict=True):
            if name is not None:
                stack.callback(block.register_forward_hook(leaving(name)).remove)
        yield


@dataclass
class Measured:
    """What a pass took and gave."""

    largest: int = 0  # bytes of the largest activation: input plus output of any one module without children
    shape: tuple[int, ...] = ()  # of what left the last block


@contextmanager
def measured(backbone: Backbone) -> Iterator[Measured]:
    """Measures a pass.

    The language model's head is left out: it runs row by row, whatever the batch.
    """
    result = Measured()

    def size(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.numel() * value.element_size()
        return sum(map(size, value)) if isinstance(value, (tuple, list)) else 0

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        result.largest = max(result.largest, size(args) + size(output))

    def shape(hidden: Tensor) -> None:
        result.shape = tuple(hidden.shape)

    with ExitStack() as stack:
        for leaf in backbone.module.modules():
            if next(leaf.children(), None) is None and leaf is not backbone.head:
                stack.callback(leaf.register_forward_hook(hook).remove)
        stack.enter_context(_hooks(backbone.blocks[-1:], [None, "last"], lambda name, hidden: shape(hidden)))
        yield result
