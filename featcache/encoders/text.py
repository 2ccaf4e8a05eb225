"""Preprocessing of text: token ids, padded on the right and masked; and bits per byte of a causal language model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3
from torch import Tensor

from featcache.encoders.e5_file import E5_PAD, is_e5_file, read_e5_tokenizer
from featcache.encoders.pooling import Inputs, Positions
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.weights import TOKENIZER_FILES, WeightFiles
from featcache.errors import ExtractionFailed, WeightsInvalid

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from featcache.encoders.backbone import Backbone
    from featcache.encoders.open_clip_towers import OpenClipTokenizer


@dataclass(frozen=True, eq=False)
class Tokens:
    """One caption."""

    ids: Tensor  # [t] int64
    special: Tensor  # [t] true for tokens that the tokenizer added
    size: int  # UTF-8 bytes of the text that the tokens stand for: all of it, or what truncation left
    truncated: bool = False  # whether the text goes on behind the last token


@dataclass(frozen=True, eq=False)
class TextPreprocessor:
    """A tokenizer and what the digest binds of it."""

    # The fast tokenizer itself, with truncation set once: reading it from many threads is safe, where transformers'
    # wrapper sets truncation on every call.
    tokenizer: "Tokenizer | OpenClipTokenizer"
    pad_id: int  # fills the masked places; the end token where the model has no pad token
    max_tokens: int  # kept of a caption, those included that the tokenizer adds
    files: str  # hash of the tokenizer's files
    prefix: str = ""  # put before every text
    characters: Mapping[int, str] = field(default_factory=dict)  # code point -> what stands for it; part of the files
    pad_to: int | None = None  # tokens of every row; None: those of the longest
    reads_padding: bool = False  # as if it were text; else it is masked

    def binds(self) -> dict[str, Any]:
        """As `Preprocessor`."""
        return {
            "tokenizer": {
                "files": self.files,
                "max_tokens": self.max_tokens,
                "truncation": "right",
                "padding": f"right, read, to {self.pad_to}" if self.reads_padding else "right, masked",
                "special_tokens": True,
                **({"prefix": self.prefix} if self.prefix else {}),
            }
        }

    def prepare(self, item: str) -> Tokens:
        """Tokenizes one caption; ExtractionFailed if it has no tokens, or is not text."""
        try:
            size = len(item.encode())
        except (AttributeError, UnicodeEncodeError) as error:
            raise ExtractionFailed(f"not a text that UTF-8 can hold: {error}") from None
        text = item.translate(self.characters) if self.characters else item
        if self.prefix and not text.strip():
            raise ExtractionFailed(f"the text {item!r} is empty: it has no tokens")
        encoding = self.tokenizer.encode(self.prefix + text)
        ends = [
            end for (_, end), added in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not added
        ]
        if not ends:
            raise ExtractionFailed(f"the text {item!r} is empty: it has no tokens")
        truncated = bool(encoding.overflowing)
        if truncated:
            size = max(1, len(item[: max(ends)].encode()))
        return Tokens(torch.tensor(encoding.ids), torch.tensor(encoding.special_tokens_mask) == 1, size, truncated)

    @property
    def longest(self) -> int:
        """In tokens."""
        return self.max_tokens

    def cost(self, prepared: Tokens) -> int:
        """Number of tokens."""
        return len(prepared.ids)

    def flag(self, prepared: Tokens) -> str | None:
        """Whether it was cut at `max_tokens`."""
        return "truncated" if prepared.truncated else None

    def batches(self, prepared: Sequence[Tokens], device: str) -> list[Inputs]:
        """One batch of all rows, padded to the longest, or all to `pad_to`."""
        numbers = list(range(len(prepared)))
        lengths = torch.tensor([len(row.ids) for row in prepared])
        ids = torch.full((len(prepared), self.pad_to or int(lengths.max())), self.pad_id)
        for padded, row in zip(ids, prepared, strict=True):
            padded[: len(row.ids)] = row.ids
        if self.reads_padding:
            return [Inputs(numbers, {"input_ids": ids.to(device)}, Positions())]
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).to(device)
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.long()}
        return [Inputs(numbers, inputs, Positions(mask=mask))]

    def sample(self) -> Tokens:
        """One short caption."""
        return self.prepare("a photo of a red apple")


def load_text_preprocessor(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> TextPreprocessor:
    """The tokenizer that stands beside the weights; WeightsInvalid if the files give no fast one."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    if spec.library == "open_clip":
        from featcache.encoders.open_clip_towers import OpenClipTokenizer, tokenizer_hash

        longest = spec.max_tokens or 1
        # Its towers take whole contexts. Padded with 0: by the end token, the largest number, they find a row's end.
        return TextPreprocessor(OpenClipTokenizer(longest), 0, longest, tokenizer_hash(), pad_to=longest)
    paths = _tokenizer_files(files)
    longest = min(spec.max_tokens or 1, getattr(backbone.module.config, "max_position_embeddings", None) or 1 << 30)
    if is_e5_file(paths[0]):
        tokenizer, characters = read_e5_tokenizer(paths[0])
        tokenizer.enable_truncation(longest)
        return TextPreprocessor(tokenizer, E5_PAD, longest, _hash_contents(paths), spec.prefix, characters)
    folder = paths[0].parent
    extra = {"gguf_file": paths[0].name} if paths[0].suffix == ".gguf" else {}
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
    except (ValueError, OSError, KeyError) as error:
        raise WeightsInvalid(f"no tokenizer can be made of the files in {folder}: {error}") from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise WeightsInvalid(f"{folder} has only a slow tokenizer; a tokenizer.json is wanted")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    _check_same_tokens(loaded, tokenizer, folder)
    tokenizer.enable_truncation(longest)
    ids = [number for number in (loaded.pad_token_id, loaded.eos_token_id, 0) if number is not None]
    return TextPreprocessor(
        tokenizer, ids[0], longest, _hash_contents(paths), spec.prefix, {}, spec.pad_to, bool(spec.pad_to)
    )


_TRICKY = "Two   dogs, a café & the SEA: don't run! 3.5 <b>x</b> \u4e2d\u6587"


def _check_same_tokens(loaded: Any, tokenizer: "Tokenizer", folder: Path) -> None:
    """Refuses a tokenizer whose class does more to a text, in Python, than the fast tokenizer that is kept of it."""
    if loaded(_TRICKY).input_ids != tokenizer.encode(_TRICKY).ids:
        raise WeightsInvalid(
            f"{type(loaded).__name__} of {folder} changes texts before its fast tokenizer reads them, "
            "which featcache cannot repeat"
        )


def hash_tokenizer(files: WeightFiles) -> str:
    """Hash of the files that make the tokenizer, hex."""
    return _hash_contents(_tokenizer_files(files))


def _tokenizer_files(files: WeightFiles) -> list[Path]:
    return [path for path in files.settings if path.name in TOKENIZER_FILES] or [*files.tensors, *files.settings]


def _hash_contents(paths: list[Path]) -> str:
    hasher = blake3()
    for path in paths:
        content = path.read_bytes()
        hasher.update(f"{path.name}\0{len(content)}\0".encode())
        hasher.update(content)
    return hasher.hexdigest()


def bits_per_byte(last: Tensor, rows: Sequence[Tokens], head: torch.nn.Module, softcap: float | None) -> Tensor:
    """Code length of each row's text under a causal language model, in bits a UTF-8 byte; lower is better.

    A token after the first costs -log2 of its probability given those before. The first costs the same where the
    tokenizer puts a token before it, and log2 of the vocabulary's size, a uniform code, where it does not: so rows of
    one token have a finite length. Of a truncated text, the part that was kept is measured.

    Args:
        last: [b, t, d] the last hidden states.
        rows: The b rows.
        head: From hidden states to logits over the vocabulary.
        softcap: c in c * tanh(logits / c), where the model has one.

    Returns:
        [b, 1] float32.
    """
    totals: list[float] = []
    for hidden, row in zip(last, rows, strict=True):
        # One row at a time: a batch of logits over 50,000 words would be the largest tensor of the whole extraction.
        scored = ~row.special
        ids = row.ids.to(hidden.device)
        logits = head(hidden[: len(ids)]).float()
        if softcap:
            logits = torch.tanh(logits / softcap) * softcap
        log_probabilities = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        nats = -log_probabilities.cpu()[scored[1:]].double().sum().item()  # no float64 on MPS
        bits = nats / math.log(2)
        if scored[0]:
            bits += math.log2(logits.shape[-1])
        totals.append(bits / row.size)
    return torch.tensor(totals, dtype=torch.float32)[:, None]
