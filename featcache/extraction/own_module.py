"""Extraction with an encoder of the caller's own: a module, or a callable from a batch to tensors by layer."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from featcache.devices import check_device
from featcache.encoders import Card
from featcache.errors import ExtractionFailed, UsageError
from featcache.selectors import check_name, is_layer
from featcache.store.digest import canonical

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.data.views import View

_NOT_OWN = ("lm", "graph", "adapted")  # layers of other makers
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
WHOLE = "last.flat"  # the layer of an encoder that gives one tensor
_SIXTEEN = "float16"


@dataclass(eq=False)
class OwnEncoder:
    """An encoder of the caller's own; `own_encoder` makes it.

    Args:
        card: What it gives, and what the digest binds of it.
        call: From a batch to a tensor [b, d], or layer -> [b, d].
        item: From a decoded row to what is batched; None: rows as they are decoded.
        batch: Rows that run together.
        device: Where batches go.
    """

    card: Card
    call: Callable[[Any], Any] = field(repr=False)
    item: Callable[[Any], Any] | None
    batch: int
    device: str

    def prepare(self, item: Any) -> Any:
        """One decoded row, as the caller prepares it."""
        return item if self.item is None else self.item(item)

    def cost(self, prepared: Any) -> int:
        """1: rows are not sorted by size."""
        return 1

    def flag(self, prepared: Any) -> str | None:
        """None: nothing is known of what the caller prepares."""
        return None

    def batch_size(self, available_bytes: int) -> int:
        """The caller's."""
        return self.batch

    def encode(self, prepared: Sequence[Any], layers: Sequence[str]) -> "dict[str, Tensor]":
        """Features of prepared rows, [b, d] float32 on the CPU.

        Raises:
            ExtractionFailed: If the encoder gives another layer, width or number of rows than it did for the first row.
        """
        given = encoded(self.call, prepared, self.device)
        for name in layers:
            shape = list(given[name].shape) if name in given else None
            wanted = [len(prepared), self.card.widths[name]]
            if shape != wanted:
                raise ExtractionFailed(
                    f"{self.card.name}/{name}: wanted {wanted} of a batch, got {shape or 'no such layer'}\n"
                    "  An encoder gives every row the same layers and widths, whatever the batch"
                )
        return {name: given[name] for name in layers}


def own_encoder(
    call: Callable[[Any], Any],
    view: "View",
    *,
    name: str,
    identity: str | None = None,
    prepare: Callable[[Any], Any] | None = None,
    batch: int = 32,
    dtype: str = "float32",
    device: str = "cpu",
) -> OwnEncoder:
    """An encoder of the caller's own, probed with the first row of the view that it is to encode.

    The digest binds the module's weights and structure (names, types and values of its state; its printed form), the
    printed form of `prepare`, and `identity`. A plain function has no printed form that tells it from another: then
    `identity` says which one it is, and the caller changes it whenever the features change.

    Args:
        call: A `torch.nn.Module`, which is put on the device and in evaluation mode, or any callable: from a batch
            (tensors [b, ...] where rows are tensors or arrays, else a list) to a tensor [b, d], or to a mapping of
            layers, named as in "3.cls" or "last.mean", each [b, d].
        view: Whose first row is encoded to learn layers and widths.
        name: It is cached under.
        identity: What else decides the features, in the caller's words.
        prepare: From a decoded row (PIL image, text, waveform, tensor) to what is batched; None: nothing is done.
        batch: Rows that run together.
        dtype: Stored: "float32" or "float16".
        device: As "cpu" or "cuda:0".

    Raises:
        UsageError: If the identity cannot be told, a layer has no name of ours, or the output is of another form.
        ExtractionFailed: If the first row cannot be read, prepared or encoded.
    """
    import torch

    check_name(name, "an encoder")
    if batch < 1 or dtype not in ("float32", _SIXTEEN):
        raise UsageError(f"batch {batch}, dtype {dtype}: wanted 1 or more, and float32 or float16")
    check_device(device)
    binds = {"own": _identity(call, prepare, identity), "compute": "float32"}
    if isinstance(call, torch.nn.Module):
        call = call.to(device).eval()
    first = view.read(0)
    try:
        given = encoded(call, [first if prepare is None else prepare(first)], device)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ExtractionFailed(
            f"{name} cannot encode the first row of {view.name}, {view.ids[0]!r}: {error}\n"
            f"  A row is a {type(first).__name__}; say how it becomes a tensor: prepare="
        ) from error
    default = "last." if any(layer.startswith("last.") for layer in given) else ""
    card = Card(
        name=name,
        modality=view.modality,
        binds=binds,
        widths={layer: int(values.shape[1]) for layer, values in given.items()},
        default=next(layer for layer in reversed(given) if layer.startswith(default)),
        dtype=dtype,
        provenance={"library": "own module", "versions": {"torch": version("torch")}, "identity": identity or ""},
    )
    return OwnEncoder(card, call, prepare, batch, device)


def encoded(call: Callable[[Any], Any], rows: Sequence[Any], device: str) -> "dict[str, Tensor]":
    """What an own encoder gives for some prepared rows, by layer, float32 on the CPU.

    Raises:
        UsageError: If it is neither a tensor [b, d] nor a mapping of such, or a layer has no name of ours.
        ExtractionFailed: If rows to be stacked differ in shape.
    """
    import torch
    from torch.utils.data import default_collate

    tensors = all(isinstance(row, torch.Tensor) or hasattr(row, "__array__") for row in rows)
    is_image = any(hasattr(row, "mode") and hasattr(row, "size") and hasattr(row, "tobytes") for row in rows)
    stacked = tensors and not is_image
    shapes = sorted({tuple(row.shape) for row in rows}) if stacked else []
    if len(shapes) > 1:
        raise ExtractionFailed(
            f"rows of shapes {' and '.join(str(list(shape)) for shape in shapes[:2])} cannot be stacked to a batch\n"
            "  Make them alike: prepare=, or encode them one by one: batch=1"
        )
    batch = default_collate(list(rows)).to(device) if stacked else list(rows)
    with torch.inference_mode():
        output = call(batch)
    named: Mapping[Any, Any] = output if isinstance(output, Mapping) else {WHOLE: output}
    layers: dict[str, Tensor] = {}
    for name, values in named.items():
        if not isinstance(name, str) or not is_layer(name) or name.partition(".")[0] in _NOT_OWN:
            raise UsageError(f'layer {name!r}: wanted a number or "last" and a pooling, as in "3.cls" or "last.mean"')
        if not isinstance(values, torch.Tensor) or values.ndim != 2 or len(values) != len(rows):
            shape = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise UsageError(f"layer {name}: wanted a tensor [{len(rows)}, d], a row each, got {shape}")
        layers[name] = values.float().cpu()
    if not layers:
        raise UsageError("the encoder gave no layer")
    return layers


def _identity(call: Callable[[Any], Any], prepare: Callable[[Any], Any] | None, identity: str | None) -> dict[str, str]:
    import torch

    said = {"identity": identity} if identity else {}
    if isinstance(call, torch.nn.Module):
        said |= {"weights": state_hash(call), "structure": blake3(repr(call).encode()).hexdigest()}
    elif not identity:
        raise UsageError("a callable says nothing of its weights: name what decides its features, identity=...")
    printed = "" if prepare is None else repr(prepare)
    if _ADDRESS.search(printed):
        if not identity:
            raise UsageError(f"{printed} does not say what it does: name what decides the features, identity=...")
        printed = getattr(prepare, "__qualname__", type(prepare).__qualname__)
    return said | {"prepare": printed}


def state_hash(module: Any) -> str:
    """blake3, hex, over the names, types, shapes and bytes of a module's state, in the order of the names."""
    import torch

    total = blake3()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            total.update(canonical([name, repr(value)]))
            continue
        total.update(canonical([name, str(value.dtype), list(value.shape)]))
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
