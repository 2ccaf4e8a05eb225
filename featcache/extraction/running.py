"""What an extraction needs of an encoder that is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.encoders.card import Card


class RunningEncoder(Protocol):
    """An encoder of an entry (`featcache.encoders.Encoder`), or one of the caller's own."""

    card: "Card"

    def prepare(self, item: Any) -> Any:
        """One decoded row to what `encode` takes; called from many threads."""
        ...

    def cost(self, prepared: Any) -> int:
        """Size of a prepared row, for sorting."""
        ...

    def flag(self, prepared: Any) -> str | None:
        """What of a prepared row deserves a look; None for nothing."""
        ...

    def encode(self, prepared: Sequence[Any], layers: Sequence[str]) -> "dict[str, Tensor]":
        """Features of prepared rows: name -> [b, d] float32 on the CPU."""
        ...

    def batch_size(self, available_bytes: int) -> int:
        """Rows that run together in so many bytes."""
        ...
