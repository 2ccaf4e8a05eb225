"""Preprocessing of text: token ids, padded on the right and masked; and bits per byte of a causal language model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from blake3 import blake3
from torch import Tensor

from featcache.encoders.e5_file import E5_PAD, is_e5_file, read_e5_tokenizer
from featcache.encoders.pooling import Inputs, Positions
from featcache.encoders.spec import EncoderSpec
from featcache.encoders.weights import TOKENIZER_FILES, WeightFiles
from featcache.errors import ExtractionFailed, WeightsInvalid, WeightsMissing
from featcache.notices import notice

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from featcache.encoders.backbone import Backbone
    from featcache.encoders.python_tokenizers import OpenClipTokenizer, SlowTokenizer


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
    tokenizer: "Tokenizer | SlowTokenizer | OpenClipTokenizer"
    pad_id: int  # fills the masked places; the end token where the model has no pad token
    max_tokens: int  # kept of a caption, those included that the tokenizer adds
    files: str  # hash of the tokenizer's files
    prefix: str = ""  # put before every text
    characters: Mapping[int, str] = field(default_factory=dict)  # code point -> what stands for it; part of the files
    pad_to: int | None = None  # tokens of every row; None: those of the longest
    reads_padding: Literal["left", "right"] | None = None  # the side of padding that is read like text; else masked

    def binds(self) -> dict[str, Any]:
        """As `Preprocessor`."""
        return {
            "tokenizer": {
                "files": self.files,
                "max_tokens": self.max_tokens,
                "truncation": "right",
                "padding": f"{self.reads_padding}, read, to {self.pad_to}" if self.reads_padding else "right, masked",
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
            start = len(padded) - len(row.ids) if self.reads_padding == "left" else 0
            padded[start : start + len(row.ids)] = row.ids
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
    if spec.library == "open_clip":
        from featcache.encoders.python_tokenizers import OpenClipTokenizer, tokenizer_hash

        longest = spec.max_tokens or 1
        # Its towers take whole contexts. Padded with 0: by the end token, the largest number, they find a row's end.
        return TextPreprocessor(OpenClipTokenizer(longest), 0, longest, tokenizer_hash(), pad_to=longest)
    paths = _tokenizer_files(files)
    longest = _longest(spec, backbone)
    if is_e5_file(paths[0]):
        tokenizer, characters = read_e5_tokenizer(paths[0])
        tokenizer.enable_truncation(longest)
        return TextPreprocessor(tokenizer, E5_PAD, longest, _hash_contents(paths), spec.prefix, characters)
    folder = paths[0].parent
    loaded = _load_tokenizer(paths[0])
    tokenizer = _tokenizer(loaded, spec, longest, folder)
    ids = [number for number in (loaded.pad_token_id, loaded.eos_token_id, 0) if number is not None]
    return TextPreprocessor(
        tokenizer,
        ids[0],
        longest,
        _hash_contents(paths),
        prefix=spec.prefix,
        pad_to=spec.pad_to,
        reads_padding=None if spec.pad_to is None else loaded.padding_side,
    )


def _longest(spec: EncoderSpec, backbone: "Backbone") -> int:
    """Tokens of a text: those of the entry, but no more than the network has positions."""
    wanted = spec.max_tokens or 1
    positions = getattr(backbone.module.config, "max_position_embeddings", None) or wanted
    if wanted > positions:
        notice(
            f"{spec.name}: max_tokens is {wanted:,} in its entry, and the network has {positions:,} positions: longer "
            "texts are cut there"
        )
    return min(wanted, positions)


def _load_tokenizer(file: Path) -> Any:
    """What transformers makes of the files beside this one, or of this GGUF file."""
    from transformers import AutoTokenizer

    folder, extra = file.parent, {"gguf_file": file.name} if file.suffix == ".gguf" else {}
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
    except ImportError as error:
        package = "sentencepiece" if "SentencePiece" in str(error) else "transformers"
        raise WeightsMissing(
            f"the tokenizer in {folder} needs a library that is not installed\n  Run: pip install --upgrade {package}"
        ) from error
    except (ValueError, OSError, KeyError) as error:
        raise WeightsInvalid(f"no tokenizer can be made of the files in {folder}: {error}") from error


_TRICKY = (
    "Two   dogs, a caf\u00e9 & the SEA: don't run! 3.5 <b>x</b> \u4e2d\u6587",
    "  it's (a) STRA\u00dfE\t\u2013 no_1 #tag.\n",
    "a photo of a red apple",
)


def _tokenizer(loaded: Any, spec: EncoderSpec, longest: int, folder: Path) -> "Tokenizer | SlowTokenizer":
    """A tokenizer's fast form, or where it has none the tokenizer itself, which is slower.

    Raises:
        WeightsInvalid: If it does more to a text, in Python, than its fast form; or bits per byte are wanted of a slow
            one, which does not say which bytes a cut text has kept.
    """
    from tokenizers import Tokenizer

    from featcache.encoders.python_tokenizers import SlowTokenizer

    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        if spec.bits_per_byte:
            raise WeightsInvalid(f"{folder} has only a slow tokenizer; for bits per byte a tokenizer.json is wanted")
        return SlowTokenizer(loaded, longest)
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if any(loaded(text, verbose=False).input_ids != tokenizer.encode(text).ids for text in _TRICKY):
        raise WeightsInvalid(
            f"{type(loaded).__name__} of {folder} does more to a text than its fast tokenizer, "
            "which featcache cannot repeat"
        )
    tokenizer.enable_truncation(longest)
    return tokenizer


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
