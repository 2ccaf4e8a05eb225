"""Tensors in a .pt file: nothing else in it is unpickled; and a file that is one matrix of rows, with ids."""

import warnings
import zipfile
from collections.abc import Iterator, Mapping
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
from featcache.interchange.formats.files import check_stored, named_damage, plain_size
from featcache.interchange.formats.row_names import contents_with_ids
from featcache.limits import check_limit
from featcache.storage.pickles import refusal


def load_tensors(source: Path) -> Any:
    """What a .pt holds: tensors and plain containers, mapped, so that a layer costs its bytes.

    Raises:
        DataInvalid: If it holds anything else, cannot be read, or is not what its checksums say.
    """
    loaded = _mapped(source)
    if zipfile.is_zipfile(source):
        with named_damage(source.name, "cannot be read as tensors"), zipfile.ZipFile(source) as archive:
            _require_members(archive, loaded)
    return loaded


def _mapped(source: Path) -> Any:
    """As `load_tensors`, with values that nobody has looked at yet."""
    import torch

    plain_size(source)
    with named_damage(source.name, "cannot be read as tensors"):
        packed = zipfile.is_zipfile(source)
        if packed:
            _check_archive(source)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected pickle protocol")  # the error that follows says more
                return torch.load(source, map_location="cpu", weights_only=True, mmap=packed)
        except Exception as error:  # of a pickle that is cut, torch raises nearly anything
            raise DataInvalid(
                f"{source.name} cannot be read as tensors alone (nothing is unpickled): {refusal(error)}\n"
                "  Ask whoever made it for a .npy or .safetensors of the rows"
            ) from error


def _dense_tensors(loaded: Any) -> Iterator[Any]:
    """The dense tensors with values in a tensor or containers of them."""
    import torch

    if isinstance(loaded, torch.Tensor):
        if loaded.layout == torch.strided and not loaded.is_quantized and loaded.device.type == "cpu":
            yield loaded
    elif isinstance(loaded, (Mapping, list, tuple, set)):
        for each in loaded.values() if isinstance(loaded, Mapping) else loaded:
            yield from _dense_tensors(each)


def _require_members(archive: zipfile.ZipFile, loaded: Any) -> None:
    """Refuses members that are not what their checksums say, and tensors that are not as long: a map checks neither.

    It takes the pickle's word for how long a member is, and reads on into the next.
    """
    changed = archive.testzip()
    if changed is not None:
        raise ValueError(f"its member {changed!r} is not what its checksum says")
    sizes = {info.file_size for info in archive.infolist()}
    if any(each.untyped_storage().nbytes() not in sizes for each in _dense_tensors(loaded)):
        raise ValueError("a tensor claims more or less than the member that holds it")


def _check_archive(source: Path) -> None:
    """Refuses a ZIP that unpacks to more than it has: torch stores every member as it is."""
    with zipfile.ZipFile(source) as archive:
        packed = next((info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise ValueError(f"its member {packed.filename!r} is compressed, as torch.save compresses none")
        pickled = sum(info.file_size for info in archive.infolist() if info.filename.endswith(".pkl"))
    check_limit("json", pickled, f"the pickle in {source.name}")


def require_stored(tensor: Any, where: str) -> None:
    """Refuses a tensor that is none of plain numbers, or claims more of them than lie in the file.

    Raises:
        DataInvalid: If it is sparse, quantised or without values, or an expanded one: one row that stands for many.
    """
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise DataInvalid(f"{where} is sparse, quantised or without values. Have it saved as a dense tensor")
    check_stored(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes(), where)


def is_tensor(source: Path) -> bool:
    """Whether a .pt is one tensor and no dict; errors as `load_tensors`."""
    import torch

    return isinstance(_mapped(source), torch.Tensor)


def read_tensor(source: Path, layer: str | None, options: ImportOptions) -> list[Contents]:
    """One tensor [rows, features]; ids come from a file of their own. Errors as `read_source`."""
    if options.ids is None:
        raise UsageError(
            f"{source.name} is one tensor and does not say which row is which. Say it with a .txt, .csv, ...: "
            "--ids FILE"
        )
    import torch

    tensor = load_tensors(source)
    if not isinstance(tensor, torch.Tensor):
        raise DataInvalid(f"{source.name}: wanted one tensor, got a {type(tensor).__name__}")
    matrix = stack([tensor_part(source.name, tensor)], wanted_layer(layer, source))
    return [contents_with_ids("pt", source, matrix, options)]


def tensor_part(where: str, tensor: Any) -> MatrixPart:
    """A tensor [rows, features] as a part of a matrix; bfloat16, which NumPy lacks, is handed out as float32.

    DataInvalid as `require_stored` and `matrix_part`.
    """
    require_stored(tensor, where)

    def read(rows: NDArray[np.int64]) -> np.ndarray:
        import torch

        block = tensor.detach()[torch.from_numpy(rows)]
        return (block.float() if block.dtype == torch.bfloat16 else block).numpy()

    return matrix_part(where, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), read)
