"""Feature files of platonic-rep: every layer of one model on the rows of a data set, as one tensor.

`torch.save` of a dict: "feats" [n, layers, d] beside "num_params" and, for language models, "mask", "loss", "bpb".
The pooling stands in the file's name. Language models: the hidden states, that is the embedding, the output of each
block but the last, and the last one after the final norm. Vision transformers: the class token behind each block,
before the final norm. Rows have no ids but their numbers.

Source:
    github.com/minyoungg/platonic-rep, extract_features.py and utils.py; Huh et al. 2024, arXiv:2405.07987.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from featcache.data.errors import DataInvalid
from featcache.errors import UsageError
from featcache.interchange.formats.contents import Contents, ImportOptions, Matrix, stack
from featcache.interchange.formats.files import named_damage
from featcache.interchange.formats.row_names import RowNames, read_row_names
from featcache.interchange.formats.torch_file import load_tensors, require_stored, tensor_part

_POOL = re.compile(r"_pool-(avg|none|cls)|-(cls)$")
_MOST_LAYERS = 10_000
_OF_TEXT = ("mask", "loss", "bpb")
_POOLING = {
    ("text", "avg"): "mean",
    ("text", "none"): "last-token",
    ("image", "none"): "cls",
    ("image", "cls"): "cls",  # "..._pool-cls.pt", and "...-cls.pt" of some published files
}


def read_platonic_rep(source: Path, layer: str | None, options: ImportOptions) -> list[Contents]:
    """Every layer of one model, or the one that is named. Errors as `read_source`; nothing is unpickled.

    Without `ids`, ids are the row numbers in four digits, as data set wit_1024 has them.
    """
    import torch

    content = _load(source)
    feats: Any = content.get("feats")
    shape = list(feats.shape) if isinstance(feats, torch.Tensor) else []
    if len(shape) != 3 or 0 in shape:
        what = shape or type(feats).__name__
        keys = "" if "feats" in content else f"; it holds {', '.join(map(str, content)) or 'nothing'}"
        raise DataInvalid(f'{source.name}: wanted "feats" [rows, layers, features], got {what}{keys}')
    require_stored(feats, source.name)
    if shape[1] > _MOST_LAYERS:
        raise DataInvalid(f"{source.name} claims {shape[1]:,} layers. Is it [rows, layers, features]?")
    modality = "text" if any(name in content for name in _OF_TEXT) else "image"
    layers = layer_names(shape[1], modality, _pooling(source, modality))
    if layer is not None and layer not in layers:
        raise UsageError(f"{source.name} has no layer {layer}; it has {', '.join(layers)}")
    matrices = [_matrix(source, feats, number, name) for number, name in enumerate(layers) if layer in (None, name)]
    numbers = RowNames(tuple(f"{row:04d}" for row in range(shape[0])))
    names = numbers if options.ids is None else read_row_names(options.ids, options.id_column)
    with named_damage(source.name, "cannot be read as tensors"):
        facts = {name: _scalar(content[name]) for name in ("num_params", "loss", "bpb") if name in content}
    return [
        Contents(
            kind="platonic-rep",
            source=source,
            files=(source,),
            ids=names.ids,
            matrices=tuple(matrices),
            default=layer or layers[-1],
            groups=names.groups,
            modality=modality,
            facts={name: value for name, value in facts.items() if value is not None},
        )
    ]


def layer_names(layers: int, modality: str, pooling: str) -> list[str]:
    """Our names of platonic-rep's layers, in its order.

    Example:
        >>> layer_names(3, "text", "mean"), layer_names(2, "image", "cls")
        (['0.mean', '1.mean', 'last.mean'], ['1.cls', '2.cls'])
    """
    if modality == "image":
        return [f"{number}.{pooling}" for number in range(1, layers + 1)]
    return [f"{number}.{pooling}" for number in range(layers - 1)] + [f"last.{pooling}"]


def _load(source: Path) -> dict[str, Any]:
    content = load_tensors(source)
    if not isinstance(content, dict):
        raise DataInvalid(f'{source.name}: wanted a dict with "feats", got a {type(content).__name__}')
    return content


def _pooling(source: Path, modality: str) -> str:
    pool = _POOL.search(source.stem)
    pooling = _POOLING.get((modality, pool[1] or pool[2])) if pool else None
    if pooling is None:
        raise UsageError(
            f"{source.name}: its name does not tell the pooling of {modality} features. Name it as platonic-rep does: "
            "..._pool-avg.pt (mean over tokens), ..._pool-none.pt (last token of a text) or ..._pool-cls.pt (class "
            "token of an image)"
        )
    return pooling


def _matrix(source: Path, feats: Any, number: int, layer: str) -> Matrix:
    return stack([tensor_part(f"{source.name} ({layer})", feats[:, number])], layer)


def _scalar(value: Any) -> float | int | None:
    """A number or a tensor of one, for the provenance; None if it is something else or not finite."""
    if hasattr(value, "numel"):
        value = value.item() if value.numel() == 1 else None
    return value if isinstance(value, int | float) and np.isfinite(value) else None
