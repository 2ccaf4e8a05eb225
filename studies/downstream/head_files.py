"""Pretrained linear heads: read from the published files, as one matrix on pooled features."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from blake3 import blake3

from featcache.encoders.tensors import read_tensors
from featcache.errors import UsageError, WeightsInvalid, WeightsMissing
from featcache.storage.pickles import refusal

if TYPE_CHECKING:
    from torch import Tensor

HeadKind = Literal["classification", "depth", "segmentation"]
_BN_EPS = 1e-5  # torch's, which the published segmentation heads were trained with
# Names of a head's matrix, by its kind, in the order in which they are looked for; dense ones may
# stand below any module, as "decode_head", the others below none.
_DENSE: Mapping[str, HeadKind] = {"conv_depth.weight": "depth", "conv_seg.weight": "segmentation"}
_PLAIN = ("classifier.weight", "linear.weight", "fc.weight", "_fc.weight", "weight")  # of classification
_NORMS = ("layernorm.weight", "norm.weight")  # the final norm's in transformers' and in DINOv2's (and timm's) files


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head: logits = input @ weight.T + bias.

    Args:
        kind: What it was trained for. Of a depth head the outputs are bins, before activation and normalisation.
        weight: [c, w] float64.
        bias: [c] float64.
        path: Where it was read.
        digest: blake3 of weight and bias as float64, hex.
        norm: Weight and bias [d] of the final LayerNorm, where the file holds the whole model; else None.
    """

    kind: HeadKind
    weight: np.ndarray
    bias: np.ndarray
    path: Path
    digest: str
    norm: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def outputs(self) -> int:
        """Number of outputs, c."""
        return len(self.bias)

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs [n, c] of inputs [n, w], in float64."""
        return np.asarray(inputs, np.float64) @ self.weight.T + self.bias


def read_head(path: Path) -> Head:
    """Reads a head: a .pth or .safetensors, or a folder in transformers' layout.

    DINOv2's published files hold {weight, bias} (classification), `decode_head.conv_depth` (linear depth) or
    `decode_head.bn` and `decode_head.conv_seg` (linear segmentation, whose norm over the batch is folded in);
    transformers' repositories hold `classifier` beside the model, and files of whole networks `fc` or `classifier`.

    Raises:
        WeightsMissing: If there is no such file or folder.
        WeightsInvalid: If it holds more than tensors, or they do not fit each other.
        UsageError: If it holds no linear head.
    """
    tensors = _tensors(path)
    name, kind = _named_matrix(tensors)
    stem = name.removesuffix("weight")
    alone = name == "weight" and len(tensors) == 2 or name != "weight"
    many = kind != "classification" and any(
        part.startswith(_parent(stem)) and part.endswith("weight") and part not in (name, f"{_parent(stem)}bn.weight")
        for part in tensors
    )
    if not name or f"{stem}bias" not in tensors or many or not alone:
        raise UsageError(
            f"{path} holds no linear head: {len(tensors)} tensors, such as {', '.join(list(tensors)[:3])}\n"
            "  Of a head that is not linear, declare its layers as an encoder's (docs/downstream.md)"
        )
    weight, bias = _matrix(path, tensors[name]), _vector(path, tensors[f"{stem}bias"])
    if kind == "segmentation":
        weight, bias = _without_norm(path, weight, bias, tensors, _parent(stem))
    if len(weight) != len(bias):
        raise WeightsInvalid(f"{path}: weight {weight.shape} and bias {bias.shape} do not fit")
    digest = blake3(np.ascontiguousarray(np.c_[weight, bias]).tobytes()).hexdigest()
    return Head(kind, weight, bias, path, digest, _norm_of(path, tensors) if path.is_dir() else None)


def read_norm(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias [d] of a model's final LayerNorm, from its checkpoint (a file, or a folder as transformers').

    Raises:
        WeightsMissing, WeightsInvalid: As `read_head`.
        UsageError: If there is no such norm.
    """
    tensors = _tensors(path)
    norm = _norm_of(path, tensors)
    if norm is None:
        raise UsageError(f"{path} holds no final norm ({' or '.join(_NORMS)})\n  Name the model's own checkpoint")
    return norm


def _tensors(path: Path) -> "dict[str, Tensor]":
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not path.exists() or not files:
        what = "holds no *.safetensors" if path.exists() else "is not there"
        raise WeightsMissing(f"{path} {what}\n  Give a head's .pth or .safetensors, or a folder as transformers has it")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(file) if file.suffix == ".safetensors" else _pickled(file)
    return tensors


def _pickled(file: Path) -> "dict[str, Tensor]":
    """Tensors of a checkpoint, which may stand one level down beside what else a training kept."""
    import pickle

    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsInvalid(f"{file} does not hold weights only: {refusal(error)}") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise WeightsInvalid(f"{file} holds {type(loaded).__name__}, not tensors by name")
    return {str(name): tensor for name, tensor in loaded.items()}


def _named_matrix(tensors: "Mapping[str, Tensor]") -> tuple[str, HeadKind]:
    """Name of a head's matrix and what the head is for; "" for none."""
    for end, kind in _DENSE.items():
        for name in tensors:
            if f".{name}".endswith(f".{end}"):
                return name, kind
    return next((name for name in _PLAIN if name in tensors), ""), "classification"


def _parent(stem: str) -> str:
    """The module that a layer belongs to: "decode_head.conv_seg." is of "decode_head."."""
    return stem.removesuffix(".").rpartition(".")[0] + "." if "." in stem.removesuffix(".") else ""


def _matrix(path: Path, tensor: "Tensor") -> np.ndarray:
    """[c, w], also of a convolution of one pixel."""
    values = tensor.double().numpy()
    if values.ndim == 4 and values.shape[2:] == (1, 1):
        values = values[:, :, 0, 0]
    if values.ndim != 2 or not np.isfinite(values).all():
        raise WeightsInvalid(f"{path}: wanted a finite matrix [outputs, inputs], got {list(values.shape)}")
    return values


def _vector(path: Path, tensor: "Tensor") -> np.ndarray:
    values = tensor.double().numpy()
    if values.ndim != 1 or not np.isfinite(values).all():
        raise WeightsInvalid(f"{path}: wanted a finite vector, got {list(values.shape)}")
    return values


def _without_norm(
    path: Path, weight: np.ndarray, bias: np.ndarray, tensors: "Mapping[str, Tensor]", parent: str
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix with the norm over the batch before it, which in evaluation is linear, folded in."""
    names = [f"{parent}bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    if not any(name in tensors for name in names):
        return weight, bias
    lacking = [name for name in names if name not in tensors]
    if lacking:
        raise WeightsInvalid(f"{path} lacks {', '.join(lacking)}")
    scale, shift, mean, variance = (_vector(path, tensors[name]) for name in names)
    if len(scale) != weight.shape[1]:
        raise WeightsInvalid(f"{path}: a norm of {len(scale)} dimensions before a matrix of {weight.shape[1]}")
    scale = scale / np.sqrt(variance + _BN_EPS)
    return weight * scale, bias + weight @ (shift - mean * scale)


def _norm_of(path: Path, tensors: "Mapping[str, Tensor]") -> tuple[np.ndarray, np.ndarray] | None:
    for end in _NORMS:
        # of many norms the final one stands outside the blocks, so its name is the shortest
        names = sorted((name for name in tensors if name == end or name.endswith(f".{end}")), key=len)
        if names and f"{names[0].removesuffix('weight')}bias" in tensors:
            stem = names[0].removesuffix("weight")
            return _vector(path, tensors[names[0]]), _vector(path, tensors[f"{stem}bias"])
    return None
