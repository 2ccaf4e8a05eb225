"""Tensors in a .pt file: nothing else in it is unpickled; and a file that is one matrix of rows, with ids."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.data.errors import DataInvalid
from featcache.errors import UsageError
from featcache.interchange.formats.contents import (
    Contents,
    ImportOptions,
    MatrixPart,
    matrix_part,
    stack,
    wanted_layer,
)
from featcache.interchange.formats.row_names import contents_with_ids
from featcache.storage.pickles import refusal


def load_tensors(source: Path) -> Any:
    """What a .pt holds: tensors and plain containers, mapped, so that a layer costs its bytes.

    Raises:
        DataInvalid: If it holds anything else, or cannot be read.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error that follows says more
            return torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise DataInvalid(
            f"{source.name} cannot be read as tensors alone (nothing is unpickled): {refusal(error)}\n"
            "  Ask whoever made it for a .npy or .safetensors of the rows"
        ) from error


def is_tensor(source: Path) -> bool:
    """Whether a .pt is one tensor and no dict; errors as `load_tensors`."""
    return hasattr(load_tensors(source), "shape")


def read_tensor(source: Path, layer: str | None, options: ImportOptions) -> list[Contents]:
    """One tensor [rows, features]; ids come from a file of their own. Errors as `read_source`."""
    if options.ids is None:
        raise UsageError(
            f"{source.name} is one tensor and does not say which row is which. Say it with a .txt, .csv, ...: "
            "--ids FILE"
        )
    tensor = load_tensors(source)
    if not hasattr(tensor, "shape"):
        raise DataInvalid(f"{source.name}: wanted one tensor, got a {type(tensor).__name__}")
    matrix = stack([tensor_part(source.name, tensor)], wanted_layer(layer, source))
    return [contents_with_ids("pt", source, matrix, options)]


def tensor_part(where: str, tensor: Any) -> MatrixPart:
    """A tensor [rows, features] as a part of a matrix; bfloat16, which NumPy lacks, is handed out as float32."""

    def read(rows: NDArray[np.int64]) -> np.ndarray:
        import torch

        block = tensor[torch.from_numpy(rows)]
        return (block.float() if block.dtype == torch.bfloat16 else block).numpy()

    return matrix_part(where, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), read)
