"""Linear layers of sentence-transformers behind the pooling, each in a file of its own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from featcache.encoders.spec import EncoderSpec
from featcache.encoders.tensors import hash_files, hash_tensors, read_tensors
from featcache.encoders.weights import WeightFiles
from featcache.errors import WeightsInvalid

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}
_WEIGHT, _BIAS = "linear.weight", "linear.bias"


def load_dense(spec: EncoderSpec, files: WeightFiles, *, random: bool) -> tuple[nn.Sequential | None, list[str]]:
    """The layers of an entry, one after the other, None where it has none; and the hash of each one's tensors.

    Args:
        spec: The entry.
        files: Its files.
        random: Random weights in the place of those of the files, of the same shapes.

    Raises:
        WeightsInvalid: If a file holds anything but the weight of a linear layer, and its bias if it has one.
    """
    layers: list[nn.Module] = []
    hashes: list[str] = []
    for stated, file in zip(spec.embedding.dense if spec.embedding else (), files.dense, strict=True):
        tensors = read_tensors(file)
        shapes = {name: tensor.ndim for name, tensor in tensors.items()}
        if shapes not in ({_WEIGHT: 2}, {_WEIGHT: 2, _BIAS: 1}):
            raise WeightsInvalid(f"{file} holds {', '.join(shapes) or 'nothing'}, and not one linear layer")
        out, inputs = tensors[_WEIGHT].shape
        linear = nn.Linear(inputs, out, bias=_BIAS in tensors)
        if not random:
            _fill(linear, tensors)
        layers += [linear, _ACTIVATIONS[stated.activation]()]
        hashes.append(hash_tensors(linear.state_dict()) if random else hash_files([file]))
    return nn.Sequential(*layers) if layers else None, hashes


def _fill(linear: nn.Linear, tensors: dict[str, Tensor]) -> None:
    values = {name.removeprefix("linear."): tensor.to(torch.float32) for name, tensor in tensors.items()}
    linear.load_state_dict(values)
