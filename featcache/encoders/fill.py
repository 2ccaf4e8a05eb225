"""Filling of a network with the tensors of files: each of its own gets exactly one."""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from featcache.encoders.modules import find_blocks
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.tensors import read_names, read_tensors
from featcache.encoders.weights import WeightFiles
from featcache.errors import WeightsInvalid

Named = dict[str, Tensor]


def fill(
    network: nn.Module, spec: EncoderSpec, files: WeightFiles, names: Callable[[Named], Named] | None = None
) -> None:
    """Gives a network the tensors of its files, in the network's own types.

    Args:
        network: The network.
        spec: Its entry.
        files: Of its weights.
        names: From the files' tensors to those of the network, where these have other names.

    Raises:
        WeightsInvalid: If a tensor is missing, of another shape, or not of this network.
    """
    tensors = named_tensors(spec, files)
    if names is not None:
        tensors = names(tensors)
    wanted = network.state_dict()
    if spec.source.order and files.folder is None:
        if len(tensors) != len(wanted):
            raise WeightsInvalid(f"{files.tensors[0]} holds {len(tensors)} tensors; {spec.arch} has {len(wanted)}")
        tensors = dict(zip(wanted, tensors.values(), strict=True))
    unlike = [name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape]
    problems = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "not of this network": sorted(tensors.keys() - wanted.keys()),
        "of another shape": sorted(unlike),
    }
    refuse(spec, files, problems)
    network.load_state_dict({name: value.to(wanted[name].dtype) for name, value in tensors.items()}, assign=True)


def named_tensors(spec: EncoderSpec, files: WeightFiles) -> dict[str, Tensor]:
    """The network's tensors of its files; those of a single file under the names that the entry's source makes."""
    if files.folder is not None and spec.part is not None:
        return _of_part(spec.part, files)
    tensors = {name: tensor for file in files.tensors for name, tensor in read_tensors(file).items()}
    if files.folder is not None:
        return tensors
    source = spec.source
    missing = [piece for pieces in source.pieces.values() for piece in pieces if piece not in tensors]
    refuse(spec, files, {"pieces that are missing": missing})
    own = {
        name.removeprefix(source.prefix): tensor for name, tensor in tensors.items() if name.startswith(source.prefix)
    }
    for name, pieces in source.pieces.items():
        own[name] = torch.cat([tensors[piece] for piece in pieces], 1)
    return own


def _of_part(part: str, files: WeightFiles) -> dict[str, Tensor]:
    """The tensors of one module of a repository's network, under the names that they have inside of it."""
    from safetensors import safe_open

    begin = re.compile(rf"(?:model\.)?{re.escape(part)}\.")
    tensors: dict[str, Tensor] = {}
    for file in files.tensors:
        names = {name: name[match.end() :] for name in read_names(file) if (match := begin.match(name))}
        with safe_open(file, framework="pt") as opened:
            tensors |= {inner: opened.get_tensor(name) for name, inner in names.items()}
    return tensors


def refuse(spec: EncoderSpec, files: WeightFiles, problems: dict[str, list[str]]) -> None:
    """Raises WeightsInvalid if there is a problem; says how many tensors each has, and names three."""
    lines = [
        f"  {what}: {len(names)} tensors, such as {', '.join(names[:3])}" for what, names in problems.items() if names
    ]
    if lines:
        where = ", ".join(str(file) for file in files.tensors)
        raise WeightsInvalid("\n".join([f"the weights in {where} do not fit {spec.name}", *lines]))


def surplus(network: nn.Module, spec: EncoderSpec, names: list[str]) -> list[str]:
    """Tensors of blocks beyond those of the configuration: transformers would leave them out without an error."""
    path = f"{spec.blocks}." if isinstance(spec.blocks, str) else ""
    count = len(find_blocks(network, spec))
    extra: list[str] = []
    for name in names:
        at = f".{name}".find(f".{path}")
        number = f".{name}"[at + 1 + len(path) :].partition(".")[0]
        if path and at >= 0 and number.isdecimal() and int(number) >= count and not _other_tower(name, spec):
            extra.append(name)
    return extra


def _other_tower(name: str, spec: EncoderSpec) -> bool:
    return name.startswith({"image": "text_model.", "text": "vision_model."}.get(spec.modality, "\0"))
