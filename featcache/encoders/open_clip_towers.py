"""Pairs of towers of open_clip: built of a repository's settings, one tower run, and the tokenizer of texts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from blake3 import blake3
from torch import Tensor, nn

from featcache.encoders.weights import OPEN_CLIP_CONFIG
from featcache.errors import WeightsInvalid


def build_pair(folder: Path, *, device: str = "cpu") -> Any:
    """The network that a folder's open_clip_config.json states, with random weights.

    Args:
        folder: The folder; it may lack weights.
        device: Of its tensors; "meta" for a network that takes no memory.

    Raises:
        WeightsInvalid: If open_clip cannot build it.
    """
    import open_clip
    import torch

    try:
        with torch.device(device):
            return open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, device=device, pretrained_text=False, precision="fp32"
            )
    except Exception as error:  # whatever open_clip makes of settings that anybody may have written
        raise WeightsInvalid(f"open_clip cannot build what {folder}/{OPEN_CLIP_CONFIG} states: {error}") from error


def tower_run(network: Any, last_block: nn.Module, modality: str) -> Callable[[dict[str, Tensor]], Tensor]:
    """What runs one tower and gives what leaves its last block, [b, t, d].

    Args:
        network: The pair.
        last_block: Of the tower.
        modality: "image" or "text", of the tower.
    """

    def run(inputs: dict[str, Tensor]) -> Tensor:
        left: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            left.append(output)

        handle = last_block.register_forward_hook(keep)
        try:
            if modality == "image":
                network.encode_image(inputs["pixel_values"])
            else:
                network.encode_text(inputs["input_ids"])
        finally:
            handle.remove()
        return left[0]

    return run


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text, as `tokenizers.Encoding` names them."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    special_tokens_mask: list[int]
    overflowing: list[Any]


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
