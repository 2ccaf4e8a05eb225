"""Pairs of towers of open_clip: built of a repository's settings, and one tower run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.encoders.weights import OPEN_CLIP_CONFIG
from featcache.errors import WeightsInvalid

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def tower_run(network: Any, last_block: "nn.Module", modality: str) -> "Callable[[dict[str, Tensor]], Tensor]":
    """What runs one tower and gives what leaves its last block, [b, t, d].

    Args:
        network: The pair.
        last_block: Of the tower.
        modality: "image" or "text", of the tower.
    """

    def run(inputs: "dict[str, Tensor]") -> "Tensor":
        left: list[Tensor] = []

        def keep(module: "nn.Module", args: tuple[Any, ...], output: Any) -> None:
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
