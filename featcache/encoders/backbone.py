"""Frozen networks: built from their files, with their blocks, on the CPU in float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor, nn

from featcache.encoders.config_files import check_type, config_hash, read_config
from featcache.encoders.dense import load_dense
from featcache.encoders.fill import fill, named_tensors, refuse, surplus
from featcache.encoders.modules import embedding_of, find_blocks, find_module, network_class
from featcache.encoders.pooling import Positions
from featcache.encoders.spec import EncodeOptions, EncoderSpec
from featcache.encoders.tensors import hash_files, hash_tensors, read_names
from featcache.encoders.weights import OPEN_CLIP_CONFIG, WeightFiles
from featcache.encoders.whisper_window import cut_positions, whisper_positions
from featcache.errors import UsageError, WeightsInvalid, WeightsMissing
from featcache.store.digest import canonical


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network in evaluation mode."""

    module: nn.Module
    run: Callable[[dict[str, Tensor]], Tensor]  # from a batch's inputs to what follows the last block
    blocks: tuple[nn.Module, ...]  # in order
    ends_with_block: bool  # nothing follows the last block
    final_norm: nn.Module | None  # applied to what `run` returns to make `last`; None: the forward pass has done it
    prefix: int  # tokens before the first patch
    patch: tuple[int, int] | None  # (height, width) in pixels; None where the configuration does not say
    head: nn.Module | None  # from the last hidden states to logits; None where there is no language model
    softcap: float | None  # the cap of those logits
    tensors: str  # hash of the weights
    structure: dict[str, Any]  # what gives the tensors their meaning: class or architecture, and configuration
    pretrained: dict[str, Any]  # timm's `pretrained_cfg`; empty for transformers
    embedding: Callable[[Tensor, Positions], Tensor] | None = None  # from layer `last` to the library's own vector


def load_backbone(spec: EncoderSpec, options: EncodeOptions, files: WeightFiles) -> Backbone:
    """Builds the network, on the CPU in float32.

    Raises:
        WeightsMissing: If its library is not installed.
        WeightsInvalid: If the files do not fit the entry; names tensors.
    """
    load = {"timm": _load_timm, "transformers": _load_transformers, "open_clip": _load_open_clip, "torch": _load_torch}[
        spec.library
    ]
    with library(spec):
        return load(spec, options, files)


@contextmanager
def library(spec: EncoderSpec) -> Iterator[None]:
    """Turns a missing import into the error that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise WeightsMissing(
            f"{spec.name} needs {error.name}, which is not installed\n  Run: pip install 'featcache[encoders]'"
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# --- timm -------------------------------------------------------------------------------------------------------


def _load_timm(spec: EncoderSpec, options: EncodeOptions, files: WeightFiles) -> Backbone:
    architecture = (spec.arch or "").partition(".")[0]
    config = read_config(files.folder)
    stated = config.get("architecture", architecture)
    if stated != architecture:
        raise WeightsInvalid(f"{files.folder}/config.json is of {stated}; {spec.name} wants {architecture}")
    arguments = {**config.get("model_args", {}), **spec.model_args}
    sizes = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
    network = _timm_network(spec, options, {**sizes, **arguments})
    if options.random:
        tensors = hash_tensors(network.state_dict())
    else:
        fill(network, spec, files)
        tensors = hash_files(files.tensors)
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    if spec.prefix_tokens not in (None, prefix):
        raise WeightsInvalid(
            f"{spec.name} declares prefix_tokens = {spec.prefix_tokens}, and {architecture} has {prefix}"
        )
    return Backbone(
        module=network,
        run=lambda inputs: network.forward_features(inputs["pixel_values"]),
        blocks=find_blocks(network, spec),
        ends_with_block=spec.last == "block",
        final_norm=find_module(network, spec.final_norm, spec) if spec.final_norm else None,
        prefix=prefix,
        patch=None,
        embedding=embedding_of(network, spec),
        head=None,
        softcap=None,
        tensors=tensors,
        structure={"architecture": architecture, "arguments": arguments},
        pretrained={**network.pretrained_cfg, **config.get("pretrained_cfg", {})},
    )


def _timm_network(spec: EncoderSpec, options: EncodeOptions, arguments: dict[str, Any]) -> Any:
    """The architecture; without memory for its tensors where a file will bring them all.

    Filling a large network with random numbers that are then replaced takes minutes.
    """
    import timm

    if not options.random:
        try:
            with torch.device("meta"):
                network: Any = timm.create_model(spec.arch or "", pretrained=False, **arguments)
            if {name for name, _ in network.named_buffers()} <= network.state_dict().keys():
                return network
        except (RuntimeError, TypeError):
            pass  # an older timm computes with tensors while it builds: build in memory, or fail there by name
    try:
        with _seeded(options.seed):
            return timm.create_model(spec.arch or "", pretrained=False, **arguments)
    except (RuntimeError, TypeError) as error:
        raise WeightsInvalid(f"timm cannot build {spec.arch} with {arguments} for {spec.name}: {error}") from error


# --- open_clip --------------------------------------------------------------------------------------------------


def _load_open_clip(spec: EncoderSpec, options: EncodeOptions, files: WeightFiles) -> Backbone:
    from featcache.encoders.open_clip_towers import build_pair, tower_run

    folder = files.folder or Path()
    with _seeded(options.seed):
        network = build_pair(folder)
    if not options.random:
        fill(network, spec, files)
    network = network.eval().requires_grad_(False)
    blocks = find_blocks(network, spec)
    config = blake3(canonical(read_config(folder, OPEN_CLIP_CONFIG))).hexdigest()
    return Backbone(
        module=network,
        run=tower_run(network, blocks[-1], spec.modality),
        blocks=blocks,
        ends_with_block=spec.last == "block",
        final_norm=find_module(network, spec.final_norm, spec) if spec.final_norm else None,
        prefix=1,
        patch=None,
        head=None,
        softcap=None,
        tensors=hash_tensors(network.state_dict()) if options.random else hash_files(files.tensors),
        structure={"tower": spec.modality, "config": config},
        pretrained={},
        embedding=embedding_of(network, spec),
    )


# --- networks that no library has -------------------------------------------------------------------------------


def _load_torch(spec: EncoderSpec, options: EncodeOptions, files: WeightFiles) -> Backbone:
    from featcache.encoders.voice_network import NETWORKS

    kind = NETWORKS[spec.model or ""]
    with _seeded(options.seed):
        network = kind()
    if not options.random:
        fill(network, spec, files, names=kind.own_names)
    network = network.eval().requires_grad_(False)
    return Backbone(
        module=network,
        run=lambda inputs: network(**inputs),
        blocks=find_blocks(network, spec),
        ends_with_block=spec.last == "block",
        final_norm=find_module(network, spec.final_norm, spec) if spec.final_norm else None,
        prefix=0,
        patch=None,
        head=None,
        softcap=None,
        tensors=hash_tensors(network.state_dict()) if options.random else hash_files(files.tensors),
        structure={"class": spec.model},
        pretrained={},
        embedding=embedding_of(network, spec),
    )


# --- transformers -----------------------------------------------------------------------------------------------


def _load_transformers(spec: EncoderSpec, options: EncodeOptions, files: WeightFiles) -> Backbone:
    import transformers

    kind = network_class(spec.model or "")
    if kind is None:
        raise WeightsMissing(f"transformers {transformers.__version__} has no {spec.model}, which {spec.name} needs")
    check_type(kind, spec, files)
    with _quiet():
        network = _random_network(kind, spec, options, files) if options.random else _pretrained(kind, spec, files)
    network = network.eval().requires_grad_(False)
    config = network.config
    config.use_cache = False
    trunk = network.base_model if spec.bits_per_byte or spec.prompt else network
    tensors = hash_tensors(network.state_dict()) if options.random else hash_files(files.tensors)
    structure = {"class": spec.model, "arguments": spec.model_args, "config": config_hash(spec, files)}
    usual = 1 + int(getattr(config, "num_register_tokens", 0) or 0)  # CLS and registers; the probe checks it
    if spec.prefix_tokens not in (None, usual):
        structure["prefix_tokens"] = spec.prefix_tokens
    with _seeded(options.seed):
        dense, hashes = load_dense(spec, files, random=options.random)
    if dense is not None:
        structure["dense"] = hashes
        network.add_module("dense_behind_pooling", dense.eval().requires_grad_(False))  # so that it moves with it
    return Backbone(
        module=network,
        run=lambda inputs: _last_hidden(trunk(**inputs), spec),
        blocks=find_blocks(network, spec),
        ends_with_block=spec.last == "block",
        final_norm=find_module(network, spec.final_norm, spec) if spec.final_norm else None,
        prefix=usual if spec.prefix_tokens is None else spec.prefix_tokens,
        patch=_patch(config),
        head=network.get_output_embeddings() if spec.bits_per_byte else None,
        softcap=getattr(config, "final_logit_softcapping", None),
        tensors=tensors,
        structure=structure,
        pretrained={},
        embedding=embedding_of(network, spec, dense),
    )


def _last_hidden(output: Any, spec: EncoderSpec) -> Any:
    """What follows the last block; nothing of a task's own output, whose last block is all that is kept."""
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None and spec.last == "output":
        raise UsageError(
            f"{spec.model} gives no last hidden state, which {spec.name} wants\n"
            '  Declare last = "block" in its entry, or the class without the head'
        )
    return hidden


def _patch(config: Any) -> tuple[int, int] | None:
    size = getattr(config, "patch_size", None)
    if isinstance(size, int):
        return size, size
    return (size[0], size[1]) if isinstance(size, (tuple, list)) and len(size) == 2 else None


def _pretrained(kind: Any, spec: EncoderSpec, files: WeightFiles) -> Any:
    if spec.part or (files.folder is None and spec.config):
        return _filled(kind, spec, files)
    extra = {}
    if files.folder is None:
        extra["gguf_file"] = files.tensors[0].name
        _check_gguf(spec)
    else:
        extra["use_safetensors"] = True
    folder = files.folder or files.tensors[0].parent
    names = [name for file in files.tensors for name in read_names(file)] if files.folder else []
    try:
        network, info = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=spec.attention,
            local_files_only=True,
            output_loading_info=True,
            **extra,
            **spec.model_args,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise WeightsInvalid(f"the weights in {folder} do not fit {spec.name} ({spec.model}): {error}") from error
    refuse(spec, files, {"missing": sorted(info["missing_keys"]), "of blocks too many": surplus(network, spec, names)})
    return network


def _filled(kind: Any, spec: EncoderSpec, files: WeightFiles) -> Any:
    """A network of the entry's configuration; transformers itself maps a checkpoint's names to those of its version."""
    config, tensors = _configuration(kind, spec, files), named_tensors(spec, files)
    if _has_window(spec):
        tensors = cut_positions(tensors, config.max_source_positions)
    network, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype=torch.float32,
        attn_implementation=spec.attention,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, by name
        **spec.model_args,
    )
    problems = {
        "missing": sorted(info["missing_keys"]),
        "not of this network": sorted(info["unexpected_keys"]),
        "of another shape": sorted(str(each[0]) for each in info["mismatched_keys"]),
    }
    refuse(spec, files, problems)
    return network


def _check_gguf(spec: EncoderSpec) -> None:
    from importlib.util import find_spec

    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise WeightsMissing(f"{spec.name} is a GGUF file\n  Run: pip install {' '.join(missing)}")


def _random_network(kind: Any, spec: EncoderSpec, options: EncodeOptions, files: WeightFiles) -> Any:
    config = _configuration(kind, spec, files)
    with _seeded(options.seed):
        return kind(config, **spec.model_args).to(torch.float32)


def _has_window(spec: EncoderSpec) -> bool:
    return spec.sound is not None and spec.sound.features == "whisper"


def _configuration(kind: Any, spec: EncoderSpec, files: WeightFiles) -> Any:
    """What the files state, or the entry where they state nothing; of Whisper, with the positions of its window."""
    config = _stated_configuration(kind, spec, files)
    if _has_window(spec):
        config.max_source_positions = whisper_positions(spec, config)
    return config


def _stated_configuration(kind: Any, spec: EncoderSpec, files: WeightFiles) -> Any:
    if files.folder is not None:
        return kind.config_class.from_pretrained(
            files.folder, attn_implementation=spec.attention, local_files_only=True
        )
    if spec.config:
        return kind.config_class(**spec.config, attn_implementation=spec.attention)
    _check_gguf(spec)
    file = (*files.tensors, *files.settings)[0]
    return kind.config_class.from_pretrained(
        file.parent, gguf_file=file.name, attn_implementation=spec.attention, local_files_only=True
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and load reports off the terminal: what they say is checked here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
