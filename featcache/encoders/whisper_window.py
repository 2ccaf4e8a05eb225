"""The window of Whisper's encoder: how many seconds of a recording it sees, and so how many positions it has."""

from typing import Any

from torch import Tensor

from featcache.encoders.recordings import RATE
from featcache.encoders.spec import EncoderSpec
from featcache.errors import WeightsInvalid

POSITION = 320  # samples between positions: a frame each 160, of which the second convolution takes every other
_TABLE = "embed_positions.weight"


def whisper_positions(spec: EncoderSpec, config: Any) -> int:
    """Positions of the window that an entry declares, or of the network's own.

    Raises:
        WeightsInvalid: If the network has not so many.
    """
    whole = int(config.max_source_positions)
    window = spec.sound.window if spec.sound else None
    positions = whole if window is None else round(window * RATE / POSITION)
    if not 0 < positions <= whole:
        raise WeightsInvalid(
            f"{spec.name}: a window of {window:g} s takes {positions} positions, and the network has {whole}, "
            f"{whole * POSITION / RATE:g} s\n  Declare a window of no more in its entry"
        )
    return positions


def cut_positions(tensors: dict[str, Tensor], positions: int) -> dict[str, Tensor]:
    """A checkpoint's tensors with the first positions alone."""
    return {name: tensor[:positions].clone() if name == _TABLE else tensor for name, tensor in tensors.items()}
