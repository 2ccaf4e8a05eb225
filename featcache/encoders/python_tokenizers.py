"""Tokenizers that exist in Python alone, one text at a time: slow ones of transformers, and open_clip's."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from blake3 import blake3


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text, as `tokenizers.Encoding` names them."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    special_tokens_mask: list[int]
    overflowing: list[Any]


@dataclass(frozen=True)
class SlowTokenizer:
    """A tokenizer of transformers that has no fast form."""

    tokenizer: Any
    longest: int  # tokens of a text, those included that it adds

    def encode(self, text: str) -> Encoding:
        """The tokens of a text; where they stand in it is not known."""
        ids = self.tokenizer(text, verbose=False).input_ids
        kept = self.tokenizer(text, truncation=True, max_length=self.longest).input_ids
        special = self.tokenizer.get_special_tokens_mask(kept, already_has_special_tokens=True)
        return Encoding(kept, [(0, len(text))] * len(kept), special, ids[len(kept) :])


@dataclass(frozen=True)
class OpenClipTokenizer:
    """open_clip's tokenizer of CLIP, one text at a time."""

    longest: int  # tokens of a text, start and end among them

    def encode(self, text: str) -> Encoding:
        """The tokens of a text between start and end; of a long one the first, and the end."""
        words = _clip_words()
        ids = words.encode(text)
        kept = ids[: self.longest - 2]
        return Encoding(
            ids=[words.sot_token_id, *kept, words.eot_token_id],
            offsets=[(0, 0), *[(0, len(text))] * len(kept), (0, 0)],
            special_tokens_mask=[1, *[0] * len(kept), 1],
            overflowing=ids[len(kept) :],
        )


def tokenizer_hash() -> str:
    """Hash of the words that open_clip's tokenizer of CLIP knows, hex."""
    from open_clip.tokenizer import default_bpe

    return blake3(Path(default_bpe()).read_bytes()).hexdigest()


@cache
def _clip_words() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
