"""Whisper's encoder in a CTranslate2 file: its tensors, read as data under the names of transformers' WhisperEncoder.

Little-endian. Header: version, name of the specification, its revision, number of variables. A variable: name, number
of axes, their sizes, type, bytes, and the values. Then pairs of names, an alias and what it stands for. Names are a
16-bit length, with the closing zero, and the bytes. Queries, keys and values of a block's attention are one matrix.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.errors import WeightsInvalid

if TYPE_CHECKING:
    from torch import Tensor

_VERSIONS = (4, 5, 6)  # that state the type and the bytes of a variable, and its aliases
_NAME = "WhisperSpec"
_TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}  # bfloat16, 5, has no type of numpy
_WEIGHTS = ("<f4", "<f2")
_AXES = 8  # no tensor of a network has more
_OUTER = {
    "conv1/weight": "conv1.weight",
    "conv1/bias": "conv1.bias",
    "conv2/weight": "conv2.weight",
    "conv2/bias": "conv2.bias",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}
_BLOCK = {
    "self_attention/layer_norm/gamma": "self_attn_layer_norm.weight",
    "self_attention/layer_norm/beta": "self_attn_layer_norm.bias",
    "self_attention/linear_1/weight": "self_attn.out_proj.weight",
    "self_attention/linear_1/bias": "self_attn.out_proj.bias",
    "ffn/layer_norm/gamma": "final_layer_norm.weight",
    "ffn/layer_norm/beta": "final_layer_norm.bias",
    "ffn/linear_0/weight": "fc1.weight",
    "ffn/linear_0/bias": "fc1.bias",
    "ffn/linear_1/weight": "fc2.weight",
    "ffn/linear_1/bias": "fc2.bias",
}
_FUSED = "self_attention/linear_0/"
_SETTINGS = {"num_heads"}  # of the encoder, and no tensors: the entry's configuration states them


class _Variable(NamedTuple):
    shape: tuple[int, ...]
    type: str
    offset: int


def is_ctranslate2_whisper(file: Path) -> bool:
    """Whether a file begins as CTranslate2's Whisper."""
    if file.suffix != ".bin":
        return False
    begin = struct.pack("<H", len(_NAME) + 1) + _NAME.encode() + b"\0"
    with file.open("rb") as opened:
        return opened.read(4 + len(begin))[4:] == begin


def read_whisper_encoder(file: Path) -> "dict[str, Tensor]":
    """The encoder's tensors, float32; the decoder's are checked to lie whole in the file, and left out.

    Raises:
        WeightsInvalid: If the file is cut, of another version, quantised, or its encoder has other tensors.
    """
    import torch

    data, variables = _read(file)
    tensors: dict[str, Tensor] = {}
    for name, variable in variables.items():
        if name.startswith("decoder/") or name.removeprefix("encoder/") in _SETTINGS:
            continue
        if variable.type not in _WEIGHTS:
            raise WeightsInvalid(f"{file}: {name} is of type {variable.type}; only float32 and float16 are read")
        values = np.frombuffer(data, variable.type, math.prod(variable.shape), variable.offset)
        for theirs, part in _named(file, name, values.reshape(variable.shape)):
            tensors[theirs] = torch.from_numpy(np.array(part, dtype=np.float32))
    return tensors


def read_whisper_heads(file: Path) -> int:
    """The attention heads of each of the encoder's blocks."""
    data, variables = _read(file)
    variable = variables.get("encoder/num_heads")
    if variable is None or variable.shape:
        raise WeightsInvalid(f"{file} does not state the encoder's number of heads")
    return int(np.frombuffer(data, variable.type, 1, variable.offset)[0])


def _named(file: Path, name: str, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """A tensor of the encoder under transformers' name, or the three that it is."""
    inner = name.removeprefix("encoder/")
    layer, _, rest = inner.partition("/")
    number = layer.removeprefix("layer_")
    if inner != name and inner in _OUTER:
        yield _OUTER[inner], values
    elif inner != name and number.isdecimal() and rest in _BLOCK:
        yield f"layers.{int(number)}.{_BLOCK[rest]}", values
    elif inner != name and number.isdecimal() and rest in (f"{_FUSED}weight", f"{_FUSED}bias") and len(values) % 3 == 0:
        what = rest.removeprefix(_FUSED)
        for part, piece in zip("qkv", np.split(values, 3), strict=True):
            if (part, what) != ("k", "bias"):
                yield f"layers.{int(number)}.self_attn.{part}_proj.{what}", piece
            elif piece.any():
                raise WeightsInvalid(f"{file}: {name} adds a bias to the keys, which no Whisper has")
    else:
        raise WeightsInvalid(f"{file} holds a tensor {name!r} of {list(values.shape)}, which no encoder of Whisper has")


def _read(file: Path) -> tuple[Any, dict[str, _Variable]]:
    """The mapped file and the variables of its directory, each checked to lie whole in it."""
    try:
        data = np.memmap(file, np.uint8, "r")
        return data, _parsed(file, data)
    except (struct.error, ValueError, OSError) as error:  # cut short, empty, a name that is not UTF-8
        raise WeightsInvalid(f"{file} is cut short, or not a CTranslate2 file: {error}") from error


class _Cursor:
    """A place in a file's bytes, which moves behind what is read."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.at = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.number("<H")
        self.at += length
        if not length or self.at > len(self.data):
            raise ValueError("a name ends behind the file")
        return bytes(self.data[self.at - length : self.at - 1]).decode()


def _parsed(file: Path, data: Any) -> dict[str, _Variable]:
    cursor = _Cursor(data)
    version, name, _, count = cursor.number("<I"), cursor.text(), cursor.number("<I"), cursor.number("<I")
    if name != _NAME or version not in _VERSIONS:
        raise WeightsInvalid(
            f"{file} is {name} of CTranslate2's binary version {version}; wanted {_NAME} of {_VERSIONS}"
        )
    variables: dict[str, _Variable] = {}
    for _ in range(count):
        name, variable = _variable(file, cursor)
        if name in variables:
            raise WeightsInvalid(f"{file}: {name} stands twice")
        variables[name] = variable
    for _ in range(cursor.number("<I")):
        alias, of = cursor.text(), cursor.text()
        if of not in variables or not alias.startswith("decoder/"):
            raise WeightsInvalid(f"{file}: {alias} stands for {of}, which is no variable of a decoder")
    if cursor.at != len(data):
        raise WeightsInvalid(f"{file} goes on behind its last variable")
    return variables


def _variable(file: Path, cursor: _Cursor) -> tuple[str, _Variable]:
    name, axes = cursor.text(), cursor.number("<B")
    if axes > _AXES:
        raise ValueError(f"a variable of {axes} axes")
    shape = tuple(cursor.number("<I") for _ in range(axes))
    kind, size = cursor.number("<B"), cursor.number("<I")
    start, cursor.at = cursor.at, cursor.at + size
    wanted = _TYPES.get(kind, "")
    if not wanted or size != np.dtype(wanted).itemsize * math.prod(shape):
        raise WeightsInvalid(f"{file}: {name} of {list(shape)} has type {kind} and {size} bytes, which do not fit")
    if cursor.at > len(cursor.data):
        raise WeightsInvalid(f"{file} is cut short: {name} ends behind it")
    return name, _Variable(shape, wanted, start)
