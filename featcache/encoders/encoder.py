"""What runs a frozen encoder? Rows are prepared one by one, then encoded together, every layer in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from featcache.encoders.audio import load_audio_front
from featcache.encoders.backbone import Backbone, check_device, library, load_backbone
from featcache.encoders.card import Card, library_versions
from featcache.encoders.forward import BITS_PER_BYTE, Front, forward, layer_names, measured
from featcache.encoders.spec import EncodeOptions, EncoderSpec
from featcache.encoders.text import load_text_front
from featcache.encoders.vision import load_image_front
from featcache.encoders.weights import Found
from featcache.errors import UsageError

_LARGEST_BATCH_ON_CPU = {"image": 64, "text": 64, "audio": 8}  # beyond it a CPU gains nothing
_LARGEST_BATCH = 1024
_LIVE = 4  # activations of the largest size alive at once: input, output, residual, one for fragmentation

_FRONTS: dict[str, Callable[[EncoderSpec, Found, Backbone], Front]] = {
    "image": load_image_front,
    "text": load_text_front,
    "audio": load_audio_front,
}


@dataclass(frozen=True)
class Footprint:
    """Memory of one probe row: bytes of its largest activation, and its cost."""

    bytes: int
    cost: int


@final
class Encoder:
    """A frozen encoder, ready to run; `load_encoder` makes it.

    Args:
        card: What it produces.
        front: What prepares its rows.
        backbone: The network.
        options: Device, compute type and compilation.
        footprint: Memory of one row.
    """

    def __init__(self, card: Card, front: Front, backbone: Backbone, options: EncodeOptions, footprint: Footprint):
        self.card = card
        self._front = front
        self._backbone = backbone
        self._options = options
        self._footprint = footprint

    def prepare(self, item: Any) -> Any:
        """One decoded row to a small tensor; pure, and safe to call from many threads.

        Args:
            item: A PIL image, a str, or a mono waveform at 16 kHz.

        Raises:
            ExtractionFailed: If the row cannot be encoded, such as a caption without tokens.
        """
        return self._front.prepare(item)

    def cost(self, prepared: Any) -> int:
        """Size of a prepared row: tokens, samples, or 1 for an image. Sorting by it saves padding."""
        return self._front.cost(prepared)

    def encode(self, prepared: Sequence[Any], layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of prepared rows, every layer from one forward pass; one call at a time.

        Args:
            prepared: b rows, as `prepare` gives them.
            layers: "layer.pooling" names of the card.

        Returns:
            Name -> [b, d] float32 on the CPU, in the order asked for.

        Raises:
            UsageError: If the card does not have a layer; lists those it has.
        """
        unknown = [name for name in layers if name not in self.card.widths]
        if unknown:
            raise UsageError(f"{self.card.name} has no {', '.join(unknown)}\n  It has: {', '.join(self.card.widths)}")
        if not prepared:
            return {name: torch.empty(0, self.card.widths[name]) for name in layers}
        return forward(self._backbone, self._front, self._options, prepared, layers)

    def batch_size(self, available_bytes: int) -> int:
        """Rows that run together within a memory budget, each as long as a row can be: a power of two.

        Args:
            available_bytes: Memory for activations, beside the weights.
        """
        row = _LIVE * max(1, self._footprint.bytes * self._front.longest // self._footprint.cost)
        fitting = max(1, available_bytes // row)
        on_cpu = torch.device(self._options.device).type == "cpu"
        largest = _LARGEST_BATCH_ON_CPU[self.card.modality] if on_cpu else _LARGEST_BATCH
        return min(1 << (fitting.bit_length() - 1), largest)


def build(spec: EncoderSpec, options: EncodeOptions, found: Found) -> Encoder:
    """Loads the network and its front, and probes them with one row; the card is whole, not narrowed.

    Raises:
        UsageError: If the device is not there.
        WeightsMissing: If a library is not installed.
        WeightsInvalid: If the files do not fit the entry.
    """
    check_device(options.device)
    backbone = load_backbone(spec, options, found)
    with library(spec):
        front = _FRONTS[spec.modality](spec, found, backbone)
    backbone.module.to(options.device)
    names = [f"{layer}.{pooling}" for layer in layer_names(backbone) for pooling in spec.pooling]
    if spec.bits_per_byte:
        names.append(BITS_PER_BYTE)
    sample = front.sample()
    with measured(backbone) as largest:
        probed = forward(backbone, front, options, [sample], names)
    card = Card(
        name=spec.name,
        modality=spec.modality,
        binds=_binds(spec, options, backbone, front),
        widths={name: int(probed[name].shape[1]) for name in names},
        default=spec.default,
        dtype=spec.dtype,
        provenance={
            "library": spec.library,
            "attention": spec.attention if spec.library == "transformers" else "library's own",
            "licence": spec.licence,
            "versions": library_versions(spec),
            **found.provenance,
        },
    )
    if options.compile:
        for block in backbone.blocks:
            # The block's forward, not its call: hooks stay outside the compiled graph.
            block.forward = torch.compile(block.forward)
    return Encoder(card, front, backbone, options, Footprint(largest[0], front.cost(sample)))


def _binds(spec: EncoderSpec, options: EncodeOptions, backbone: Backbone, front: Front) -> dict[str, Any]:
    return {
        "tensors": backbone.tensors,
        "weights": {"random": True, "seed": options.seed} if options.random else "pretrained",
        "structure": backbone.structure,
        "blocks": spec.blocks if isinstance(spec.blocks, str) else list(spec.blocks),
        "last": {"of": spec.last, "final_norm": spec.final_norm},
        "compute": "float32" if options.autocast is None else f"autocast {options.autocast}",
        **front.binds(),
    }
