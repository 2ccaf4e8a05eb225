"""Weights that lie in an ONNX file: its initialisers, read as data under the names of the module they came from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import WeightsInvalid, WeightsMissing

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 2**31 - 1  # bytes of a protobuf message


def read_initializers(file: Path) -> "dict[str, Tensor]":
    """The initialisers of an ONNX graph, by name, in the file's order; the graph is not run.

    PyTorch's exporter keeps a parameter's name, except for the weight of a linear layer over more than two axes: that
    is folded into its transpose, named by a number, and multiplied before the layer's bias is added. Such a tensor is
    given back as `<layer>.weight`, [out, in], where the bias that is added to its product is `<layer>.bias`.

    Args:
        file: The ONNX file; tensors that it keeps in other files are refused.

    Raises:
        WeightsMissing: If the package onnx is not installed.
        WeightsInvalid: If the file is not an ONNX file that holds all its tensors, each under a name of its own.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise WeightsMissing(
            f"{file.name} is an ONNX file, and {error.name} is not installed\n  Run: pip install 'featcache[onnx]'"
        ) from error
    if file.stat().st_size > _LARGEST:
        raise WeightsInvalid(f"{file} has more than the 2 GB that an ONNX file can hold")
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise WeightsInvalid(f"{file} is not an ONNX file: {error}") from error
    if not graph.initializer:
        raise WeightsInvalid(f"{file} is not an ONNX file with weights: it has no initialiser")
    layers = _layers(graph)
    tensors: dict[str, Tensor] = {}
    for initializer in graph.initializer:
        layer = layers.get(initializer.name)
        name = f"{layer}.weight" if layer else initializer.name
        if name in tensors:
            raise WeightsInvalid(f"{file} holds two tensors that are {name}")
        tensor = _tensor(initializer, file)
        tensors[name] = tensor.T.contiguous() if layer else tensor
    return tensors


def _tensor(initializer: Any, file: Path) -> "Tensor":
    import onnx
    import torch

    if initializer.data_location == onnx.TensorProto.EXTERNAL:
        raise WeightsInvalid(f"{file} keeps {initializer.name} in another file; only whole ONNX files are read")
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(initializer).copy())
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsInvalid(f"{file}: the initialiser {initializer.name} cannot be read: {error}") from error


def _layers(graph: Any) -> dict[str, str]:
    """Initialiser -> linear layer, for those multiplied from the right whose product has one `<layer>.bias` added."""
    names = {initializer.name for initializer in graph.initializer}
    used: dict[str, list[Any]] = {}
    for node in graph.node:
        for value in node.input:
            used.setdefault(value, []).append(node)
    layers: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in names or node.input[1].endswith(".weight"):
            continue
        after = used.get(node.output[0], [])
        added = [value for add in after if add.op_type == "Add" for value in add.input if value in names]
        if len(after) == len(added) == len(used[node.input[1]]) == 1 and added[0].endswith(".bias"):
            layers[node.input[1]] = added[0].removesuffix(".bias")
    return layers
